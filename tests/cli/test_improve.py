"""`twin improve` at the command line: its report, its exit codes, and that nothing stops it for
good: neither Ctrl-C, nor a kill, nor a second one at the same time."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from twin.cli.main import INTERRUPTED, run
from twin.cycle.improvement import STAGES
from twin.store.database import open_store

New = Callable[..., Path]
Shown = pytest.CaptureFixture[str]

# A shell that starts the tests in the background has them ignore SIGINT; the program must not.
PROGRAM = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from twin.cli.main import main; main()"
)
TWIN = [sys.executable, "-W", "error", "-c", PROGRAM]


def start(root: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*TWIN, "improve", root, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished_stages(root: Path) -> set[str]:
    """The stages that the store knows to be finished, read while another process writes."""
    database = root / ".twin" / "twin.db"
    if not database.exists():
        return set()
    try:
        with closing(sqlite3.connect(database, timeout=5)) as connection:
            return {stage for (stage,) in connection.execute("SELECT stage FROM raw_run_stage")}
    except sqlite3.OperationalError:
        return set()  # its tables are not made yet


def wait_for(stage: str, root: Path, program: "subprocess.Popen[str]") -> None:
    while stage not in finished_stages(root):
        assert program.poll() is None, program.communicate()
        time.sleep(0.01)


def statuses(root: Path) -> list[str]:
    with open_store(root) as store:
        return [each.status for each in store.runs.runs()]


def result_of(program: "subprocess.Popen[str]") -> dict[str, object]:
    out, err = program.communicate()
    assert program.returncode == 0, err
    assert err == ""
    found: dict[str, object] = json.loads(out)
    return found


@pytest.mark.slow
def test_the_report_for_people_says_what_was_found_and_what_serves(
    capsys: Shown, new_history: New
) -> None:
    root = new_history(170)
    assert run(["improve", str(root)]) == 0
    shown, err = capsys.readouterr()
    assert err == ""
    assert "world: 34 later tasks, held out" in shown
    for name, role in (
        ("relevance-1", "candidate, in service"),
        ("bm25", "words alone"),
        ("default", "shipped with the package"),
    ):
        line = next(line for line in shown.splitlines() if line.strip().startswith(name))
        assert role in line
    assert "Verdict: better." in shown
    assert "relevance-1 against bm25 on 34 later tasks: recall@1/5/10 gains" in shown
    assert "In service: relevance-1, better than all it was compared with." in shown
    assert "learnt from 135 earlier tasks." in shown
    assert f"Report: {root / '.twin' / 'report.html'}" in shown
    assert "Time: " in shown

    assert run(["--repo", str(root), "improve"]) == 0
    assert "Nothing is new since the last run" in capsys.readouterr().out

    assert run(["--repo", str(root), "runs"]) == 0
    assert "fit " in capsys.readouterr().out
    assert run(["--repo", str(root), "runs", "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert list(runs[0]["result"]["seconds"]) == list(STAGES)


def test_too_little_history_is_told_in_plain_words(capsys: Shown, new_history: New) -> None:
    root = new_history(3)
    assert run(["improve", str(root)]) == 0
    shown = capsys.readouterr().out
    assert "Verdict: not enough data." in shown
    assert "at least 40 of those are needed. Until then the shipped model answers." in shown
    assert "In service: the shipped model, as before." in shown


def test_force_does_every_stage_again(capsys: Shown, new_history: New) -> None:
    root = new_history(4)
    assert run(["improve", str(root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["skipped"] == []
    for force, skipped in (([], 5), (["--force"], 0)):
        assert run(["improve", str(root), "--json", *force]) == 0
        assert len(json.loads(capsys.readouterr().out)["skipped"]) == skipped


@pytest.mark.slow
def test_a_worse_candidate_is_refused_with_exit_code_1(capsys: Shown, new_repository: New) -> None:
    """All that can be learnt from misleads; what is held out does just what it says."""
    words = [f"word{number}" for number in range(24)]
    changes = [("Begin", {f"src/{w}.py": f"class {w.title()}:\n    {w} = 0\n" for w in words})]
    for number in range(1, 250):
        at = (7 * number) % len(words)
        place = (at + 5) % len(words) if number < 199 else at
        text = f"class {words[place].title()}:\n    {words[place]} = {number}\n"
        changes.append((f"Adjust {words[at]} in part {number}", {f"src/{words[place]}.py": text}))
    root = new_repository(*changes)
    assert run(["improve", str(root)]) == 1
    shown = capsys.readouterr().out
    assert "Verdict: worse." in shown
    assert "In service: the shipped model, as before." in shown
    assert statuses(root) == ["refused"]
    assert run(["improve", str(root), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["decision"] == "worse"


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_finished_and_the_same_command_goes_on(new_history: New) -> None:
    root = new_history(100)
    program = start(root)
    wait_for("index", root, program)
    program.send_signal(signal.SIGINT)
    out, err = program.communicate()
    assert program.returncode == INTERRUPTED
    assert json.loads(out)["error"]["kind"] == "Interrupted"
    assert err.strip() == ""
    assert statuses(root) == ["interrupted"]

    after = result_of(start(root))
    assert set(after["skipped"]) >= {"mine", "tasks", "index"}  # type: ignore[call-overload]
    assert after["candidate"] == "relevance-1"
    assert statuses(root) == ["done", "interrupted"]


@pytest.mark.slow  # six runs in processes of their own
@pytest.mark.parametrize("stage", ["tasks", "fit", "judge"])
def test_a_killed_run_goes_on_to_the_same_result(new_history: New, stage: str) -> None:
    root = new_history(170)
    other = Path(shutil.copytree(root, root.parent / "other" / root.name))
    program = start(root)
    wait_for(stage, root, program)
    os.kill(program.pid, signal.SIGKILL)
    program.communicate()
    assert program.returncode == -signal.SIGKILL
    assert statuses(root) == ["interrupted"]

    after, undisturbed = result_of(start(root)), result_of(start(other))
    for key in ("decision", "promoted", "candidate", "in_service", "figures", "verdicts", "recipe"):
        assert after[key] == undisturbed[key], key


@pytest.mark.slow  # two runs in processes of their own
def test_two_at_once_take_turns_and_agree(new_history: New) -> None:
    root = new_history(170)
    programs = [start(root), start(root)]
    first, second = (result_of(program) for program in programs)
    assert first["figures"] == second["figures"]
    assert first["in_service"] == second["in_service"] == "relevance-1"
    assert sorted(len(each["skipped"]) for each in (first, second)) == [0, 6]  # type: ignore[arg-type]
    with open_store(root) as store:
        assert len(store.registry.versions()) == 1
