"""What databases and disks raise becomes one sentence with a cure, or passes unchanged."""

import errno
import sqlite3
from contextlib import closing

import pytest

from twin.errors import MissingRequirement, StoreCorrupt, StoreError, StoreFull, StoreLocked
from twin.store.faults import of_disk, translated

PLACE = "/home/ann/repo/.twin/twin.db"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("SQLITE_BUSY", StoreLocked),
        ("SQLITE_BUSY_SNAPSHOT", StoreLocked),
        ("SQLITE_LOCKED_SHAREDCACHE", StoreLocked),
        ("SQLITE_CORRUPT_INDEX", StoreCorrupt),
        ("SQLITE_NOTADB", StoreCorrupt),
        ("SQLITE_FULL", StoreFull),
        ("SQLITE_IOERR_SHMSIZE", StoreFull),
        ("SQLITE_IOERR_WRITE", StoreError),
        ("SQLITE_CANTOPEN_ISDIR", MissingRequirement),
        ("SQLITE_READONLY_DIRECTORY", MissingRequirement),
    ],
)
def test_each_kind_of_sqlite_failure_has_its_error(code: str, kind: type[Exception]) -> None:
    failure = sqlite3.OperationalError("told by SQLite")
    failure.sqlite_errorname = code
    with pytest.raises(kind, match=PLACE) as caught, translated(PLACE):
        raise failure
    assert type(caught.value) is kind
    assert caught.value.__cause__ is failure


def test_a_fault_of_this_program_passes_unchanged() -> None:
    with (
        closing(sqlite3.connect(":memory:")) as connection,
        pytest.raises(sqlite3.OperationalError, match="no such column"),
        translated(PLACE),
    ):
        connection.execute("SELECT missing")


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, StoreFull),
        (errno.EDQUOT, StoreFull),
        (errno.EACCES, MissingRequirement),
        (errno.EROFS, MissingRequirement),
        (errno.ENOTDIR, StoreError),
        (errno.EIO, StoreError),
    ],
)
def test_each_kind_of_disk_failure_has_its_error(number: int, kind: type[Exception]) -> None:
    error = of_disk(OSError(number, "told by the system"), PLACE)
    assert type(error) is kind
    assert PLACE in str(error)
    assert str(error).endswith(".")
