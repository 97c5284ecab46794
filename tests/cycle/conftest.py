"""A store of its own for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from twin.store.database import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    (tmp_path / "here").mkdir()
    with open_store(tmp_path / "here") as store:
        yield store
