"""A folder that is complete or absent: made beside its place, and moved there at the end.

Whoever makes one holds a lock on it, so what a `kill -9` left behind is known, and is removed by
the next who makes the same folder.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from twin.errors import UsageError


@contextlib.contextmanager
def draft_of(folder: Path, cure: str) -> Iterator[Path]:
    """An empty folder that becomes `folder`, unless something is raised meanwhile.

    Raises UsageError with a `cure` where something is there already, also if somebody else was
    faster.
    """
    taken = UsageError(f"{folder} is there already. {cure}")
    if os.path.lexists(folder):
        raise taken
    _remove_abandoned(folder)
    draft = folder.with_name(f".{folder.name}.making-{os.getpid()}")
    draft.mkdir(parents=True)
    held = os.open(draft, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield draft
        try:
            os.rename(draft, folder)
        except OSError as error:
            if folder.is_dir():
                raise taken from error
            raise
    finally:
        os.close(held)
        shutil.rmtree(draft, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    for draft in folder.parent.glob(f".{folder.name}.making-*"):
        with contextlib.suppress(OSError):  # another one's, or gone meanwhile
            held = os.open(draft, os.O_RDONLY)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(draft, ignore_errors=True)
            finally:
                os.close(held)
