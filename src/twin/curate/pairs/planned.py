"""Pairs of the planning stages: parts, the steps of a part, the tests that prove the change.

The plans are read back from the diff; what a commit did is what should have been planned.
"""

from collections.abc import Iterator
from typing import Final

from twin.coding.changed import changed_symbols
from twin.coding.graph import mirrored_tests
from twin.coding.languages import language_of
from twin.coding.parts import Part, meta_plan_of, proof_of, steps_of
from twin.coding.paths import role_of
from twin.coding.plan import Action
from twin.curate.pairs.facts import Facts, Prompt, as_json, sections, steps_as_json
from twin.records import Pair

MAX_TEST_FILES: Final = 60
"""Listed for a test-plan, the nearest to the change first."""

_STEP_FORM: Final = (
    'JSON, {"steps": [{"path", "action": "add" | "modify" | "delete" | "rename", "old_path", '
    '"symbols": [NAME, ...], "depends_on": [PATH, ...]}, ...]}; no code'
)
META_PLAN: Final = (
    "You split a change of a repository into parts that can be done one after another. Answer with "
    'JSON, {"parts": [{"number", "paths": [PATH, ...], "depends_on": [NUMBER, ...]}, ...]}, in the '
    "order in which they are to be done. A small change is one part."
)
STEP_PLAN: Final = (
    "You plan the steps of one part of a change: a step for each file, with the symbols that are "
    f"added, changed or removed in it. Answer with {_STEP_FORM}."
)
PLAN: Final = (
    "You plan a change of a repository: a step for each file, with the symbols that are added, "
    f"changed or removed in it. Answer with {_STEP_FORM}."
)
TEST_PLAN: Final = (
    "You plan the tests that prove a change: which fail without it and pass with it, which only "
    'guard. Answer with JSON, {"tests": [{"path", "action": "add" | "modify" | "run" | "delete", '
    '"proves": [TEST, ...], "guards": [TEST, ...], "touches": [TEST, ...]}, ...]}.'
)

_ACTIONS: Final[dict[str, Action]] = {"A": "add", "C": "add", "D": "delete", "R": "rename"}


def plan_prompt(facts: Facts) -> Prompt:
    """What whoever plans a whole change is told."""
    return Prompt(system=PLAN, user=_with_context(facts))


def meta_plan(facts: Facts) -> Iterator[Pair | str]:
    """Task and context -> the parts of the change."""
    found = meta_plan_of(facts.plan, facts.after.imports)
    if not found.parts:
        yield "no_files"
        return
    prompt = Prompt(system=META_PLAN, user=_with_context(facts))
    yield facts.pair("meta_plan", prompt, as_json(found))


def step_plan(facts: Facts) -> Iterator[Pair | str]:
    """Task, context and one part -> its steps."""
    for part in meta_plan_of(facts.plan, facts.after.imports).parts:
        if not any(language_of(path) for path in part.paths):
            yield "no_code"
            continue
        prompt = _with_context(facts, Part=as_json(_alone(part)))
        answer = steps_as_json(steps_of(facts.plan, part))
        yield facts.pair("step_plan", Prompt(system=STEP_PLAN, user=prompt), answer)


def test_plan(facts: Facts) -> Iterator[Pair | str]:
    """Task, plan and the test files that there are -> the tests that prove it."""
    if facts.validation is None:
        yield "unvalidated"
        return
    if not facts.validation.tests("fail_to_pass") and not facts.validation.tests("guard"):
        yield "nothing_proves"
        return
    sides = {side.change.path: side for side in facts.test_sides}
    touched = {path: changed_symbols(path, side.before, side.after) for path, side in sides.items()}
    actions = {path: _ACTIONS.get(side.change.status, "modify") for path, side in sides.items()}
    answer = proof_of(facts.validation.classes, actions, touched)
    listed = "\n".join(f"- {path}" for path in _test_files(facts)) or "none"
    prompt = sections(Task=facts.task, Plan=steps_as_json(facts.plan), Test_files=listed)
    yield facts.pair("test_plan", Prompt(system=TEST_PLAN, user=prompt), as_json(answer))


def _with_context(facts: Facts, **more: str) -> str:
    return sections(Task=facts.task, **more) + "\n" + facts.context.as_markdown()


def _alone(part: Part) -> dict[str, object]:
    return {"number": part.number, "paths": part.paths}


def _test_files(facts: Facts) -> list[str]:
    """Test files at the parent: those whose name says so, those that import what is changed, then
    the others."""
    tests = [p for p in facts.parent.files if role_of(p) == "test" and language_of(p) is not None]
    planned = {step.old_path or step.path for step in facts.plan.steps}
    mirrors = mirrored_tests(facts.parent.files)

    def nearness(path: str) -> tuple[int, str]:
        if planned.intersection(mirrors.get(path, ())):
            return 0, path
        return (1 if planned & facts.parent.imports.get(path, frozenset()) else 2), path

    return sorted(tests, key=nearness)[:MAX_TEST_FILES]
