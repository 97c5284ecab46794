"""`twin mine`, `index`, `locate` and `context`: what they show people and tell programs."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from twin.cli.main import run
from twin.store.database import open_store

New = Callable[..., Path]
Git = Callable[..., str]
Shown = pytest.CaptureFixture[str]

RETRY = '''"""Retries."""


class Retry:
    """Tries again after a delay."""

    def __init__(self, delay: float) -> None:
        self.delay = delay

    def wait(self) -> float:
        return self.delay
'''


@pytest.fixture
def root(new_repository: New) -> Path:
    return new_repository(
        ("Begin with retries", {"src/retry.py": RETRY, "src/other.py": "import retry\nx = 1\n"}),
        ("Fix the delay of retries", {"src/retry.py": RETRY + "\n\nDELAY = 2\n"}),
        ("Fix typo", {"README.md": "Retry.\n"}),
        ("Bump version to 2.0", {"src/other.py": "import retry\nx = 2\n"}),
    )


def shown_by(capsys: Shown, *arguments: object) -> str:
    assert run([str(one) for one in arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return str(out)


def test_mining_shows_what_each_rule_left_and_the_labels(capsys: Shown, root: Path) -> None:
    shown = shown_by(capsys, "mine", root)
    for rule in ("all", "merge", "bot", "no source", "max source files", "max source lines"):
        assert f" {rule} " in shown
    assert "4 commits, 4 of them new, 3 kept" in shown
    assert " fix " in shown
    mined = json.loads(shown_by(capsys, "--repo", root, "mine", "--json"))
    assert (mined["num_commits"], mined["num_new"], mined["num_kept"]) == (4, 0, 3)
    assert mined["attrition"][0] == {"rule": "all", "removed": 0, "remaining": 4}


def test_a_second_index_parses_nothing(capsys: Shown, root: Path) -> None:
    shown = shown_by(capsys, "index", root)
    assert "2 files with " in shown
    assert "1 imports between them; 2 contents parsed, 0 known before" in shown
    indexed = json.loads(shown_by(capsys, "index", root, "--json"))
    assert (indexed["num_parsed"], indexed["num_cached"]) == (0, 2)
    assert indexed["languages"] == {"python": 2}


def test_locating_ranks_files_with_reasons_and_symbols(capsys: Shown, root: Path) -> None:
    task = "make the retry delay configurable"
    shown = shown_by(capsys, "--repo", root, "locate", task)
    first = next(line.split() for line in shown.splitlines() if "src/retry.py" in line)
    assert first[:2] == ["1", "src/retry.py"]
    assert "Symbols" in shown
    assert any(row.split()[:2] == ["src/retry.py", "Retry"] for row in shown.splitlines())
    assert "2 files ranked by the shipped model in" in shown

    bare = shown_by(capsys, "--repo", root, "locate", task, "--no-symbols", "--limit", "1")
    assert "Symbols" not in bare
    assert "src/other.py" not in bare

    located = json.loads(shown_by(capsys, "--repo", root, "locate", task, "--json"))
    assert located["version"] == "default"
    assert located["answer"]["files"][0]["path"] == "src/retry.py"
    assert {"path", "score", "share", "reasons", "symbols"} <= set(located["answer"]["files"][0])
    with open_store(root) as store:
        assert [each.query for each in store.decisions.recent(5)] == [task] * 3


def test_explaining_shows_every_reason_with_its_amount(capsys: Shown, root: Path) -> None:
    task = "make the retry delay configurable"
    located = json.loads(shown_by(capsys, "--repo", root, "locate", task, "--json"))
    shown = shown_by(capsys, "--repo", root, "locate", task, "--explain")
    for file in located["answer"]["files"]:
        for reason in file["reasons"]:
            assert f"{reason['text']} ({reason['amount']:+.2f})" in shown


def test_a_dash_reads_the_task_from_stdin(
    capsys: Shown, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = io.TextIOWrapper(io.BytesIO(b"make the retry\xff delay\nconfigurable\n"))
    monkeypatch.setattr(sys, "stdin", given)
    located = json.loads(shown_by(capsys, "--repo", root, "locate", "-", "--json"))
    assert located["answer"]["task"] == "make the retry\ufffd delay\nconfigurable\n"
    assert located["answer"]["files"][0]["path"] == "src/retry.py"


def test_the_one_who_asks_is_the_author_that_git_would_name(root: Path, run_git: Git) -> None:
    from twin.coding.git import GitRepository
    from twin.cycle.answers import author_of

    run_git(root, "config", "user.email", "grace@example.org")
    with GitRepository.open(root) as repository:
        assert author_of(repository) == "grace@example.org"


def test_a_context_is_markdown_within_its_budget(capsys: Shown, root: Path) -> None:
    task = "make the retry delay configurable"
    shown = shown_by(capsys, "--repo", root, "context", task)
    assert shown.startswith(f"# Context for: {task}\n")
    assert "self.delay = delay" in shown

    for budget in (60, 120, 1000):
        told = json.loads(
            shown_by(capsys, "--repo", root, "context", task, "--budget", budget, "--json")
        )
        assert told["package"]["num_tokens"] <= told["package"]["budget_tokens"] == budget
    assert told["package"]["items"][0]["path"] == "src/retry.py"


def test_the_window_of_the_configuration_is_the_budget(capsys: Shown, root: Path) -> None:
    settings = "[context]\nwindow_tokens = 500\nreserve_tokens = 100\n"
    (root / "twin.toml").write_text(settings, encoding="utf-8")
    told = json.loads(shown_by(capsys, "--repo", root, "context", "retry delay", "--json"))
    assert told["package"]["budget_tokens"] == 400
