"""`twin train router` at the command line: learns, judges on what it has not seen, serves."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twin.cli.main import run
from twin.cycle.routing import router_in_service
from twin.records import Attempt, Call, Feedback, Question
from twin.specialists.router import Router
from twin.store.database import open_store

Shown = pytest.CaptureFixture[str]
SUM = Question(text="What is 3 plus 4 times 5 ?")
KING = Question(text="Who ruled 3 years before 4?")


def rows(count: int, *, seed: int = 0, days: int = 40) -> list[dict[str, Any]]:
    """The small model fails at sums; a fifth of the time later."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        a, b, c = map(int, rng.integers(10, 999, 3))
        is_sum = bool(rng.random() < 0.5)
        found.append(
            {
                "prompt": f"What is {a} plus {b} times {c} ?" if is_sum
                else f"Who ruled {a} years before {b} in {c}?",
                "weak_correct": bool(rng.random() < (0.2 if is_sum else 0.95)),
                "strong_correct": bool(rng.random() < 0.97),
                "time": 1.7e9 + 86_400 * days * number / count,
            }
        )  # fmt: skip
    return found


def written(path: Path, found: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in found), encoding="utf-8")
    return path


def told(shown: Shown) -> dict[str, Any]:
    return dict(json.loads(shown.readouterr().out))


def test_a_router_that_learnt_is_put_into_service(tmp_path: Path, capsys: Shown) -> None:
    data = written(tmp_path / "answers.jsonl", rows(600))
    assert run(["--repo", str(tmp_path), "train", "router", "--data", str(data), "--json"]) == 0
    found = told(capsys)
    assert (found["decision"], found["in_service"], found["split"]) == (
        "better",
        "router-1",
        "time",
    )
    assert (found["num_train"], found["num_holdout"]) == (480, 120)
    assert found["figures"]["router-1"]["apgr"] > found["figures"]["rules"]["apgr"]
    with open_store(tmp_path) as store:
        router = router_in_service(store)
        assert router.version == "router-1"
        assert router.classify(SUM).confidence < 0.5 < router.classify(KING).confidence
        lineage = store.registry.get("router-1").lineage
        assert (lineage.parent_version, lineage.config["split"]) == ("rules", "time")
        moves = [move.after for move in store.registry.history("router")]
        assert moves == ["passed", "live"]
        # The next one has to beat this one, too; on the same requests there is nothing to gain.
    assert run(["--repo", str(tmp_path), "train", "router", "--data", str(data), "--json"]) == 0
    again = told(capsys)
    assert again["in_service"] == "router-1"


def test_people_get_a_table_with_the_rules_beside_it(tmp_path: Path, capsys: Shown) -> None:
    data = written(tmp_path / "answers.jsonl", rows(600))
    assert run(["--repo", str(tmp_path), "train", "router", "--data", str(data)]) == 0
    out = capsys.readouterr().out
    for word in ("APGR", "CPT 50 %", "calibration error", "rules", "router-1", "Verdict: better."):
        assert word in out


def test_what_is_learnt_knows_nothing_of_the_held_out_part(tmp_path: Path, capsys: Shown) -> None:
    """Another future, the same past: the same model, to the byte."""
    artifacts = []
    for name, future in (("a", rows(100, seed=1)), ("b", rows(100, seed=2))):
        home = tmp_path / name
        home.mkdir()
        for number, one in enumerate(future):
            one["time"] = 2e9 + number
            one["prompt"] += f" {name} zeppelin" * 5
        data = written(home / "answers.jsonl", rows(400) + future)
        run(["--repo", str(home), "train", "router", "--data", str(data), "--json"])
        assert told(capsys)["num_train"] == 400
        with open_store(home) as store:
            artifacts.append(store.registry.get("router-1").artifact)
    assert artifacts[0] == artifacts[1]


def test_a_router_that_learnt_nothing_does_not_replace_the_rules(
    tmp_path: Path, capsys: Shown
) -> None:
    found = rows(500)
    rng = np.random.default_rng(0)
    for one in found:
        one["weak_correct"] = bool(rng.random() < 0.6)
    data = written(tmp_path / "answers.jsonl", found)
    code = run(["--repo", str(tmp_path), "train", "router", "--data", str(data), "--json"])
    answer = told(capsys)
    assert answer["decision"] in ("worse", "not enough data")
    assert code == (1 if answer["decision"] == "worse" else 0)
    assert answer["in_service"] == "rules"
    with open_store(tmp_path) as store:
        assert router_in_service(store).version == "rules"


