"""Onto the disk, before the next step counts on it: a rename may outlive a power cut that the bytes
before it do not. Owns the two calls; which files, and in which order, is their callers' business.
"""

import os
from pathlib import Path


def write(path: Path, data: bytes) -> None:
    """The whole file, on disk when this returns."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def flush(path: Path) -> None:
    """What was written to a file, or renamed within a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
