"""What functions of a tree come to when they are called, found out in the sandbox.

Each call is made twice, the second time in reverse order; one that does not come to the same both
times has no outcome. What comes back was said by a stranger's code: it is read as a literal, never
evaluated.
"""

import ast
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import msgspec

from twin.coding.sandbox.cell import Sandbox
from twin.coding.sandbox.limits import Job, Limits
from twin.coding.testing.results import TestEnvironment
from twin.coding.testing.trees import Tree

CALLER: Final = Path(__file__).with_name("caller.py")
CALL_S: Final = 5.0
"""A function that takes longer for a small input is not worth a test."""
LOAD_S: Final = 30.0
LONGEST: Final = 500


@dataclass(frozen=True, slots=True)
class Call:
    """A function of a module with positional arguments, each written as a literal."""

    module: str
    function: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call came to."""

    kind: Literal["gives", "raises", "other"]
    text: str
    """The value as a literal, or the name of the exception."""


class _Line(msgspec.Struct, frozen=True):
    number: int
    kind: Literal["gives", "raises", "other"]
    text: str


class _Hearing:
    def __init__(self) -> None:
        self.heard: dict[int, list[Outcome]] = {}
        self._since, self._wait_s = time.monotonic(), LOAD_S

    def hear(self, line: bytes) -> None:
        try:
            found = msgspec.json.decode(line, type=_Line)
        except msgspec.DecodeError:
            return  # the function has written to a descriptor that is not its own
        self._since, self._wait_s = time.monotonic(), CALL_S
        if is_sound(found.kind, found.text):
            self.heard.setdefault(found.number, []).append(Outcome(found.kind, found.text))

    def deadline(self) -> float:
        return self._since + self._wait_s


def outcomes(
    sandbox: Sandbox, tree: Tree, environment: TestEnvironment, calls: Sequence[Call]
) -> list[Outcome | None]:
    """For each call what it came to, None where that is not always the same or never came."""
    added = {path: data for path, data in environment.files.items() if path not in tree.names}
    whole = tree.with_files(added) if added else tree
    told = {
        "roots": whole.roots,
        "last": [str(path) for path in environment.last],
        "calls": [(call.module, call.function, call.arguments) for call in calls],
    }
    hearing = _Hearing()
    sandbox.run(
        Job(
            command=(str(environment.python), str(CALLER)),
            tree=whole.archive,
            visible=(*environment.visible, *environment.last, CALLER),
            given=msgspec.json.encode(told),
            environment=environment.variables,
            limits=Limits(wall_s=60),
        ),
        hearing,
    )
    return [_steady(hearing.heard.get(number, [])) for number in range(len(calls))]


def is_sound(kind: str, text: str) -> bool:
    """Whether a text may stand in a test: a short literal, or the name of an exception."""
    if kind != "gives":
        return text.isidentifier() or not text
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return False
    return len(text) <= LONGEST


def _steady(heard: Sequence[Outcome]) -> Outcome | None:
    return heard[0] if len(heard) == 2 and heard[0] == heard[1] else None
