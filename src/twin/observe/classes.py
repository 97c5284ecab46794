"""What the tests say about a commit: each test's class, from runs before and after it.

Three sides. `base`: the parent's code with the parent's tests. `before`: the parent's code with the
commit's tests. `after`: the commit's code with the commit's tests. `before` and `after` ran more
than once, in another order, so that chance and order show. Pure functions of test runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from twin.coding.testing.results import TestRun
from twin.records import TestClass


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """The runs of one commit; the first of a side is of the whole selection."""

    base: TestRun | None
    """None where the parent has none of the selected files."""
    before: Sequence[TestRun]
    after: Sequence[TestRun]


def classify(sides: Sides) -> dict[str, TestClass]:
    """The class of every test that ran on the side after.

    A test that is missing before is no evidence by itself: its file may have failed to import there
    because of another test. It counts as failing only where the parent had no such test.
    """
    found: dict[str, TestClass] = {}
    base = sides.base.results if sides.base else {}
    for test, result in sides.after[0].results.items():
        before = sides.before[0].results.get(test)
        passed_at_parent = test in base and base[test].passes
        if not result.passes and not result.fails:
            found[test] = "skipped"
        elif _is_unsteady(test, sides):
            found[test] = "flaky"
        elif result.fails:
            found[test] = "pass_to_fail" if passed_at_parent else "both_fail"
        elif before is None:
            found[test] = "pass_to_pass" if passed_at_parent else "fail_to_pass"
        elif before.fails:
            found[test] = "fail_to_pass"
        elif before.passes:
            found[test] = "pass_to_pass" if test in base else "guard"
        else:
            # Skipped or expected to fail before: the commit made it run, nobody saw it fail.
            found[test] = "pass_to_pass" if passed_at_parent else "guard"
    return found


def _is_unsteady(test: str, sides: Sides) -> bool:
    """Whether the repeats of one side disagree about a test."""
    if any(test in run.unsteady for run in (*sides.before, *sides.after)):
        return True
    # Each run after is of the whole selection: a node id that one of them lacks (an address in it,
    # say) cannot be asked for again.
    if any(test not in run.results for run in sides.after if not run.fault):
        return True
    return any(
        len({run.results[test].kind for run in side if test in run.results}) > 1
        for side in (sides.before, sides.after)
    )
