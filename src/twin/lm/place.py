"""The folder that a run writes into: who may write there, and what an earlier run left.

Owns the lock that is held for the length of a run, and that nothing finished is overwritten unless
that is asked for. What the files mean is the business of `checkpoint`, `snapshot` and `metrics`.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from twin.lm.checkpoint import FILES, MANIFEST, is_checkpoint
from twin.lm.errors import BadConfig

SNAPSHOT: Final = "training.safetensors"
LOCK: Final = ".training.lock"
TEACHERS: Final = "teachers"
"""Of a model that trained its own."""
SCHOOL: Final = f"{TEACHERS}/school.json"


@contextmanager
def claimed(folder: Path, *, doing: str = "trains") -> Iterator[None]:
    """Makes the folder, and holds it against other processes until the end, however that comes: the
    lock is the kernel's. Raises BadConfig where another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadConfig(
                f"Another process {doing} {folder.name} at this moment. Wait until it ends, or "
                "choose another name with `--out`."
            ) from None
        yield
    finally:
        os.close(handle)


def check_free(folder: Path) -> None:
    """Raises BadConfig where a model or a run that can go on would be overwritten."""
    if is_checkpoint(folder) or any((folder / name).is_file() for name in (SNAPSHOT, SCHOOL)):
        raise BadConfig(
            f"{folder.name} is there already. Go on with its run by `--resume`, replace it by "
            "`--force`, or choose another name with `--out`."
        )


def vacate(folder: Path, *, force: bool) -> None:
    """Removes what an earlier run left, the manifest first: from then on it is no model. For who
    has claimed the folder. Raises BadConfig as `check_free` does, unless `force`: another run may
    have ended since it was asked."""
    if not force:
        check_free(folder)
    beside = (f".{name}.new" for name in (MANIFEST, *FILES))
    for name in (MANIFEST, *FILES, *beside, SNAPSHOT, SCHOOL):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / TEACHERS, ignore_errors=True)
