"""Files named by what is in them: models and data sets, in `.twin/artifacts`.

A file is complete or absent, never in between, and its name proves its content. Two writers of the
same content write the same file, so neither has to wait.
"""

import hashlib
import os
import re
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from twin.errors import StoreCorrupt
from twin.store import faults

_DIGEST = re.compile("[0-9a-f]{64}")
_UNFINISHED = ".unfinished-"
_ABANDONED_AFTER_S = 24 * 3600
"""A writer that takes longer than a day is dead; its unfinished file is swept by the next one."""


class Artifacts:
    """Content-addressed files in one folder, which is made when the first is put."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, data: bytes) -> str:
        """Stores `data` and returns its SHA-256 as 64 hexadecimal digits.

        Durable on return, also through a power cut. Raises StoreFull or MissingRequirement where
        the disk refuses; nothing is half-written then.
        """
        digest = hashlib.sha256(data).hexdigest()
        path = self.path(digest)
        try:
            if not _holds(path, digest):
                self._folder.mkdir(parents=True, exist_ok=True)
                self._sweep()
                _write(path, data)
        except OSError as error:
            raise faults.of_disk(error, str(self._folder)) from error
        return digest

    def get(self, digest: str) -> bytes:
        """The content named `digest`. Raises StoreCorrupt where it is missing or altered."""
        path = self.path(digest)
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise StoreCorrupt(
                f"The artefact {path} is missing. Restore it from a copy, or run `twin improve` to "
                "make a new one."
            ) from error
        except OSError as error:
            raise faults.of_disk(error, str(path)) from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise StoreCorrupt(
                f"The artefact {path} is damaged: its content does not match its name. Restore it "
                "from a copy, or move it away and run `twin improve` to make a new one."
            )
        return data

    def path(self, digest: str) -> Path:
        """Where the content named `digest` is, or would be."""
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"{digest!r} is not a SHA-256 digest in lower-case hexadecimal.")
        return self._folder / digest

    def _sweep(self) -> None:
        oldest = time.time() - _ABANDONED_AFTER_S
        for path in self._folder.glob(f"{_UNFINISHED}*"):
            with suppress(FileNotFoundError):  # Another writer sweeps as well.
                if path.stat().st_mtime < oldest:
                    path.unlink()


def _holds(path: Path, digest: str) -> bool:
    """Whether it is there already and whole; a damaged file is written again."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == digest
    except FileNotFoundError:
        return False


def _write(path: Path, data: bytes) -> None:
    """Unfinished file, flushed, renamed, folder flushed: each step needs the one before."""
    handle, unfinished = tempfile.mkstemp(prefix=_UNFINISHED, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(unfinished).chmod(0o644)  # mkstemp gives the owner alone access.
        os.replace(unfinished, path)
    except BaseException:  # Ctrl-C as well must leave nothing behind.
        with suppress(OSError):
            os.unlink(unfinished)
        raise
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
