"""The recorder: the process next to the gateway that moves its journal into the store.

`python -m twin.store.recorder` reads one line of JSON from stdin (`Settings`: never from arguments,
which everybody on the machine can read, as a URL may hold a password), then works until stdin ends,
moves what is left, and goes. Any further byte on stdin wakes it up. On stdout it says how it
stands, a line of JSON whenever that has changed. A process of its own shares no lock with the
gateway's event loop: however slow the database is, the gateway is not.

It gives up on nothing: while the store is locked, full or gone it tries again, ever less often.
"""

import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

from twin.store.database import Store, journal_folder, open_store
from twin.store.ingest import Ingest, Progress, backlog_bytes

_BUSY_S = 0.5
"""Between two looks while entries come: a transaction has a fixed cost of some milliseconds."""
_IDLE_S = 1.0
_ERROR_S = 5.0
"""The longest pause after a failure."""
_WAIT_S = 2.0
"""For another process's lock: short, so that what happens is soon reported."""
_RETENTION_S = 300.0
_RETENTION_CALLS = 2_000
"""Removed at a time; entries of the journal come in between."""
_LEAP_S = 86_400.0
_AFTER_LEAP_S = 3_600.0
"""A wall clock that leaps by more than a day is mostly wrong, and mostly mended soon: nothing is
removed by age before it has kept its time for an hour. A machine that slept looks the same."""
_LAST_TRIES_S = 10.0
"""How long it goes on trying after stdin has ended; the next recorder does the rest."""
_NICENESS = 19


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The first line on stdin."""

    root: str
    url: str = ""
    max_age_days: float = 30
    max_mb: float = 2_000


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """A line on stdout."""

    backlog_bytes: int = 0
    """In the journal and not yet in the store."""
    num_ingested: int = 0
    """Entries since the start."""
    num_rejected: int = 0
    num_damaged: int = 0
    num_removed: int = 0
    """Calls that retention has removed."""
    last_error: str = ""
    """Empty while all is well."""


def _clock_ahead() -> float:
    return time.time() - time.monotonic()


class Recorder:
    """One journal, one store, and how the work stands."""

    def __init__(self, settings: Settings, ahead: Callable[[], float] = _clock_ahead) -> None:
        """`ahead`: by how much the wall clock is ahead of the one that never leaps, in seconds."""
        self._settings = settings
        self._folder = journal_folder(Path(settings.root))
        self._store: Store | None = None
        self._ingest: Ingest | None = None
        self._retention_at = time.monotonic() + _IDLE_S
        self._backlog_at = 0.0
        self._ahead = ahead
        self._was_ahead = ahead()
        self.status = Status()

    def step(self) -> float:
        """Does what there is to do; gives the seconds until the next step."""
        try:
            done = self._opened().step()
            self._note(done)
            if done.is_behind:
                self._look_at_backlog()
                return 0.0
            if not done.num_entries:
                self._retain()
        except Exception as error:
            # Whatever it is, the journal holds the entries and the next try may succeed.
            self._change(last_error=_said(error))
            self._look_at_backlog()
            return _ERROR_S
        if not done.is_elsewhere:
            self._change(backlog_bytes=0)
        return _BUSY_S if done.num_entries else _IDLE_S

    def close(self) -> None:
        if self._store is not None:
            self._store.close()

    def _opened(self) -> Ingest:
        if self._ingest is None:
            root, url = Path(self._settings.root), self._settings.url
            self._store = open_store(root, url, wait_s=_WAIT_S)
            self._ingest = Ingest(self._store, self._folder)
        return self._ingest

    def _retain(self) -> None:
        if self._store is None or time.monotonic() < self._retention_at:
            return
        ahead = self._ahead()
        if abs(ahead - self._was_ahead) > _LEAP_S:
            # To a clock that leapt ahead everything looks old, and what is removed is gone.
            self._was_ahead = ahead
            self._retention_at = time.monotonic() + _AFTER_LEAP_S
            return
        num_removed = self._store.calls.retention(
            max_age_days=self._settings.max_age_days,
            max_mb=self._settings.max_mb,
            max_calls=_RETENTION_CALLS,
        )
        is_finished = num_removed < _RETENTION_CALLS
        self._retention_at = time.monotonic() + (_RETENTION_S if is_finished else 0.0)
        self._change(num_removed=self.status.num_removed + num_removed)

    def _note(self, done: Progress) -> None:
        status = self.status
        self._change(
            last_error="",
            num_ingested=status.num_ingested + done.num_entries,
            num_rejected=status.num_rejected + done.num_rejected,
            num_damaged=status.num_damaged + done.num_damaged,
        )

    def _look_at_backlog(self) -> None:
        now = time.monotonic()
        if now - self._backlog_at >= 1.0:  # It reads through all that waits.
            self._backlog_at = now
            with suppress(OSError):
                self._change(backlog_bytes=backlog_bytes(self._folder))

    def _change(self, **values: int | str) -> None:
        self.status = msgspec.structs.replace(self.status, **values)


def main(commands: BinaryIO, output: BinaryIO) -> int:
    """Runs until `commands` ends and the journal is empty; 1 where it could not be emptied."""
    settings = msgspec.json.decode(commands.readline(), type=Settings)
    recorder = Recorder(settings)
    reporter = _Reporter(output)
    pause_s = 0.0
    is_over = False
    while not is_over:
        is_over = _ended(commands, pause_s)
        wanted_s = recorder.step()
        # Twice as long each time, up to what the step asked for.
        pause_s = min(wanted_s, max(_BUSY_S, 2 * pause_s))
        reporter.report(recorder.status)
    deadline = time.monotonic() + _LAST_TRIES_S
    while not _is_empty(recorder) and time.monotonic() < deadline:
        reporter.report(recorder.status)
        time.sleep(_BUSY_S)
    reporter.report(recorder.status, at_once=True)
    recorder.close()
    return 1 if recorder.status.last_error else 0


def _is_empty(recorder: Recorder) -> bool:
    before = recorder.status.num_ingested
    recorder.step()
    status = recorder.status
    is_quiet = status.num_ingested == before and not status.backlog_bytes
    return is_quiet and not status.last_error


def _ended(commands: BinaryIO, pause_s: float) -> bool:
    """Waits until the time is over or somebody writes; True where nobody ever will again."""
    ready, _, _ = select.select([commands], [], [], pause_s)
    return bool(ready) and not os.read(commands.fileno(), 4096)


class _Reporter:
    """Says what has changed, once a second at most."""

    def __init__(self, output: BinaryIO) -> None:
        self._output = output
        self._said: Status | None = None
        self._at = 0.0

    def report(self, status: Status, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if status == self._said or (now - self._at < 1.0 and not at_once):
            return
        self._said, self._at = status, now
        with suppress(OSError):  # Nobody listens any more; stdin says so in a moment.
            self._output.write(msgspec.json.encode(status) + b"\n")
            self._output.flush()


def _said(error: Exception) -> str:
    """One line about it, without what was to be stored."""
    first = (str(error).strip().splitlines() or [""])[0]
    return first[:300] or type(error).__name__


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the gateway, which ends stdin.
    # Out of the terminal's foreground group, but not into a session of its own: Linux shares the
    # processor between sessions first, and niceness counts only within one.
    os.setpgid(0, 0)
    os.nice(_NICENESS)
    with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as stdin:
        sys.exit(main(stdin, sys.stdout.buffer))
