"""The plans above and below a step-plan: the parts of a change, and the tests that prove it. Data.

A part is what hangs together: files that import one another. What is no code (documents, settings)
is one part and comes last. Parts depend on one another where the way between them leads through
files that do not change. Works on plans, paths and classes of tests; reads no repository.
"""

import graphlib
from collections.abc import Collection, Iterable, Mapping
from typing import Final

import msgspec

from twin.coding.changed import leads
from twin.coding.languages import language_of
from twin.coding.plan import Action, Plan, without
from twin.records import TestClass

MAX_REACHED: Final = 50_000
"""Files looked at between two parts; only a crafted repository has such a graph."""


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Files that are changed together."""

    number: int
    """From 1, in the order in which parts are done."""
    paths: tuple[str, ...]
    depends_on: tuple[int, ...] = ()
    """Numbers of parts that come first."""


class MetaPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parts, each file in one."""

    parts: tuple[Part, ...] = ()


class PlannedTests(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file's part of the proof. Tests are named as pytest does within their file, without
    their parameters: `Class::test`."""

    path: str
    action: Action | str = "run"
    """What the change does to the file; `run` where it stays as it is."""
    proves: tuple[str, ...] = ()
    """Fail without the change and pass with it."""
    guards: tuple[str, ...] = ()
    """New, and pass on both sides."""
    touches: tuple[str, ...] = ()
    """Other tests that are written or rewritten."""


class TestPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which tests prove a change."""

    tests: tuple[PlannedTests, ...] = ()


def meta_plan_of(plan: Plan, imports: Mapping[str, Iterable[str]]) -> MetaPlan:
    """The parts of a plan. `imports`: from every file to those it imports, after the change.

    Where two parts reach each other, the one that was named later depends on the other.
    """
    groups = _groups(plan)
    home = {path: at for at, group in enumerate(groups) for path in group}
    needed: dict[int, set[int]] = {}
    for at, group in enumerate(groups):
        others = {home[path] for path in _reached(group, home, imports)}
        needed[at] = {other for other in others if not leads(other, at, needed)}
    order = list(graphlib.TopologicalSorter(needed).static_order())
    number = {at: place for place, at in enumerate(order, start=1)}
    return MetaPlan(
        parts=tuple(
            Part(
                number=number[at],
                paths=tuple(groups[at]),
                depends_on=tuple(sorted(number[other] for other in needed[at])),
            )
            for at in order
        )
    )


def steps_of(plan: Plan, part: Part) -> Plan:
    """The steps of one part, in the order in which they are done."""
    inside = without(plan, paths=[s.path for s in plan.steps if s.path not in part.paths])
    return Plan(steps=inside.ordered())


def proof_of(
    classes: Mapping[str, TestClass],
    actions: Mapping[str, Action],
    touched: Mapping[str, Iterable[str]],
) -> TestPlan:
    """The proof of a commit. `classes`: by node id; `actions`: path -> what the commit did to that
    test file; `touched`: path -> dotted names of the definitions whose text it changed."""
    proves, guards = _by_file(classes, "fail_to_pass"), _by_file(classes, "guard")
    found = []
    for path in sorted({*proves, *guards, *actions}):
        told = {*proves.get(path, ()), *guards.get(path, ())}
        changed = [name.replace(".", "::") for name in touched.get(path, ()) if _is_test(name)]
        found.append(
            PlannedTests(
                path=path,
                action=actions.get(path, "run"),
                proves=tuple(proves.get(path, ())),
                guards=tuple(t for t in guards.get(path, ()) if t not in proves.get(path, ())),
                touches=tuple(test for test in changed if test not in told),
            )
        )
    return TestPlan(tests=tuple(found))


def _by_file(classes: Mapping[str, TestClass], wanted: TestClass) -> dict[str, list[str]]:
    """Path -> its tests of one class, in the order they ran, each once whatever its parameters."""
    found: dict[str, list[str]] = {}
    for node, given in classes.items():
        path, _, name = node.partition("[")[0].partition("::")
        if given == wanted and name and name not in found.setdefault(path, []):
            found[path].append(name)
    return {path: names for path, names in found.items() if names}


def _is_test(name: str) -> bool:
    """By its name, as pytest does; not a class, of which no test can be told."""
    return name.rpartition(".")[2].startswith("test")


def _groups(plan: Plan) -> list[list[str]]:
    """Paths that depend on one another, in the plan's order, and at last those that are no code."""
    code = [step for step in plan.steps if language_of(step.path) is not None]
    group_of: dict[str, list[str]] = {step.path: [step.path] for step in code}
    for step in code:
        for path in group_of.keys() & set(step.depends_on):
            mine, theirs = group_of[step.path], group_of[path]
            if mine is not theirs:
                mine += theirs
                group_of.update(dict.fromkeys(theirs, mine))
    position = {step.path: at for at, step in enumerate(plan.steps)}
    groups = {id(group): sorted(group, key=position.__getitem__) for group in group_of.values()}
    others = [step.path for step in plan.steps if step.path not in group_of]
    found = sorted(groups.values(), key=lambda group: position[group[0]])
    return [*found, others] if others else found


def _reached(
    group: Collection[str], home: Collection[str], imports: Mapping[str, Iterable[str]]
) -> set[str]:
    """Files of other groups (`home`: of any) that imports lead to, directly or through files of
    none."""
    seen: set[str] = set()
    waiting = list(group)
    while waiting and len(seen) < MAX_REACHED:
        at = waiting.pop()
        if at not in seen:
            seen.add(at)
            if at in group or at not in home:
                waiting += imports.get(at, ())
    return seen.intersection(home).difference(group)
