"""Moves what lies in the journal into the store: in order, in large transactions, exactly once.

Owns which segments are done with and what becomes of them: used again, deleted, or kept aside where
damaged. An entry that the store will never take is put aside as well and never blocks the others.
Any process may do this at any time; one at a time does.
"""

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from twin.records import Entry
from twin.store import faults, segments, traffic
from twin.store.database import Store
from twin.store.segments import Frame, Segment

MAX_ENTRIES = 1_000
MAX_BYTES = 8_000_000
"""Of one transaction: what a writer of something else waits for, and what is held in memory."""
NUM_SPARE = 4
"""Segments kept for use again; further ones, left by a long backlog, are deleted."""
_MAX_SPARE_BYTES = 64_000_000

_decode = msgspec.msgpack.Decoder(Entry).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What was done."""

    num_calls: int = 0
    num_feedback: int = 0
    num_duplicates: int = 0
    num_rejected: int = 0
    """Entries that cannot be read or that the database refuses: kept in `*.rejected`."""
    num_damaged: int = 0
    """Places in segments where nothing could be read: the segment is kept as `*.damaged`."""
    is_behind: bool = False
    """There was more than one transaction takes."""
    is_elsewhere: bool = False
    """Another process is at it; nothing was done."""

    @property
    def num_entries(self) -> int:
        """Taken out of the journal, whatever became of them."""
        return self.num_calls + self.num_feedback + self.num_duplicates + self.num_rejected


@dataclass(slots=True)
class _Batch:
    """What one transaction takes, and where each segment's cursor stands afterwards."""

    entries: list[tuple[Path, memoryview, Entry]]
    rejected: list[tuple[Path, memoryview]]
    cursors: dict[Path, int]
    num_bytes: int = 0

    @property
    def is_full(self) -> bool:
        return len(self.entries) >= MAX_ENTRIES or self.num_bytes >= MAX_BYTES


