"""What the tests say about a commit: each test's class, from runs before and after it.

Three sides. `before`: the parent's code with the commit's tests. `after`: the commit's code with
the commit's tests. What they disagree about ran once more on both, so that chance and order show.
`base`: the parent's code with the parent's tests, for what `before` does not say. Pure functions of
test runs.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from twin.coding.testing.results import TestRun
from twin.records import TestClass

ADDRESS: Final = re.compile(r" at 0x[0-9a-f]+>")
"""An object's own words for itself, where they are part of a test's name."""
MISSING_NAME: Final = re.compile(
    r"(?:ImportError|ModuleNotFoundError|NameError|AttributeError: (?:module|type object)|"
    r"fixture '.*' not found)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """The runs of one commit; the first of a side is of the whole selection."""

    base: TestRun | None
    """Of the tests that neither pass nor fail before, above all since they are missing; None where
    there is none."""
    changed: Collection[str] = frozenset()
    """The test files that are not the parent's: only there can a test be new."""
    old: Collection[str] = frozenset()
    """Tests that the parent's own version of them defines, without parameters:
    `tests/test_a.py::A::t`."""
    before: Sequence[TestRun]
    after: Sequence[TestRun]
    """Each further run of a side has at least what was new or changed its outcome."""


def classify(sides: Sides) -> dict[str, TestClass]:
    """The class of every test that ran on the side after.

    A test that is missing before is no evidence by itself: its file may have failed to import there
    because of another test. It counts as failing only where the parent had no such test.
    """
    found: dict[str, TestClass] = {}
    for test, result in sides.after[0].results.items():
        before = sides.before[0].results.get(test)
        if not result.passes and not result.fails:
            found[test] = "skipped"
        elif _is_unsteady(test, sides):
            found[test] = "flaky"
        elif result.fails:
            found[test] = "pass_to_fail" if _passed(test, sides) else "both_fail"
        elif before.fails if before else not _passed(test, sides):
            # One that is not there again has a name that cannot be asked for: a time in it, say.
            again = all(test in run.results for run in sides.after)
            found[test] = "fail_to_pass" if again else "flaky"
        elif before is None:
            found[test] = "pass_to_pass"
        elif before.passes:
            found[test] = "pass_to_pass" if _is_old(test, sides) else "guard"
        else:
            # Skipped or expected to fail before: the commit made it run, nobody saw it fail.
            found[test] = "pass_to_pass" if _passed(test, sides) else "guard"
    return found


def only_reached(
    classes: Mapping[str, TestClass],
    before: TestRun,
    files: Collection[str],
    *,
    names_differ: bool = True,
) -> dict[str, TestClass]:
    """The classes, where a test of these files proves something only if it ran before and came to
    its end; where the sides' names differ, also only if it found more wrong than a missing name.

    Whoever writes a test for a commit by hand says what the commit is for; a test made from the
    commit would fail before for every name that is new, whatever it asserts.
    """
    found = dict(classes)
    for test, kind in classes.items():
        if kind == "fail_to_pass" and test.partition("::")[0] in files:
            result = before.results.get(test)
            if (
                result is None
                or result.outcome in ("crashed", "timeout")
                or (names_differ and MISSING_NAME.search(result.text))
            ):
                found[test] = "unreached"
    return found


def _passed(test: str, sides: Sides) -> bool:
    """Whether the parent passed the test, its own version of it where that was run."""
    for run in (sides.base, sides.before[0]):
        if run is not None and test in run.results:
            return run.results[test].passes
    return False


def _is_old(test: str, sides: Sides) -> bool:
    return test.partition("::")[0] not in sides.changed or test.partition("[")[0] in sides.old


def _is_unsteady(test: str, sides: Sides) -> bool:
    """Whether the repeats of one side disagree about a test, or its name is of one run alone."""
    if ADDRESS.search(test) or any(test in run.unsteady for run in (*sides.before, *sides.after)):
        return True
    return any(
        len({run.results[test].kind for run in side if test in run.results}) > 1
        for side in (sides.before, sides.after)
    )
