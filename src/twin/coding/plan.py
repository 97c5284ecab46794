"""A plan for a change: which files and symbols, in what order, and why. Data, no code in it.

Owns the form in which models write plans, and reads it with care: what arrives here was written by
a model or a stranger. The plan of a commit that is already made comes from `changed`.
"""

import graphlib
from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from twin.errors import BadPlan

Action = Literal["add", "modify", "delete", "rename"]

MAX_STEPS: Final = 500
MAX_BYTES: Final = 1_000_000


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file's part of a plan."""

    path: str
    """Relative to the repository's root; after the change, where it is renamed."""
    action: Action = "modify"
    old_path: str = ""
    """Only for `rename`: where it was."""
    symbols: tuple[str, ...] = ()
    """Dotted names (`Class.method`) that are added, changed or removed in it."""
    depends_on: tuple[str, ...] = ()
    """Paths of other steps that come first."""
    rationale: str = ""


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Steps, each file once."""

    steps: tuple[Step, ...] = ()

    def ordered(self) -> tuple[Step, ...]:
        """Every step after those it depends on, else as written. Raises BadPlan on a circle."""
        by_path = {step.path: step for step in self.steps}
        sorter: graphlib.TopologicalSorter[str] = graphlib.TopologicalSorter()
        for step in self.steps:
            sorter.add(step.path, *step.depends_on)
        try:
            sorter.prepare()
        except graphlib.CycleError as error:
            circle = " -> ".join(error.args[1])
            raise BadPlan(f"The plan's steps wait for each other: {circle}.") from error
        position = {step.path: number for number, step in enumerate(self.steps)}
        found: list[Step] = []
        while sorter.is_active():
            ready = sorted(sorter.get_ready(), key=position.__getitem__)
            found += (by_path[path] for path in ready)
            sorter.done(*ready)
        return tuple(found)


def read_plan(text: str | bytes) -> Plan:
    """A plan from JSON. Raises BadPlan with what is wrong, in words that a model can act on."""
    if len(text) > MAX_BYTES:
        raise BadPlan(f"The plan is longer than {MAX_BYTES:,} bytes. Plan fewer steps.")
    try:
        plan = msgspec.json.decode(text, type=Plan)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadPlan(f"The plan is not the JSON that was asked for: {error}.") from error
    if len(plan.steps) > MAX_STEPS:
        raise BadPlan(f"The plan has more than {MAX_STEPS} steps. Plan fewer.")
    paths = [step.path for step in plan.steps]
    for step in plan.steps:
        for path in (step.path, *([step.old_path] if step.old_path else [])):
            fault = _fault(path)
            if fault:
                raise BadPlan(f"The plan's path {path!r} {fault}. Give one inside the repository.")
        if paths.count(step.path) > 1:
            raise BadPlan(f"The plan has two steps for {step.path}. Put them together.")
        unknown = set(step.depends_on).difference(paths)
        if unknown:
            raise BadPlan(
                f"The plan's step for {step.path} depends on {sorted(unknown)[0]!r}, for which "
                "there is no step."
            )
    plan.ordered()
    return plan


def without(plan: Plan, paths: Iterable[str] = (), symbols: Iterable[tuple[str, str]] = ()) -> Plan:
    """The plan with some files, or some symbols (path, name), left out."""
    gone, lost = set(paths), set(symbols)
    return Plan(
        steps=tuple(
            msgspec.structs.replace(
                step,
                symbols=tuple(name for name in step.symbols if (step.path, name) not in lost),
                depends_on=tuple(path for path in step.depends_on if path not in gone),
            )
            for step in plan.steps
            if step.path not in gone
        )
    )


def _fault(path: str) -> str:
    parts = path.split("/")
    if not path or path.startswith("/") or "\\" in path or "\0" in path:
        return "is no relative path"
    if any(part in ("", ".", "..") for part in parts):
        return "is not written plainly"
    return "leads into git's own folder" if parts[0].lower() == ".git" else ""
