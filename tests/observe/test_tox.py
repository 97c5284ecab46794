"""What tox installs for a project's tests."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.observe.requirements import needs
from twin.observe.tox import of_tox


def test_environments_that_run_pytest_count_with_all_their_factors() -> None:
    found = of_tox("""
[testenv]
deps = simplejson
commands = pytest {posargs}
[testenv:py{310,313}-tests{,-rich}]
deps =
    coverage[toml]
    3.13: twisted  # for its logger
    rich: rich>=13
commands = coverage run -m pytest
[testenv:docs]
deps = sphinx
commands = sphinx-build docs
[flake8]
deps = wrong
""")
    assert found.lines == ("simplejson", "coverage[toml]", "twisted", "rich>=13")


def test_an_environment_without_commands_of_its_own_runs_the_common_ones() -> None:
    found = of_tox("[testenv]\ncommands = pytest\n[testenv:extra]\ndeps = freezegun\n")
    assert found.lines == ("freezegun",)
    assert not of_tox("[testenv]\ncommands = make\n[testenv:extra]\ndeps = freezegun\n").lines


def test_factors_that_exclude_each_other_are_left_out() -> None:
    deps = "django4: django<5\n  django5: django<6\n  redis: redis\n  fake,real: redis\n"
    assert of_tox(f"[testenv]\ndeps =\n  {deps}").lines == ("redis",)


def test_what_is_for_the_oldest_versions_or_for_other_work_is_left_out() -> None:
    deps = "lowest: attrs==19\n  mypy: mypy\n  py3-lint: ruff\n  tests: attrs\n"
    assert of_tox(f"[testenv]\ndeps =\n  {deps}").lines == ("attrs",)


def test_groups_and_extras_are_looked_up_where_the_project_defines_them() -> None:
    pyproject = """
[project]
name = "p"
[project.optional-dependencies]
fast = ["orjson"]
[dependency-groups]
tests = ["pretend"]
optional = ["flask"]
typing = ["mypy-extensions"]
"""
    tox = """
[testenv]
dependency_groups =
    tests: tests
    mypy: typing
    optional: optional
    nowhere
extras = fast, typing
commands = pytest
"""
    found = needs({"pyproject.toml": pyproject, "tox.ini": tox})
    assert found.tests == ("flask", "orjson", "pretend", "pytest")


@pytest.mark.parametrize(
    "text", ["", "deps = x", "[testenv", "[testenv]\ndeps", "[testenv]\n%(x)s"]
)
def test_what_is_no_tox_file_asks_for_nothing(text: str) -> None:
    assert not of_tox(text).lines


@given(st.text())
def test_any_value_is_survived(text: str) -> None:
    of_tox(f"[testenv]\ncommands = pytest\ndeps =\n {text}")
