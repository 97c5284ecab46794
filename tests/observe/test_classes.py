"""The class of a test follows from what it did on the three sides."""

from dataclasses import replace

import pytest

from twin.coding.testing.results import Outcome, TestResult, TestRun
from twin.observe.classes import Sides, classify, only_reached
from twin.records import TestClass


def run(*, broken: bool = False, unsteady: bool = False, **outcomes: Outcome) -> TestRun:
    return TestRun(
        results={test: TestResult(outcome=found, seconds=0.1) for test, found in outcomes.items()},
        broken={"test_x.py": "ImportError"} if broken else {},
        fault="",
        unsteady=frozenset({"t"}) if unsteady else frozenset(),
        level="bubblewrap",
        limiter="watching",
        num_starts=1,
        wall_s=1,
        cpu_s=1,
        peak_bytes=1,
        output="",
    )


NONE = run()


@pytest.mark.parametrize(
    ("base", "before", "after", "expected"),
    [
        (run(t="passed"), NONE, run(t="passed"), "pass_to_pass"),
        (run(t="passed"), run(t="failed"), run(t="passed"), "fail_to_pass"),
        (NONE, run(t="error"), run(t="passed"), "fail_to_pass"),
        (NONE, run(t="crashed"), run(t="passed"), "fail_to_pass"),
        (NONE, run(t="timeout"), run(t="passed"), "fail_to_pass"),
        (None, NONE, run(t="passed"), "fail_to_pass"),
        (NONE, run(broken=True), run(t="passed"), "fail_to_pass"),
        (NONE, run(t="passed"), run(t="passed"), "guard"),
        (None, run(t="passed"), run(t="xpassed"), "guard"),
        (NONE, run(t="skipped"), run(t="passed"), "guard"),
        (run(t="passed"), run(t="skipped"), run(t="passed"), "pass_to_pass"),
        (run(t="passed"), run(t="passed"), run(t="failed"), "pass_to_fail"),
        (run(t="failed"), run(t="failed"), run(t="failed"), "both_fail"),
        (NONE, run(t="failed"), run(t="failed"), "both_fail"),
        (run(t="passed"), run(t="passed"), run(t="skipped"), "skipped"),
        (run(t="failed"), run(t="failed"), run(t="xfailed"), "skipped"),
    ],
)
def test_a_test_has_the_class_of_its_sides(
    base: TestRun | None, before: TestRun, after: TestRun, expected: TestClass
) -> None:
    sides = Sides(base=base, changed={"t"}, before=[before], after=[after])
    assert classify(sides) == {"t": expected}


def test_an_import_error_on_the_parent_makes_no_old_test_a_proof() -> None:
    """The commit's tests import a new name, so the whole file is missing before."""
    sides = Sides(
        base=run(old="passed"), before=[run(broken=True)], after=[run(old="passed", new="passed")]
    )
    assert classify(sides) == {"old": "pass_to_pass", "new": "fail_to_pass"}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("passed", "passed", "pass_to_pass"),
        ("failed", "passed", "fail_to_pass"),
        ("passed", "failed", "pass_to_fail"),
        ("failed", "failed", "both_fail"),
    ],
)
def test_where_nothing_is_missing_before_the_names_in_the_parents_files_are_enough(
    before: Outcome, after: Outcome, expected: TestClass
) -> None:
    old, new, other = "a.py::A::t[x]", "a.py::A::u", "b.py::t"
    sides = Sides(
        base=None,
        changed={"a.py"},
        old={"a.py::A::t"},
        before=[run(**{old: before, new: "passed", other: "passed"})],
        after=[run(**{old: after, new: "passed", other: "passed"})],
    )
    assert classify(sides) == {old: expected, new: "guard", other: "pass_to_pass"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([run(t="failed"), run(t="passed")], [run(t="passed"), run(t="passed")]),
        ([run(t="failed"), run(t="failed")], [run(t="passed"), run(t="failed")]),
        ([run(t="failed"), run(t="failed")], [run(t="passed"), NONE]),
        ([NONE, NONE], [run(t="passed"), NONE]),
        ([run(t="passed")], [run(t="failed"), run(t="passed")]),
        ([run(t="failed", unsteady=True)], [run(t="passed")]),
        ([run(t="failed")], [run(t="passed", unsteady=True)]),
    ],
)
def test_what_is_not_the_same_in_every_repeat_is_flaky(
    before: list[TestRun], after: list[TestRun]
) -> None:
    assert classify(Sides(base=NONE, before=before, after=after))["t"] == "flaky"


def test_a_name_with_an_address_is_of_one_run_alone() -> None:
    test = "a.py::t[<a.A object at 0x7f139e167a10>]"
    after = run(**{test: "passed", "a.py::t[0x7f139e167a10]": "passed"})
    found = classify(Sides(base=None, before=[NONE, NONE], after=[after, after]))
    assert found == {test: "flaky", "a.py::t[0x7f139e167a10]": "fail_to_pass"}


def test_what_the_sides_agree_about_need_not_run_again() -> None:
    passed = run(old="passed", new="passed")
    sides = Sides(
        base=None,
        before=[run(old="passed", new="failed"), run(new="failed")],
        after=[passed, run(new="passed")],
    )
    assert classify(sides) == {"old": "pass_to_pass", "new": "fail_to_pass"}


def test_two_ways_of_failing_are_one_kind() -> None:
    sides = Sides(
        base=NONE,
        before=[run(t="failed"), run(t="error")],
        after=[run(t="passed"), run(t="passed")],
    )
    assert classify(sides) == {"t": "fail_to_pass"}


def before(outcome: Outcome, text: str = "") -> TestRun:
    test = "a.py::t"
    return replace(NONE, results={test: TestResult(outcome=outcome, seconds=0.1, text=text)})


@pytest.mark.parametrize(
    ("run_before", "expected"),
    [
        (before("failed", "E   assert 1 == 2"), "fail_to_pass"),
        (before("failed", "AttributeError: 'int' object has no attribute 'x'"), "fail_to_pass"),
        (before("failed", "AttributeError: module 'a' has no attribute 'x'"), "unreached"),
        (before("failed", "ImportError: cannot import name 'x' from 'a'"), "unreached"),
        (before("error", "fixture 'x' not found"), "unreached"),
        (before("failed", "NameError: name 'x' is not defined"), "unreached"),
        (before("crashed"), "unreached"),
        (before("timeout"), "unreached"),
        (NONE, "unreached"),
    ],
)
def test_a_generated_test_must_have_found_more_than_a_missing_name(
    run_before: TestRun, expected: TestClass
) -> None:
    classes: dict[str, TestClass] = {"a.py::t": "fail_to_pass", "b.py::t": "fail_to_pass"}
    found = only_reached(classes, run_before, {"a.py"})
    assert found == {"a.py::t": expected, "b.py::t": "fail_to_pass"}
    if run_before.results and "Error" in run_before.results["a.py::t"].text:
        same = only_reached(classes, run_before, {"a.py"}, names_differ=False)
        assert same == classes
