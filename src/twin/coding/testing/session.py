"""One sandbox for several selections, on one tree or on several.

Starting a sandbox, loading pytest and collecting take longer than most selections: here each is
done once (`inside` says how the selections are kept apart). Whatever ends the sandbox, or is not as
it should be, costs time alone: what remains is run in sandboxes of its own, as `run` does it.
"""

import contextlib
import os
import select
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Final, Self

import msgspec

from twin.coding.sandbox import cgroups
from twin.coding.sandbox.cell import Sandbox
from twin.coding.sandbox.launch import CONFINE
from twin.coding.sandbox.limits import Ended, Limits
from twin.coding.testing.hearing import Heard, Patience, event_of
from twin.coding.testing.results import Selection, TestEnvironment, TestRun
from twin.coding.testing.run import SERVING, Suite, inside_job
from twin.coding.testing.trees import Tree
from twin.records import SandboxLevel

LEAVE_S: Final = 2.0
"""For the sandbox to end by itself when nothing more is asked."""
LOOK_S: Final = 0.1
KILLED: Final = 9
"""The signal by which the kernel ends a process that has no memory left."""


class TestSession:
    """A context manager; the sandbox begins with the first selection and ends with the block."""

    __test__ = False

    def __init__(
        self,
        sandbox: Sandbox,
        environment: TestEnvironment,
        *,
        options: Sequence[str] = (),
        limits: Limits | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._sandbox = sandbox
        self._environment = environment
        self._options = options
        self._limits = limits or Limits()
        self._patience = patience or Patience()
        self._suites: dict[Tree, tuple[int, Suite]] = {}
        self._hearing: _Hearing | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._hearing is not None:
            self._hearing.leave(0.0 if kind else LEAVE_S)
            os.close(self._asking)
            self._thread.join()
            os.close(self._asked)

    def run(self, tree: Tree, selection: Selection) -> TestRun:
        """Every test of a selection on the tree, with its result; watched files are for `run_tests`
        alone."""
        assert not selection.watched
        is_new = tree not in self._suites
        number, suite = self._suite(tree)
        if self._hearing is None:
            self._begin()
        assert self._hearing is not None
        told = suite.told() | {
            "tree": number,
            "size": len(suite.tree.archive) if is_new else None,
            "selection": suite.described(selection),
        }
        heard = self._hearing.expect(selection)
        self._ask(msgspec.json.encode(told) + b"\n" + (suite.tree.archive if is_new else b""))
        self._hearing.wait()
        return suite.run(selection, heard if _is_sound(heard) else None)

    def _suite(self, tree: Tree) -> tuple[int, Suite]:
        """A number for the tree, and its tests."""
        if tree not in self._suites:
            suite = Suite(
                self._sandbox, tree, self._environment, self._options, self._limits, self._patience
            )
            self._suites[tree] = len(self._suites), suite
        return self._suites[tree]

    def _begin(self) -> None:
        self._asked, self._asking = os.pipe()
        os.set_blocking(self._asking, False)
        told = {"confine": str(CONFINE), "serving": str(SERVING), "selection": None}
        os.write(self._asking, msgspec.json.encode(told) + b"\n")
        self._hearing = _Hearing(self._sandbox.level, self._patience, self._limits.wall_s)
        self._thread = threading.Thread(target=self._follow, args=(self._hearing,), daemon=True)
        self._thread.start()

    def _follow(self, hearing: "_Hearing") -> None:
        # The clock is the hearing's, which begins again with each call.
        limits = replace(self._limits, wall_s=float("inf"))
        ended: Ended | BaseException
        try:
            ended = self._sandbox.run(
                inside_job(self._environment, limits, self._asked, Tree(b"")), hearing
            )
        except BaseException as error:  # raised by who waits
            ended = error
        hearing.over(ended)

    def _ask(self, command: bytes) -> None:
        assert self._hearing is not None
        rest = memoryview(command)
        while rest and not self._hearing.is_over:
            if select.select([], [self._asking], [], LOOK_S)[1]:
                with contextlib.suppress(BlockingIOError):
                    rest = rest[os.write(self._asking, rest) :]


class _Hearing:
    """Listens to the sandbox of a session, from the thread that follows it."""

    def __init__(self, level: SandboxLevel, patience: Patience, wall_s: float) -> None:
        self.is_over = False
        self._level = level
        self._patience = patience
        self._wall_s = wall_s
        self._changed = threading.Condition()
        self._expected: Heard | None = None
        self._began = self._until = self._last = self._leave = float("inf")
        self._error: BaseException | None = None

    def expect(self, selection: Selection) -> Heard:
        """What will be heard of a selection."""
        with self._changed:
            found = Heard(self._patience, selection)
            if not self.is_over:
                self._expected = found
                self._began = time.monotonic()
                self._until = self._began + self._patience.collect_s
                self._last = self._began + self._wall_s
            return found

    def wait(self) -> None:
        """Until what was expected was heard, or will never be. Raises what `Sandbox.run` does."""
        with self._changed:
            self._changed.wait_for(lambda: self._expected is None)
            if self._error is not None:
                raise self._error

    def leave(self, within_s: float) -> None:
        self._leave = time.monotonic() + within_s

    def hear(self, line: bytes) -> None:
        event = event_of(line)
        with self._changed:
            if event is None or self._expected is None:
                return
            now = time.monotonic()
            if event.kind == "over":
                self._expected.ended = Ended(
                    level=self._level,
                    limiter=cgroups.limiter(),
                    cause="signal" if event.code < 0 else "exit",
                    code=abs(event.code),
                    detail="",
                    output=b"",
                    wall_s=now - self._began,
                    cpu_s=event.cpu_s,
                    peak_bytes=event.peak,
                )
                self._expected = None
                self._changed.notify_all()
            else:
                self._until = now + self._expected.take(event)

    def deadline(self) -> float:
        with self._changed:
            waits = self._expected is not None
            return min(self._until, self._last, self._leave) if waits else self._leave

    def over(self, ended: Ended | BaseException) -> None:
        """The sandbox is gone. What ran in it has an end only where it took too long: what else
        ended the sandbox need not be its doing."""
        with self._changed:
            self.is_over = True
            if isinstance(ended, BaseException):
                self._error = ended
            elif self._expected is not None and ended.cause == "stopped":
                is_late = time.monotonic() >= self._last
                self._expected.ended = replace(ended, cause="wall") if is_late else ended
            self._expected = None
            self._changed.notify_all()


def _is_sound(heard: Heard) -> bool:
    """Whether what was heard of a selection is what would be heard of it alone; else a sandbox of
    its own says it better."""
    if heard.ended is None or (heard.ended.cause, heard.ended.code) == ("signal", KILLED):
        return False
    return heard.is_regular if heard.code is not None else bool(heard.running)
