"""What a project tells pytest is kept, but for what would disturb a repeatable run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.coding.testing.options import FILES, own_options, without_disturbing


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("-ra -q --strict-markers", "--strict-markers"),
        ("--cov=pkg --cov-report term-missing tests", "tests"),
        ("--cov pkg --cov-report=xml --doctest-modules", "--doctest-modules"),
        ("--cov --import-mode=importlib", "--import-mode=importlib"),
        ("-n auto --dist loadfile -p no:warnings", "-p no:warnings"),
        ("-n4 -nauto --numprocesses=2 --ignore=docs", "--ignore=docs"),
        ("-x --maxfail 3 --reruns=2 -vv -rfEs -l", ""),
        ("--strict-config --strict", "--strict"),
    ],
)
def test_options_that_disturb_go_with_their_values(given: str, kept: str) -> None:
    assert without_disturbing(given.split()) == kept.split()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pytest.ini", "[pytest]\naddopts = --doctest-modules --cov=x\n"),
        ("pyproject.toml", '[tool.pytest.ini_options]\naddopts = "--doctest-modules -n 3"\n'),
        ("pyproject.toml", '[tool.pytest.ini_options]\naddopts = ["--doctest-modules", "-ra"]\n'),
        ("pyproject.toml", '[tool.pytest]\naddopts = ["--doctest-modules"]\n'),
        ("tox.ini", "[pytest]\naddopts =\n  --doctest-modules\n  --cov\n"),
        ("setup.cfg", "[tool:pytest]\naddopts = --doctest-modules\n"),
    ],
)
def test_they_are_found_wherever_pytest_looks(name: str, text: str) -> None:
    assert own_options({name: text}) == ["--doctest-modules"]


def test_the_first_file_with_a_section_decides() -> None:
    files = {
        "pytest.ini": "",
        "pyproject.toml": '[tool.pytest.ini_options]\naddopts = "--strict-markers"\n',
        "setup.cfg": "[tool:pytest]\naddopts = --doctest-modules\n",
    }
    assert own_options(files) == []  # an empty pytest.ini counts
    del files["pytest.ini"]
    assert own_options(files) == ["--strict-markers"]


@given(st.sampled_from(FILES), st.text())
def test_whatever_stands_there_is_survived(name: str, text: str) -> None:
    own_options({name: text})


@pytest.mark.parametrize(
    "text",
    [
        "tool = 3", "[tool]\npytest = 3", "[tool.pytest]\nini_options = 3",
        "[tool.pytest.ini_options]\naddopts = 3",
    ],
)  # fmt: skip
def test_values_of_another_kind_count_as_nothing(text: str) -> None:
    assert own_options({"pyproject.toml": text}) in ([], ["3"])
