"""`twin runs`: what was run, the newest first."""

import json
from pathlib import Path

import pytest

from twin.cli.main import run
from twin.store.database import open_store


def test_the_newest_runs_are_listed_first(
    capsys: pytest.CaptureFixture[str], repository: Path
) -> None:
    with open_store(repository) as store:
        for status in ("done", "refused"):
            run_id = store.runs.begin("improve", "owner/\x1b[31mname", {})
            store.runs.finish(run_id, status, {"status": status})
    assert run(["--repo", str(repository / "."), "runs", "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [each["status"] for each in runs] == ["refused", "done"]
    assert run(["--repo", str(repository), "runs", "--limit", "1"]) == 0
    shown = capsys.readouterr().out
    assert "refused" in shown
    assert "done" not in shown
    assert "\x1b" not in shown


def test_a_repository_without_runs_says_how_to_make_one(
    capsys: pytest.CaptureFixture[str], repository: Path
) -> None:
    assert run(["--repo", str(repository), "runs"]) == 0
    assert "`twin improve` makes the first" in capsys.readouterr().out


def test_from_a_folder_inside_the_repository_the_same_store_is_found(
    capsys: pytest.CaptureFixture[str], repository: Path
) -> None:
    (repository / "a" / "b").mkdir(parents=True)
    assert run(["--repo", str(repository / "a" / "b"), "runs", "--json"]) == 0
    assert (repository / ".twin").is_dir()
    assert not (repository / "a" / "b" / ".twin").exists()
