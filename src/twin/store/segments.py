"""The journal's files: how a segment is named, what stands in it, how it is read back.

A segment is one preallocated file that one process writes, frame after frame. Its name ends in an
epoch, a random number that every frame in it begins with and that seeds every checksum: what is
left from the file's earlier use as another segment is never taken for a frame of this one. Owns the
format, reading and recovery; `journal` writes, `ingest` decides when a segment is done with.
"""

import fcntl
import os
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from twin.errors import StoreTooNew

MAGIC = b"TWINJRNL"
VERSION = 1
HEADER_BYTES = 64
"""Magic, version and epoch, for people and for later versions; at CURSOR, how far it is read."""
FRAME = struct.Struct("<III")
"""Epoch, length of the payload, CRC-32 of the payload seeded with the epoch. A length of 0 is the
mark that the writer has closed the segment."""

_HEAD = struct.Struct("<8sII")  # Followed by its own CRC-32.
_CURSOR = struct.Struct("<QI")
_CURSOR_AT = 32
_NAME = re.compile(r"[0-9a-f]{16}-\d+-\d{8}-([0-9a-f]{8})\.journal")
_CHUNK = 1_000_000


@dataclass(frozen=True, slots=True)
class Frame:
    """One payload, and the positions in its segment where its frame begins and ends."""

    payload: memoryview
    start: int
    end: int


def name_of(writer: str, number: int, epoch: int) -> str:
    """Sorts by writer, then by number. `writer` is its start in nanoseconds and its process id."""
    return f"{writer}-{number:08d}-{epoch:08x}.journal"


def new_epoch() -> int:
    """Never 0, which is what an unwritten part of a file looks like."""
    return int.from_bytes(os.urandom(4), "little") or 1


def head(epoch: int) -> bytes:
    """The bytes that a segment begins with; nothing of it is read yet."""
    told = _HEAD.pack(MAGIC, VERSION, epoch)
    return (told + zlib.crc32(told).to_bytes(4, "little")).ljust(HEADER_BYTES, b"\0")


def closing_mark(epoch: int) -> bytes:
    return FRAME.pack(epoch, 0, zlib.crc32(b"", epoch))


def in_folder(folder: Path) -> list[Path]:
    """The segments that hold, or will hold, frames; of each writer the oldest first."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return [folder / name for name in sorted(names) if _NAME.fullmatch(name)]


def held(path: Path, handle: int) -> bool:
    """Takes the file for this process alone; False where another has it or it is no longer there.

    Without the second look a file could be taken that was renamed or deleted in the meantime.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except OSError:
        return False


