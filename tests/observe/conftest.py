"""Histories whose commits have tests, and a validator for them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.coding.conftest import World

from twin.coding.git import GitRepository
from twin.coding.history import read_history
from twin.coding.sandbox.cell import Sandbox, open_sandbox
from twin.coding.testing.results import TestEnvironment
from twin.observe.validate import Validator
from twin.records import Validation


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "world")


@pytest.fixture(scope="session")
def sandbox() -> Sandbox:
    return open_sandbox()


@pytest.fixture
def validated(
    world: World, sandbox: Sandbox, small_environment: TestEnvironment
) -> Callable[..., Validation]:
    """Validates the newest commit of the world."""

    def validate(**how: object) -> Validation:
        with GitRepository.open(world.root) as repository:
            *_, newest = read_history(repository)
            return Validator(repository, sandbox, small_environment, **how).validate(newest)  # type: ignore[arg-type]

    return validate
