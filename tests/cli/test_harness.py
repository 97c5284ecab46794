"""`twin pack`, `twin packs` and `twin harness validate`, as a user meets them."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.coding.conftest import World
from tests.observe.small_project import FIRST, SECOND

from twin.cli.main import run
from twin.cycle.supplement import SupplementedPack

pytestmark = pytest.mark.usefixtures("no_index")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(tmp_path / "world")
    world.grow(*(("Make add add its numbers instead", files) for files in (FIRST, SECOND)))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return world


def told(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_a_repository_is_packed_found_and_validated(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["pack", str(world.root), "--json"]) == 0
    packed = told(capsys)
    assert Path(packed["folder"]).name == "world.pack"
    assert packed["commits"] == 1
    assert packed["environments"][0]["num_passing"] == 2
    assert run(["packs", "--json"]) == 0
    assert [one["name"] for one in told(capsys)["packs"]] == ["world"]
    assert run(["harness", "validate", "world.pack", "--workers", "1", "--json"]) == 0
    found = told(capsys)
    assert (found["num_valid"], found["num_commits"], found["num_known"]) == (1, 1, 0)
    assert found["validations"][0]["classes"]["tests/test_calc.py::test_sum"] == "fail_to_pass"
    assert run(["harness", "validate", "world.pack"]) == 0
    shown = capsys.readouterr().out
    assert "1 of 1 valid" in shown
    assert "1 known before" in shown
    assert run(["harness", "run", "world.pack", "--workers", "1", "--json"]) == 0
    assert told(capsys)["num_solved"] == 1
    assert run(["harness", "run", "world.pack", "--planner", "null", "--workers", "1"]) == 0
    assert "0 of 1 solved" in capsys.readouterr().out
    assert run(["harness", "report", "--json"]) == 0
    found = told(capsys)
    assert (found["pooled"]["num_valid"], found["repositories"][0]["num_packed"]) == (1, 1)
    assert found["repositories"][0]["environments"][0]["num_passing"] == 2
    assert [one["planner"] for one in found["campaigns"]] == ["gold", "null"]
    Path("world.pack/manifest.json").write_text("{}")
    assert run(["harness", "report", "--html", "report.html"]) == 0
    shown = capsys.readouterr().out
    assert "world: its pack is not at hand" in shown
    assert "Left out:" in shown
    assert Path("report.html").read_text().startswith("<!doctype html>")
    assert run(["harness", "report", "world.pack"]) == 2
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.slow
def test_more_tasks_are_made_of_a_pack(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pack", str(world.root), "--out", "x.pack", "--json"]) == 0
    told(capsys)
    supplement = ["harness", "supplement", "x.pack", "--workers", "1"]
    assert run([*supplement, "--json"]) == 0
    found = told(capsys)
    assert (found["num_natural"], found["why"]) == (1, {"covered": 1})
    assert run(supplement) == 0
    assert "1 of 1 valid by themselves, 0 more by generated tests" in capsys.readouterr().out
    mutate = ["harness", "mutate", "x.pack", "--count", "3", "--workers", "1"]
    assert run([*mutate, "--json"]) == 0
    found = told(capsys)
    assert (found["num_tried"], found["num_accepted"]) == (1, 1)
    assert run(mutate) == 0
    assert "1 of 1 make a task" in capsys.readouterr().out


def test_a_model_and_its_generator_go_together(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    for options in (["--generator", "backend"], ["--generator", "guards", "--model", "big"]):
        assert run(["harness", "supplement", "x.pack", *options]) == 2
        assert "go together" in capsys.readouterr().err
    assert run(["harness", "supplement", "x.pack", "--model", "big"]) == 2
    assert "There is no [models.big]" in capsys.readouterr().err


@pytest.mark.slow
def test_people_get_tables(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pack", str(world.root), "--out", "x.pack", "--newest", "1"]) == 0
    assert "1 commits, 1 with an environment" in capsys.readouterr().out
    assert run(["packs"]) == 0
    assert "world" in capsys.readouterr().out
    Path("x.pack/manifest.json").write_text("{}")
    assert run(["packs"]) == 0
    assert "cannot be read" in capsys.readouterr().out


def test_what_is_no_pack_is_said(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["harness", "validate", str(world.root)]) == 2
    assert "is no pack" in capsys.readouterr().err
    assert run(["packs", "/nowhere"]) == 2
    capsys.readouterr()
    assert run(["packs"]) == 0
    assert "None here" in capsys.readouterr().out


def test_what_is_there_is_not_packed_over(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    Path("world.pack").mkdir()
    assert run(["pack", str(world.root)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_machines_that_did_not_take_part_are_named_whatever_the_work_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = SupplementedPack(
        pack="x", generators=(), num_commits=0, num_known=0, num_natural=0, num_won=0,
        num_strengthened=0, why={"not_run": 2}, accepted={}, proposed={}, mean_coverage=None,
        refused={"node-2": "it has no pack"}, seconds=0.0, supplements=(),
    )  # fmt: skip
    monkeypatch.setattr("twin.cycle.supplement.supplement_pack", lambda *_, **__: found)
    monkeypatch.chdir(tmp_path)
    assert run(["harness", "supplement", "x.pack"]) == 0
    shown = capsys.readouterr().out
    assert "node-2 did not take part: it has no pack" in shown
    assert "2 not run." in shown
