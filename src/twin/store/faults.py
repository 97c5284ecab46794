"""Turns what databases and disks raise into the project's errors: one sentence each, with its cure.

The only place that knows the codes of SQLite, PostgreSQL and the operating system. What it does not
know (a broken statement, a broken constraint) is a fault of this program and passes unchanged.
"""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    StatementError,
    TimeoutError,
)

from twin.errors import (
    MissingRequirement,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreLocked,
    TwinError,
)

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_PERMISSION = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Raises the project's error for a database error inside; `place` names the store."""
    try:
        yield
    except DBAPIError as error:
        known = _of_database(error.orig, place)
        if known is None:
            raise
        raise known from error
    except sqlite3.Error as error:
        known = _of_sqlite(error, place)
        if known is None:
            raise
        raise known from error
    except TimeoutError as error:
        raise _locked(place) from error
    except Exception as error:
        # PostgreSQL's driver itself, which COPY is spoken with.
        known = _of_database(error, place)
        if known is None:
            raise
        raise known from error


def is_of_data(error: Exception) -> bool:
    """Whether a value that was to be stored is at fault, and not the store: a number or text that
    the database cannot hold. What says so is never translated."""
    if isinstance(error, DBAPIError):
        state = getattr(error.orig, "sqlstate", None)
        return isinstance(error, DataError | IntegrityError) or _is_data(state)
    # What Python and SQLite's driver say of a value; PostgreSQL's driver has `sqlstate`.
    kinds = (
        ArithmeticError, ValueError, TypeError, StatementError,
        sqlite3.DataError, sqlite3.IntegrityError,
    )  # fmt: skip
    return isinstance(error, kinds) or _is_data(getattr(error, "sqlstate", None))


def _is_data(state: str | None) -> bool:
    return state is not None and state.startswith(("22", "23", "54"))


def of_disk(error: OSError, place: str) -> TwinError:
    """The project's error for a failure to read or write a file of the store."""
    if error.errno in _NO_SPACE:
        return _full(place)
    if error.errno in _NO_PERMISSION:
        return _not_writable(place)
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return StoreError(
            f"{place} cannot be a folder of the store: a file is in its way. Move that file away."
        )
    return StoreError(
        f"The store at {place} cannot be used: {error.strerror or error}. Check that path."
    )


def _of_database(error: BaseException | None, place: str) -> TwinError | None:
    if isinstance(error, sqlite3.Error):
        return _of_sqlite(error, place)
    if error is not None and hasattr(error, "sqlstate"):
        return _of_postgresql(error, place)
    return None


def _of_sqlite(error: sqlite3.Error, place: str) -> TwinError | None:
    # Set for what SQLite itself says; "NOTADB", "IOERR_WRITE" ... are names of its result codes.
    name = getattr(error, "sqlite_errorname", None) or ""
    name = name.removeprefix("SQLITE_")
    primary = name.split("_")[0]
    if primary in ("BUSY", "LOCKED"):
        return _locked(place)
    if primary in ("CORRUPT", "NOTADB"):
        return _corrupt(place)
    # SHMSIZE: the file next to a WAL could not grow, which a full disk alone prevents.
    if primary == "FULL" or name == "IOERR_SHMSIZE":
        return _full(place)
    if primary in ("READONLY", "CANTOPEN", "PERM", "AUTH"):
        return _not_writable(place)
    if primary in ("IOERR", "PROTOCOL", "NOLFS"):
        return StoreError(
            f"The disk under {place} does not work as SQLite needs it ({name}). Check that it has "
            "space and is a local disk, or set `store.url` to a PostgreSQL database."
        )
    return None


def _of_postgresql(error: BaseException, place: str) -> TwinError | None:
    state = getattr(error, "sqlstate", None)
    said = (str(error).strip().splitlines() or ["no answer"])[0]
    if state is None or state.startswith(("08", "28", "3D", "53300", "57P")):
        return StoreError(
            f"PostgreSQL at {place} does not answer: {said}. Start it, or correct `store.url`."
        )
    if state in ("55P03", "40P01"):
        return _locked(place)
    if state in ("53100", "53200"):
        return _full(place)
    if state == "42501":
        return MissingRequirement(
            f"PostgreSQL at {place} refuses: {said}. Grant that user CREATE and all rights on the "
            "schema, or name another database in `store.url`."
        )
    if state.startswith(("XX001", "XX002", "58P01")):
        return _corrupt(place)
    return None


def _locked(place: str) -> StoreLocked:
    return StoreLocked(
        f"Another process keeps the store {place} locked. Let it finish, or stop it, then repeat "
        "the command."
    )


def _corrupt(place: str) -> StoreCorrupt:
    return StoreCorrupt(
        f"The store {place} is damaged. Restore it from a copy, or move it away (with its `-wal` "
        "and `-shm` files): `twin improve` makes a new one from the repository; only the log and "
        "the registry of the old one are lost."
    )


def _full(place: str) -> StoreFull:
    return StoreFull(
        f"There is no space left for {place}; nothing was half-written. Free some space, then "
        "repeat the command."
    )


def _not_writable(place: str) -> MissingRequirement:
    return MissingRequirement(
        f"{place} cannot be written. Make it a file, in a folder, that this user may write, or set "
        "`store.url` to a PostgreSQL database."
    )
