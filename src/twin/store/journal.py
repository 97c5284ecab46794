"""The journal: where the gateway leaves its records before they are in the database.

Appending is a copy into the page cache of a file whose blocks are there already, so that it costs
microseconds, goes on while the database is slow or locked, and outlives a killed process. Owns
writing; `segments` knows the format, `ingest` moves what is written here into the store.
"""

import errno
import fcntl
import os
import threading
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from twin.store import faults, segments
from twin.store.segments import FRAME, HEADER_BYTES

SEGMENT_BYTES = 16_000_000
"""Large enough that a new one is rare (16,000 small calls), small enough that the few that are
kept for use again stay in the page cache: a copy into them costs a third of one into new blocks."""
_MAX_BUFFERS = 1_000  # Below the operating system's IOV_MAX, 1,024.


class Journal:
    """The writing side; one per process. Only `sync` may be called from another thread."""

    def __init__(self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Makes the folder and takes the first segment. Raises StoreFull and its kin."""
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._writer = f"{time.time_ns():016x}-{os.getpid()}"
        self._number = 0
        self._handles = threading.Lock()
        self._unsynced: list[int] = []
        self._syncs = False
        self._let_go = False
        self._has_new_name = False
        self._handle = -1
        self.num_bytes = 0
        """Appended so far."""
        try:
            # Prompts and answers: nobody else's business.
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise faults.of_disk(error, str(folder)) from error
        self._rotate(0)

    def append(self, frames: Sequence[bytes]) -> None:
        """Writes payloads, all in one piece; when it returns, a killed process loses none.

        None may be empty. Raises StoreFull where there is no room, and StoreError where the disk
        fails; nothing of the payloads stays then, and later ones can still be appended.
        """
        epoch = self._epoch
        pack = FRAME.pack
        crc32 = zlib.crc32
        buffers: list[bytes] = []
        num_bytes = 0
        for frame in frames:
            num_bytes += len(frame)
            buffers.append(pack(epoch, len(frame), crc32(frame, epoch)))
            buffers.append(frame)
        num_bytes += FRAME.size * len(frames)
        if self._position + num_bytes > self._room:
            self._rotate(num_bytes)
            self.append(frames)  # Again from the start: the new segment's epoch seeds each sum.
            return
        try:
            self._write(buffers, num_bytes)
        except OSError as error:
            self._unwrite()
            raise faults.of_disk(error, str(self._folder)) from error
        self._position += num_bytes
        self.num_bytes += num_bytes

    def sync(self) -> None:
        """Waits until everything appended before the call survives a power cut."""
        with self._handles:
            retired, self._unsynced = self._unsynced, []
            new_name, self._has_new_name = self._has_new_name, False
            if self._let_go:  # Segments were filled before anybody asked for this.
                os.sync()
            self._syncs, self._let_go = True, False
            current = os.dup(self._handle)
        try:
            for handle in (*retired, current):
                _flush(handle)
            if new_name:
                _flush_folder(self._folder)
        except OSError as error:
            self._has_new_name |= new_name
            raise faults.of_disk(error, str(self._folder)) from error
        finally:
            for handle in (*retired, current):
                os.close(handle)

    def close(self) -> None:
        """Marks the segment as complete; without it a reader finds out by itself, later."""
        if self._handle >= 0:
            self._retire()
            for handle in self._unsynced:
                os.close(handle)
            self._unsynced, self._handle = [], -1

    def _write(self, buffers: list[bytes], num_bytes: int) -> None:
        position = self._position
        if len(buffers) <= _MAX_BUFFERS:
            written = os.pwritev(self._handle, buffers, position)
            if written == num_bytes:
                return
        data = memoryview(b"".join(buffers))
        done = 0
        while done < num_bytes:
            done += os.pwrite(self._handle, data[done:], position + done)

    def _unwrite(self) -> None:
        """Takes back the beginning of what was not written whole: nothing after it is read."""
        with suppress(OSError):  # Then the beginning could not be written either.
            os.pwrite(self._handle, bytes(FRAME.size), self._position)

    def _rotate(self, num_bytes: int) -> None:
        """Goes on in another segment with room for `num_bytes`. The present one stays in use where
        none can be had."""
        # At the end there is always room for the closing mark.
        size = max(self._segment_bytes, HEADER_BYTES + num_bytes + FRAME.size)
        epoch = segments.new_epoch()
        path = self._folder / segments.name_of(self._writer, self._number, epoch)
        try:
            handle = self._recycled(path, epoch, size)
            if handle is None:
                handle = self._made(path, epoch, size)
        except OSError as error:
            raise faults.of_disk(error, str(self._folder)) from error
        if self._handle >= 0:
            self._retire()
        with self._handles:
            self._handle, self._epoch = handle, epoch
            self._has_new_name = True
        self._number += 1
        self._position = HEADER_BYTES
        self._room = os.fstat(handle).st_size - FRAME.size

    def _recycled(self, path: Path, epoch: int, size: int) -> int | None:
        """A segment that was read to its end, under its new name."""
        for spare in self._folder.glob("*.free"):
            try:
                handle = os.open(spare, os.O_RDWR)
            except OSError:
                continue  # Another writer was faster.
            try:
                if segments.held(spare, handle) and os.fstat(handle).st_size >= size:
                    os.pwrite(handle, segments.head(epoch), 0)
                    os.rename(spare, path)
                    return handle
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)
        return None

    def _made(self, path: Path, epoch: int, size: int) -> int:
        """A new file. It has its name only once it is whole and held: a reader that finds a segment
        which nobody holds takes its writer for dead."""
        unfinished = path.with_suffix(".new")
        handle = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            if not segments.held(unfinished, handle):
                raise OSError(errno.ENOLCK, "locks do not work there")
            _reserve(handle, size)
            os.pwrite(handle, segments.head(epoch), 0)
            os.rename(unfinished, path)
        except BaseException:
            os.close(handle)
            unfinished.unlink(missing_ok=True)
            raise
        return handle

    def _retire(self) -> None:
        """Leaves the segment to its reader."""
        with suppress(OSError):  # Only a mark: a reader finds out that nobody holds the segment.
            os.pwrite(self._handle, segments.closing_mark(self._epoch), self._position)
        fcntl.flock(self._handle, fcntl.LOCK_UN)
        with self._handles:
            if self._syncs:
                self._unsynced.append(self._handle)
            else:
                os.close(self._handle)
                self._let_go = True


def _reserve(handle: int, size: int) -> None:
    """Gives the file its blocks now, so that a full disk shows here and not in an append."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)
        return
    zeros = bytes(1_000_000)  # macOS
    for position in range(0, size, len(zeros)):
        os.pwrite(handle, zeros[: size - position], position)


def _flush(handle: int) -> None:
    # macOS has no fdatasync.
    getattr(os, "fdatasync", os.fsync)(handle)


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
