"""Bands of gates and the one word over many checks."""

import math

import pytest

from twin.lm.verdict import Band, Grade, Verdict, worst

NORM = Band(pass_from=0.5, pass_to=1.5, warn_from=0.1, warn_to=5.0)


def verdict(grade: Grade) -> Verdict:
    return Verdict(gate="G1", check="x", grade=grade, value=None, thresholds="", sentence="")


@pytest.mark.parametrize(
    ("value", "grade"),
    [(0.5, "pass"), (1.5, "pass"), (0.1, "warn"), (5.0, "warn"), (0.09, "fail"), (5.1, "fail")],
)
def test_bounds_belong_to_the_better_band(value: float, grade: Grade) -> None:
    assert NORM.grade(value) == grade


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_cannot_be_measured_fails(value: float) -> None:
    assert NORM.grade(value) == "fail"


def test_nan_fails_even_where_nothing_else_can() -> None:
    assert Band(pass_from=0.5).grade(0.1) == "warn"
    assert Band(pass_from=0.5).grade(math.nan) == "fail"


def test_a_band_says_what_it_is() -> None:
    assert str(NORM) == "pass 0.5 to 1.5; warn 0.1 to 5, else fail"
    assert str(Band(pass_from=0.5, unit="of all")) == "pass from 0.5; warn otherwise (of all)"
    assert str(Band(pass_to=0.9, warn_to=0.99)) == "pass up to 0.9; warn up to 0.99, else fail"


def test_the_worst_check_decides_and_what_is_not_yet_known_does_not() -> None:
    assert worst(map(verdict, ("pass", "not yet", "warn"))) == "warn"
    assert worst(map(verdict, ("pass", "fail", "warn"))) == "fail"
    assert worst(map(verdict, ("not yet", "pass"))) == "pass"
    assert worst([]) == "not yet"