def test_whole_subjects_are_held_out_where_there_are_no_times(
    tmp_path: Path, capsys: Shown
) -> None:
    found = rows(600)
    for number, one in enumerate(found):
        del one["time"]
        one["subject"] = f"subject {number % 40}"
    data = written(tmp_path / "answers.jsonl", found)
    command = ["--repo", str(tmp_path), "train", "router", "--data", str(data), "--json"]
    run(command)
    answer = told(capsys)
    assert (answer["split"], answer["num_holdout"]) == ("subject", 120)
    run([*command, "--split", "rows"])
    assert told(capsys)["split"] == "rows"


@pytest.mark.parametrize("split", ["time", "subject"])
def test_a_split_that_the_file_cannot_give_is_wrong_use(
    tmp_path: Path, capsys: Shown, split: str
) -> None:
    found = rows(300)
    for one in found:
        del one["time"]
    data = written(tmp_path / "answers.jsonl", found)
    command = ["--repo", str(tmp_path), "train", "router", "--data", str(data), "--split", split]
    assert run(command) == 2
    assert "--split" in capsys.readouterr().err


@pytest.mark.parametrize(("count", "needed"), [(0, "200 are needed"), (240, "200 are needed")])
def test_too_little_is_refused_with_what_is_needed(
    tmp_path: Path, capsys: Shown, count: int, needed: str
) -> None:
    data = written(tmp_path / "answers.jsonl", rows(count))
    assert run(["--repo", str(tmp_path), "train", "router", "--data", str(data)]) == 1
    assert needed in capsys.readouterr().err
    with open_store(tmp_path) as store:
        assert store.registry.versions("router") == []
        assert [one.status for one in store.runs.runs()] == ["refused"]


def test_without_any_call_it_says_how_to_record_some(tmp_path: Path, capsys: Shown) -> None:
    assert run(["--repo", str(tmp_path), "train", "router", "--json"]) == 1
    error = told(capsys)["error"]
    assert error["kind"] == "Refused"
    assert "twin serve" in error["message"]


def test_recorded_calls_with_feedback_are_learnt_from(tmp_path: Path, capsys: Shown) -> None:
    (tmp_path / "twin.toml").write_text(
        '[models.little]\nprovider = "scripted"\nrole = "triage"\n'
        '[models.large]\nprovider = "scripted"\nrole = "reasoning"\n',
        encoding="utf-8",
    )
    calls, feedback = [], []
    for number, one in enumerate(rows(600)):
        body = {"model": "twin", "messages": [{"role": "user", "content": one["prompt"]}]}
        calls.append(
            Call(
                call_id=f"call_{number:032x}",
                at=one["time"],
                dialect="chat",
                outcome="ok",
                asked_model="twin",
                model="little",
                request=json.dumps(body).encode(),
                attempts=(Attempt(model="little", outcome="ok"),),
            )
        )
        feedback.append(
            Feedback(
                feedback_id=f"fb_{number:032x}",
                call_id=f"call_{number:032x}",
                at=one["time"] + 1,
                score=float(one["weak_correct"]),
            )
        )
    with open_store(tmp_path) as store:
        store.calls.add(calls)
        store.calls.add_feedback(feedback)
    assert run(["--repo", str(tmp_path), "train", "router", "--json"]) == 0
    found = told(capsys)
    assert (found["decision"], found["in_service"]) == ("better", "router-1")
    assert found["num_holdout_both"] == 0
    assert found["figures"]["router-1"]["apgr"] is None
    assert found["figures"]["router-1"]["ece"] < found["figures"]["rules"]["ece"]


def test_a_damaged_artefact_leaves_the_rules_in_service(tmp_path: Path, capsys: Shown) -> None:
    data = written(tmp_path / "answers.jsonl", rows(600))
    run(["--repo", str(tmp_path), "train", "router", "--data", str(data), "--json"])
    with open_store(tmp_path) as store:
        artifact = store.artifacts.path(store.registry.get("router-1").artifact)
        artifact.write_bytes(artifact.read_bytes()[:-1])
        assert router_in_service(store).version == Router.rules().version
