"""Interpreters are found by version or path, and each commit gets one that it allows."""

import sys
from pathlib import Path

import pytest

from twin.errors import MissingRequirement, UsageError
from twin.observe.interpreters import Interpreter, find_interpreter, own_interpreter, suiting

OWN = own_interpreter()
OLD = Interpreter(path=Path("/old"), release="3.8.18")
NEW = Interpreter(path=Path("/new"), release="3.14.0rc1")


def test_this_programs_own_is_found_by_version_and_by_path() -> None:
    version = "{}.{}".format(*sys.version_info[:2])
    assert find_interpreter(version) == find_interpreter(sys.executable) == OWN
    assert OWN.version == version
    assert OWN.path.exists()


@pytest.mark.parametrize("wanted", ["3", "three", "", "3.x", "pypy3.10", "3.11; rm"])
def test_what_is_neither_path_nor_version_is_said(wanted: str) -> None:
    with pytest.raises(UsageError, match="Give one"):
        find_interpreter(wanted)


def test_a_version_that_is_not_here_is_said_with_the_cure() -> None:
    with pytest.raises(MissingRequirement, match="uv python install"):
        find_interpreter("3.99")


@pytest.mark.parametrize(
    "said", ["", "no json", '["pypy", "3.10.1", "/x"]', '["cpython", "2.7.1", "/x"]']
)
def test_what_is_no_python_for_tests_is_refused(tmp_path: Path, said: str) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\necho '{said}'\n")
    program.chmod(0o755)
    with pytest.raises(UsageError, match="Give another one"):
        find_interpreter(str(program))


def test_a_path_that_cannot_be_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "python").write_text("x")
    for path in (tmp_path / "python", tmp_path / "none", tmp_path):
        with pytest.raises(UsageError, match="is no Python"):
            find_interpreter(str(path))


def test_those_of_pyenv_that_are_not_on_the_path_are_found_the_newest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for release in ("3.98.2", "3.98.10", "3.98-dev", "3.9.1"):
        program = tmp_path / "versions" / release / "bin" / "python"
        program.parent.mkdir(parents=True)
        program.write_text(f'#!/bin/sh\necho \'["cpython", "{release}", "{program}"]\'\n')
        program.chmod(0o755)
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert find_interpreter("3.98").release == "3.98.10"
    assert find_interpreter("3.98.2").release == "3.98.2"


@pytest.mark.parametrize(
    ("requires", "suit"),
    [
        ("", [OLD, NEW]),
        (">=3.9", [NEW]),
        ("<3.10", [OLD]),
        (">=3.6, !=3.8.*", [NEW]),
        (">=4", []),
        ("what it likes", [OLD, NEW]),
    ],
)
def test_each_project_says_what_suits_it(requires: str, suit: list[Interpreter]) -> None:
    assert suiting([OLD, NEW], requires) == suit