class Segment:
    """One segment, open for reading."""

    def __init__(self, path: Path) -> None:
        """Raises FileNotFoundError where it was recycled meanwhile, StoreTooNew where a newer
        version of this program wrote it."""
        match = _NAME.fullmatch(path.name)
        assert match is not None, f"{path.name} is no segment"
        self.path = path
        # The name, not the header: a damaged header then costs nothing.
        self._epoch = int(match[1], 16)
        self._handle = os.open(path, os.O_RDWR)
        self.num_bytes = os.fstat(self._handle).st_size
        try:
            self._refuse_newer()
        except StoreTooNew:
            self.close()
            raise

    def close(self) -> None:
        os.close(self._handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def writer_is_gone(self) -> bool:
        """Whether nobody writes it any more; if so, it is held by this process until closed."""
        return held(self.path, self._handle)

    def cursor(self) -> int:
        """Where reading goes on."""
        stored = os.pread(self._handle, _CURSOR.size, _CURSOR_AT).ljust(_CURSOR.size, b"\0")
        position, check = _CURSOR.unpack(stored)
        return int(position) if position and check == self._cursor_check(position) else HEADER_BYTES

    def move_cursor(self, position: int) -> None:
        """Remembers, in the segment itself, that everything before `position` is dealt with.

        Not flushed: after a power cut the same frames may be read again, never fewer.
        """
        stored = _CURSOR.pack(position, self._cursor_check(position))
        os.pwrite(self._handle, stored, _CURSOR_AT)

    def frames(self, position: int) -> Iterator[Frame]:
        """Every frame from `position` on, up to the first place where none can be read."""
        base = position
        chunk = self._read(position, FRAME.size)  # Most often nothing new is there.
        while True:
            frame = self._frame(chunk, base, position)
            if frame is not None:
                yield frame
                position = frame.end
                continue
            needed = self._needed(chunk, base, position)
            if needed <= len(chunk) - (position - base):
                return
            base = position
            chunk = self._read(position, max(needed, _CHUNK))
            if len(chunk) < needed:
                return

    def is_closed_at(self, position: int) -> bool:
        """Whether the writer has left its closing mark there."""
        return os.pread(self._handle, FRAME.size, position) == closing_mark(self._epoch)

    def next_frame(self, position: int) -> int | None:
        """Where the next whole frame or the closing mark begins, at or after `position`; None
        where nothing more can be read. Looks at every byte: for segments that nobody writes."""
        mark = self._epoch.to_bytes(4, "little")
        data = memoryview(self._read(position, max(0, self.num_bytes - position)))
        raw = bytes(data)
        found = raw.find(mark)
        while found >= 0:
            if self._frame(data, 0, found) is not None or self.is_closed_at(position + found):
                return position + found
            found = raw.find(mark, found + 1)
        return None

    def extent(self, position: int) -> int:
        """Where the frames end that can be reached from `position`, without a look at payloads."""
        while True:
            here = os.pread(self._handle, FRAME.size, position)
            if len(here) < FRAME.size:
                return position
            epoch, length, _ = FRAME.unpack(here)
            if epoch != self._epoch or not length:
                return position
            position += FRAME.size + length

    def _refuse_newer(self) -> None:
        header = os.pread(self._handle, _HEAD.size + 4, 0)
        told, check = header[: _HEAD.size], header[_HEAD.size :]
        if len(check) < 4 or zlib.crc32(told) != int.from_bytes(check, "little"):
            return  # Damaged: what follows it can be read all the same.
        magic, version, _ = _HEAD.unpack(told)
        if magic == MAGIC and version > VERSION:
            raise StoreTooNew(
                f"The journal {self.path} was written by a newer version of this program. Run that "
                "version once more, so that it moves its records into the store."
            )

    def _cursor_check(self, position: int) -> int:
        return zlib.crc32(position.to_bytes(8, "little"), self._epoch)

    def _read(self, position: int, num_bytes: int) -> memoryview:
        return memoryview(os.pread(self._handle, num_bytes, position))

    def _needed(self, chunk: memoryview, base: int, position: int) -> int:
        """How many bytes from `position` on must be at hand to judge what is there."""
        at = position - base
        if len(chunk) - at < FRAME.size:
            return FRAME.size
        epoch, length, _ = FRAME.unpack_from(chunk, at)
        whole = FRAME.size + length
        if epoch != self._epoch or position + whole > self.num_bytes:
            return 0
        return int(whole)

    def _frame(self, chunk: memoryview, base: int, position: int) -> Frame | None:
        at = position - base
        if len(chunk) - at < FRAME.size:
            return None
        epoch, length, check = FRAME.unpack_from(chunk, at)
        begin = at + FRAME.size
        if epoch != self._epoch or not length or len(chunk) - begin < length:
            return None
        payload = chunk[begin : begin + length]
        if zlib.crc32(payload, epoch) != check:
            return None
        return Frame(payload, position, position + FRAME.size + length)


def read_frames(folder: Path) -> Iterator[bytes]:
    """Every payload that can be read in the folder, whether it was read before or not: for
    recovery by hand, and for tests. Changes nothing."""
    for path in in_folder(folder):
        with suppress(FileNotFoundError), Segment(path) as segment:
            position: int | None = HEADER_BYTES
            while position is not None:
                for frame in segment.frames(position):
                    yield bytes(frame.payload)
                    position = frame.end
                if segment.is_closed_at(position):
                    break
                position = segment.next_frame(position)