class Ingest:
    """One journal's way into one store."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._calls = store.calls
        self._folder = folder

    def step(self) -> Progress:
        """One transaction with what there is. Raises StoreError and its kinds; the journal then
        stands as before, and the same step can be tried again."""
        if not self._folder.is_dir():
            return Progress()
        with alone(self._folder) as is_alone:
            if not is_alone:
                return Progress(is_elsewhere=True)
            try:
                return self._step()
            except OSError as error:
                raise faults.of_disk(error, str(self._folder)) from error

    def drain(self, wait_s: float = 5.0) -> Progress:
        """Steps until nothing is left; waits while another process is at it, but not longer."""
        total = Progress()
        deadline = time.monotonic() + wait_s
        while True:
            done = self.step()
            total = _sum(total, done)
            if done.is_elsewhere:
                if time.monotonic() >= deadline:
                    return total
                time.sleep(0.02)
            elif not (done.is_behind or done.num_entries):
                return total

    def _step(self) -> Progress:
        batch = _Batch([], [], {})
        num_damaged = 0
        done_with: list[tuple[Segment, bool]] = []
        opened: list[Segment] = []
        try:
            for path in segments.in_folder(self._folder):
                if batch.is_full:
                    break
                segment = Segment(path)
                opened.append(segment)
                is_done, damaged = _read(segment, batch)
                num_damaged += damaged
                if is_done:
                    done_with.append((segment, damaged > 0))
            progress = self._write(batch)
            for segment in opened:
                if segment.path in batch.cursors:
                    segment.move_cursor(batch.cursors[segment.path])
            for segment, is_damaged in done_with:
                self._put_away(segment, is_damaged)
        finally:
            for segment in opened:
                segment.close()
        return replace(progress, num_damaged=num_damaged, is_behind=batch.is_full)

    def _write(self, batch: _Batch) -> Progress:
        rejected = list(batch.rejected)
        total = traffic.Written()
        if batch.entries:
            self._write_some(batch.entries, total, rejected)
        for path, payload in rejected:
            _set_aside(path, payload)
        return Progress(
            num_calls=total.num_calls,
            num_feedback=total.num_feedback,
            num_duplicates=total.num_duplicates,
            num_rejected=len(rejected),
        )

    def _write_some(
        self,
        entries: Sequence[tuple[Path, memoryview, Entry]],
        total: traffic.Written,
        rejected: list[tuple[Path, memoryview]],
    ) -> None:
        """All in one transaction or, where the database refuses one of them, in halves: what is
        left alone in the end is at fault itself."""
        try:
            done = self._calls.write([entry for _, _, entry in entries])
        except Exception as error:
            if not faults.is_of_data(error):
                raise  # The store's trouble, not that of an entry.
            if len(entries) == 1:
                path, payload, _ = entries[0]
                rejected.append((path, payload))
                return
            middle = len(entries) // 2
            self._write_some(entries[:middle], total, rejected)
            self._write_some(entries[middle:], total, rejected)
            return
        total.num_calls += done.num_calls
        total.num_feedback += done.num_feedback
        total.num_duplicates += done.num_duplicates

    def _put_away(self, segment: Segment, is_damaged: bool) -> None:
        """Called while the segment is held, so that no writer can take it before it is ready."""
        path = segment.path
        self._remove_unfinished()
        if is_damaged:
            path.rename(path.with_suffix(".damaged"))
            return
        num_spare = sum(1 for _ in self._folder.glob("*.free"))
        if num_spare < NUM_SPARE and segment.num_bytes <= _MAX_SPARE_BYTES:
            path.rename(path.with_suffix(".free"))
        else:
            path.unlink()

    def _remove_unfinished(self) -> None:
        """Segments whose writer was killed while it made them; a living one holds its own."""
        for path in self._folder.glob("*.new"):
            with suppress(FileNotFoundError), path.open("rb") as file:
                if segments.held(path, file.fileno()):
                    path.unlink()


def _sum(total: Progress, done: Progress) -> Progress:
    return replace(
        done,
        num_calls=total.num_calls + done.num_calls,
        num_feedback=total.num_feedback + done.num_feedback,
        num_duplicates=total.num_duplicates + done.num_duplicates,
        num_rejected=total.num_rejected + done.num_rejected,
        num_damaged=total.num_damaged + done.num_damaged,
    )


def backlog_bytes(folder: Path) -> int:
    """What waits in a journal, the store not needed."""
    waiting = 0
    for path in segments.in_folder(folder):
        with suppress(FileNotFoundError), Segment(path) as segment:
            cursor = segment.cursor()
            waiting += segment.extent(cursor) - cursor
    return waiting


def _read(segment: Segment, batch: _Batch) -> tuple[bool, int]:
    """Puts what can be read into the batch. Gives whether the segment is done with, and in how many
    places it is damaged."""
    position = _read_on(segment, segment.cursor(), batch)
    if batch.is_full:
        return False, 0
    if not segment.writer_is_gone():
        return False, 0
    # The writer may have written between the last look and its end.
    position = _read_on(segment, position, batch)
    num_damaged = 0
    while not batch.is_full and not segment.is_closed_at(position):
        following = segment.next_frame(position)
        if following is None:
            break  # Nothing, or the torn end of a writer that was killed.
        num_damaged += 1
        position = _read_on(segment, following, batch)
    return not batch.is_full, num_damaged


def _read_on(segment: Segment, position: int, batch: _Batch) -> int:
    for frame in segment.frames(position):
        _take(segment, frame, batch)
        batch.cursors[segment.path] = position = frame.end
        if batch.is_full:
            break
    return position


def _take(segment: Segment, frame: Frame, batch: _Batch) -> None:
    batch.num_bytes += len(frame.payload)
    try:
        batch.entries.append((segment.path, frame.payload, _decode(frame.payload)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        batch.rejected.append((segment.path, frame.payload))


def _set_aside(path: Path, payload: memoryview) -> None:
    """Appends the entry, length before it, to the segment's file of rejected ones."""
    handle = os.open(path.with_suffix(".rejected"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(handle, "ab") as file:
        file.write(len(payload).to_bytes(4, "little") + payload)


@contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Whether this process may ingest now; nobody else does until the block ends."""
    handle = os.open(folder / "ingest.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        yield False
    else:
        yield True
    finally:
        os.close(handle)
