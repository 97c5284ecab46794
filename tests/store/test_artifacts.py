"""Files named by what is in them."""

import hashlib
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twin.errors import StoreCorrupt, StoreError, StoreFull
from twin.store.artifacts import Artifacts

MISSING = "0" * 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "artifacts"


@pytest.fixture
def artifacts(folder: Path) -> Artifacts:
    return Artifacts(folder)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary())
def test_what_was_put_is_got_by_its_sha256(artifacts: Artifacts, data: bytes) -> None:
    digest = artifacts.put(data)
    assert digest == hashlib.sha256(data).hexdigest()
    assert artifacts.get(digest) == data
    assert artifacts.path(digest).read_bytes() == data


def test_putting_twice_writes_once(artifacts: Artifacts) -> None:
    digest = artifacts.put(b"model")
    before = artifacts.path(digest).stat()
    assert artifacts.put(b"model") == digest
    assert artifacts.path(digest).stat().st_mtime_ns == before.st_mtime_ns


def test_an_altered_file_is_refused_by_name(artifacts: Artifacts) -> None:
    digest = artifacts.put(b"model")
    artifacts.path(digest).write_bytes(b"mode!")
    with pytest.raises(StoreCorrupt, match=f"{digest} is damaged.*twin improve"):
        artifacts.get(digest)


def test_putting_again_repairs_an_altered_file(artifacts: Artifacts) -> None:
    digest = artifacts.put(b"model")
    artifacts.path(digest).write_bytes(b"")
    artifacts.put(b"model")
    assert artifacts.get(digest) == b"model"


def test_a_missing_file_is_refused_by_name(artifacts: Artifacts) -> None:
    with pytest.raises(StoreCorrupt, match=f"{MISSING} is missing"):
        artifacts.get(MISSING)


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_a_name_that_is_no_digest_reaches_no_file(artifacts: Artifacts, digest: str) -> None:
    with pytest.raises(ValueError, match="not a SHA-256"):
        artifacts.get(digest)


def test_writers_of_the_same_content_do_not_disturb_one_another(
    artifacts: Artifacts, folder: Path
) -> None:
    data = os.urandom(200_000)
    digests: list[str] = []
    threads = [threading.Thread(target=lambda: digests.append(artifacts.put(data))) for _ in "1234"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert digests == [hashlib.sha256(data).hexdigest()] * 4
    assert [path.name for path in folder.iterdir()] == [digests[0]]
    assert artifacts.get(digests[0]) == data


@pytest.fixture
def no_space() -> Iterator[None]:
    """The system refuses to write more than 64 KiB into any one file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("no_space")
def test_without_space_nothing_is_half_written(artifacts: Artifacts, folder: Path) -> None:
    with pytest.raises(StoreFull, match=r"no space left.*Free some space"):
        artifacts.put(bytes(1_000_000))
    assert list(folder.iterdir()) == []


def test_a_file_in_the_folders_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "artifacts").write_text("not a folder")
    with pytest.raises(StoreError, match=r"artifacts.*a file is in its way"):
        Artifacts(tmp_path / "artifacts").put(b"model")


def test_what_a_dead_writer_left_is_swept_after_a_day(artifacts: Artifacts, folder: Path) -> None:
    folder.mkdir()
    dead, busy = folder / ".unfinished-dead", folder / ".unfinished-busy"
    for path in (dead, busy):
        path.write_bytes(b"half")
    os.utime(dead, (0, 0))
    artifacts.put(b"model")
    assert not dead.exists()
    assert busy.exists()
