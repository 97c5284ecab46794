"""The seams of solving a task: who plans it, and who carries the plan out.

Three ship with the package and need no model: *gold* knows the commit (the upper bound, and the
test of everything around it), *null* does nothing (the lower one), *scripted* reads plans from a
file. A planner or executor that asks a model has the same two methods.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from twin.coding.changed import Sides, plan_of
from twin.coding.context import ContextPackage
from twin.coding.gold import carried_out
from twin.coding.plan import Plan, read_plan
from twin.errors import BadPlan, UsageError

Edits = Mapping[str, bytes | None]
"""Path -> its content after the work; None removes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What whoever solves a task is told. Nothing of the answer is in it."""

    task_id: str
    query: str
    parent_id: str
    """The commit to start from."""
    context: ContextPackage
    temperature: float


class Planner(Protocol):
    """Says which files and symbols to change."""

    def plan(self, assignment: Assignment) -> Plan:
        """Raises BadPlan where no plan comes of it."""


class Executor(Protocol):
    """Carries a plan out."""

    def execute(self, plan: Plan, assignment: Assignment) -> Edits: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """What the solvers that ship with the package may know beyond their assignment."""

    truth: Callable[[str], Sequence[Sides]]
    """Task -> both sides of the files, without its tests, that the true commit changed."""
    script: Path | None = None


class Gold:
    """Plans what the commit did, and does it with the commit's own text."""

    def __init__(self, knowledge: Knowledge) -> None:
        self._truth = knowledge.truth

    def plan(self, assignment: Assignment) -> Plan:
        return plan_of(self._truth(assignment.task_id))

    def execute(self, plan: Plan, assignment: Assignment) -> Edits:
        return carried_out(plan, self._truth(assignment.task_id))


class Null:
    """Plans nothing and does nothing."""

    def __init__(self, knowledge: Knowledge) -> None:
        pass

    def plan(self, assignment: Assignment) -> Plan:
        return Plan()

    def execute(self, plan: Plan, assignment: Assignment) -> Edits:
        return {}


class Scripted:
    """Plans from a file of JSON lines: `{"commit": ID, "plan": {...}}`, the longest fitting ID."""

    def __init__(self, knowledge: Knowledge) -> None:
        if knowledge.script is None:
            raise UsageError("The scripted planner reads its plans from a file: give `--script`.")
        self._plans: dict[str, bytes] = {}
        try:
            lines = knowledge.script.read_bytes().splitlines()
        except OSError as error:
            raise UsageError(f"{knowledge.script} cannot be read: {error.strerror}.") from error
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    entry = msgspec.json.decode(line, type=_Entry)
                except (msgspec.DecodeError, UnicodeError) as error:
                    raise UsageError(
                        f"{knowledge.script}, line {number} is no scripted plan: {error}."
                    ) from error
                self._plans[entry.commit] = bytes(entry.plan)

    def plan(self, assignment: Assignment) -> Plan:
        fitting = [key for key in self._plans if key and assignment.task_id.startswith(key)]
        if not fitting:
            raise BadPlan(f"The script has no plan for {assignment.task_id[:10]}.")
        return read_plan(self._plans[max(fitting, key=len)])


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    commit: str
    plan: msgspec.Raw


PLANNERS: Mapping[str, Callable[[Knowledge], Planner]] = {
    "gold": Gold,
    "null": Null,
    "scripted": Scripted,
}
EXECUTORS: Mapping[str, Callable[[Knowledge], Executor]] = {"gold": Gold, "null": Null}
