"""`twin pairs`, as a user meets it."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.cycle.bare_pack import write_pack

from twin.cli.main import run


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pack(tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def told(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_pairs_are_built_counted_and_exported(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pairs", "build", "../calc.pack", "--json"]) == 0
    built = told(capsys)
    assert (built["num_commits"], built["num_unvalidated"], built["pairs"]["edit"]) == (2, 2, 4)
    assert run(["pairs", "build", "../calc.pack"]) == 0
    shown = capsys.readouterr().out
    assert "2 known before" in shown
    assert "`twin harness validate`" in shown
    assert run(["pairs", "--json"]) == 0
    assert {one["repository"] for one in told(capsys)["counts"]} == {"ada/calc"}
    assert run(["pairs"]) == 0
    assert "test_plan: unvalidated" in capsys.readouterr().out
    assert run(["pairs", "export", "--kind", "edit", "--out", "e.jsonl", "--json"]) == 0
    exported = told(capsys)
    assert exported["num_rows"] == len(Path("e.jsonl").read_text().splitlines()) == 4
    balanced = ("--per-repository", "1", "--seed", "3", "--after", "2020-01-01")
    assert run(["pairs", "export", "--kind", "edit", "--out", "e.jsonl", *balanced]) == 0
    assert "3 passed over" in capsys.readouterr().out


def test_nothing_yet_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pairs"]) == 0
    assert "twin pairs build" in capsys.readouterr().out
    assert run(["pairs", "export", "--kind", "edit", "--out", "e.jsonl"]) == 2
    assert "twin pairs build" in capsys.readouterr().err
    assert not Path("e.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["build", "."], "is no pack"),
        (["export", "--kind", "poem", "--out", "e"], "poem"),
        (["export", "--kind", "edit"], "--out"),
        (["export", "--kind", "edit", "--out", "e", "--before", "soon"], "no moment"),
        (["export", "--kind", "edit", "--out", "e", "--max-share", "0"], "max-share"),
        (["export", "--kind", "edit", "--out", "e", "--stage", "plan"], "Only preferences"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert run(["pairs", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_share_that_one_repository_cannot_keep_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["pairs", "build", "../calc.pack", "--json"]) == 0
    share = ("--max-share", "0.2")
    assert run(["pairs", "export", "--kind", "edit", "--out", "e.jsonl", *share]) == 2
    assert "at least 5 repositories" in capsys.readouterr().err
