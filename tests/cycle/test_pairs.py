"""Pairs of a pack: from the parent alone, made once, in the order of time, whoever builds them."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.cycle.bare_pack import THIRD, write_pack

from twin.coding.context import ContextItem, ContextPackage
from twin.config import Config
from twin.cycle import harness, pairs
from twin.cycle.pairs import Built, build_pairs, export_pairs, pair_summary
from twin.errors import PackDamaged, UsageError
from twin.records import Mutant, Validation
from twin.store.answers import lookup_of
from twin.store.database import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    (tmp_path / "here").mkdir()
    with open_store(tmp_path / "here") as store:
        yield store


@pytest.fixture
def commits(tmp_path: Path) -> list[str]:
    return write_pack(tmp_path)


def build(tmp_path: Path, store: Store, **how: int) -> Built:
    return build_pairs(tmp_path / "calc.pack", store, Config(), **how)


def validated(store: Store, commit: str, parent: str, why: str = "") -> None:
    found = Validation(
        commit_id=commit,
        parent_id=parent,
        why=why,  # type: ignore[arg-type]
        classes={"tests/test_core.py::test_add": "fail_to_pass"},
        environment="e",
    )
    key = lookup_of(harness.VERSION, "ada/calc", commit, "e", "targeted")
    store.validations.add("ada/calc", key, found)


def trial(
    store: Store, campaign: str, commit: str, context: str, symbols: list[str], why: str
) -> None:
    """A finished trial with a plan for the one file."""
    plan = {"steps": [{"path": "calc/core.py", "symbols": symbols}]}
    results: dict[str, dict[str, object]] = {
        "retrieve": {"context": context, "files": ["calc/core.py", "calc/more.py"]},
        "plan": {"plan": plan, "alignment": 1.0 if not why else 0.2},
        "execute": {"edits": store.artifacts.put(msgspec.msgpack.encode({}))},
        "validate": {"why": why},
    }
    for step, result in results.items():
        store.trials.add(
            campaign=campaign, pack="ada/calc", commit_id=commit, number=0, step=step,
            result=result, seconds=0.0,
        )  # fmt: skip


def context_at(store: Store, commit: str, text: str) -> str:
    item = ContextItem(
        path="calc/core.py", symbol="", start_line=1, end_line=1, detail="whole", tier="file",
        num_tokens=1, text=text,
    )  # fmt: skip
    package = ContextPackage(
        task="t", commit_id=commit, budget_tokens=9, num_tokens=9, items=(item,), num_left_out=0
    )
    return store.artifacts.put(msgspec.json.encode(package))


def everything(store: Store) -> list[tuple[str, str]]:
    return [(one.content_hash, str(one.dropped_by)) for one in store.pairs.fingerprints()]


def test_pairs_are_made_once_and_unvalidated_commits_are_counted(
    tmp_path: Path, store: Store, commits: list[str]
) -> None:
    first = build(tmp_path, store)
    assert (first.num_commits, first.num_known, first.num_unvalidated) == (2, 0, 2)
    assert first.pairs["edit"] == 4
    assert first.left_out == {"test_plan: unvalidated": 2}
    before = everything(store)
    again = build(tmp_path, store)
    assert again.num_known == 2
    assert again.pairs == first.pairs
    assert everything(store) == before


def test_what_was_validated_since_is_made_anew(
    tmp_path: Path, store: Store, commits: list[str]
) -> None:
    build(tmp_path, store)
    validated(store, commits[1], commits[0])
    found = build(tmp_path, store)
    assert (found.num_known, found.num_unvalidated, found.pairs["test_plan"]) == (1, 1, 1)
    by_validity = {one.validity for one in pair_summary(store).counts}
    assert by_validity == {"valid", "unvalidated"}


def test_faults_that_were_planted_since_are_tasks_of_their_commit(
    tmp_path: Path, store: Store, commits: list[str]
) -> None:
    first = build(tmp_path, store)
    faulty = THIRD["calc/more.py"].replace("2 * a", "3 * a").encode()
    for number, (why, artifact) in enumerate(
        [("", store.artifacts.put(faulty)), ("survives", store.artifacts.put(b"")), ("", "0" * 64)]
    ):
        mutant = Mutant(
            commit_id=commits[2], environment="e", path="calc/more.py", line=5, symbol="twice",
            operator="number", before="2", after="3", artifact=artifact,
            why=why,  # type: ignore[arg-type]
        )  # fmt: skip
        store.mutants.add("ada/calc", str(number), mutant)
    found = build(tmp_path, store)
    assert (found.num_known, found.pairs["edit"]) == (1, first.pairs["edit"] + 1)
    export_pairs(store, tmp_path / "edits.jsonl", "edit", stage="")
    rows = [json.loads(line) for line in (tmp_path / "edits.jsonl").read_text().splitlines()]
    (made,) = [row for row in rows if row["metadata"]["source"] == "generated"]
    assert "3 * a" in made["messages"][1]["content"]
    assert "2 * a" not in made["messages"][1]["content"]
    assert "2 * a  # FUTURE" in made["messages"][2]["content"]
    assert build(tmp_path, store).num_known == 2


def test_nothing_later_than_the_parent_stands_in_a_question(
    tmp_path: Path, store: Store, commits: list[str]
) -> None:
    # What somebody wrote down of a later moment, under the name of the earlier commit.
    leaked = context_at(store, commits[2], "FUTURE leaked")
    trial(store, "a", commits[1], leaked, ["add"], "")
    trial(store, "b", commits[1], leaked, [], "tests_fail")
    validated(store, commits[1], commits[0])
    build(tmp_path, store)
    out = tmp_path / "out.jsonl"
    for kind in ("scope", "precision", "meta_plan", "step_plan", "test_plan", "edit"):
        export_pairs(store, out, kind)  # type: ignore[arg-type]
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        of_first = [row for row in rows if row["metadata"]["commit_id"] == commits[1]]
        assert of_first
        for row in of_first:
            shown = " ".join(message["content"] for message in row["messages"][:-1])
            assert "FUTURE" not in shown
            assert "future" not in shown
            assert "SECRET_OF_IT" not in shown
            assert "hidden" not in shown
            if kind in ("scope", "precision", "meta_plan"):
                assert "secret" not in shown
    reasons = pair_summary(store).left_out["ada/calc"]
    assert reasons["preference: other_context"] == 2


def test_a_failed_plan_beside_one_that_passed_becomes_a_preference(
    tmp_path: Path, store: Store, commits: list[str]
) -> None:
    context = context_at(store, commits[0], "what they saw")
    trial(store, "a", commits[1], context, ["add"], "")
    trial(store, "b", commits[1], context, [], "tests_fail")
    store.trials.add(
        campaign="c", pack="ada/calc", commit_id=commits[1], number=0, step="retrieve",
        result={"context": context, "files": []}, seconds=0.0,
    )  # fmt: skip
    assert build(tmp_path, store).pairs["preference"] == 1
    out = tmp_path / "out.jsonl"
    export_pairs(store, out, "preference", stage="plan")
    row = json.loads(out.read_text())
    assert "what they saw" in row["prompt"][1]["content"]
    assert '"symbols": ["add"]' in row["chosen"][0]["content"]
    assert '"symbols"' not in row["rejected"][0]["content"]
    with pytest.raises(UsageError, match="no such pairs"):
        export_pairs(store, out, "preference", stage="edit")


def test_a_context_that_is_gone_is_made_again(
    tmp_path: Path, store: Store, commits: list[str]
) -> None:
    context = context_at(store, commits[0], "what they saw")
    trial(store, "a", commits[1], context, ["add"], "")
    store.artifacts.path(context).unlink()
    found = build(tmp_path, store)
    assert found.pairs["meta_plan"] == 2
    assert found.left_out["preference: other_context"] == 1


def test_a_build_that_was_stopped_goes_on_where_it_was(
    tmp_path: Path, store: Store, commits: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def stopping(*given: object, **how: object) -> object:
        made.append(given)
        if len(made) == 2:
            raise KeyboardInterrupt
        return whole(*given, **how)  # type: ignore[arg-type]

    whole = pairs.made_of
    monkeypatch.setattr(pairs, "made_of", stopping)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, store)
    assert build(tmp_path, store).num_known == 1
    assert len(made) == 3


def test_two_builds_at_once_make_what_one_makes(
    tmp_path: Path, store: Store, commits: list[str]
) -> None:
    build(tmp_path, store)
    alone = everything(store)
    store.rebuild_curated()
    assert everything(store) == []

    def other() -> None:
        with open_store(tmp_path / "here") as mine:
            build(tmp_path, mine)

    threads = [threading.Thread(target=other) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert everything(store) == alone


def test_splits_by_time_share_nothing_and_leave_nothing_out(
    tmp_path: Path, store: Store, commits: list[str]
) -> None:
    build(tmp_path, store)
    out = tmp_path / "out.jsonl"
    export_pairs(store, out, "edit")
    rows = [json.loads(line)["metadata"] for line in out.read_text().splitlines()]
    times = [row["commit_time"] for row in rows]
    assert times == sorted(times)
    moment = float(times[-1])
    earlier = export_pairs(store, out, "edit", before=moment)
    later = export_pairs(store, out, "edit", after=moment)
    assert (earlier.num_rows, later.num_rows) == (2, 2)
    with pytest.raises(UsageError, match="no such pairs"):
        export_pairs(store, out, "edit", after=time.time())
    with pytest.raises(UsageError, match="no such pairs"):
        export_pairs(store, out, "edit", only_valid=True)
    with pytest.raises(UsageError, match="no such pairs"):
        export_pairs(store, out, "edit", max_tokens=5)
    assert export_pairs(store, out, "edit", per_repository=3).num_passed_over == 1


def test_a_damaged_pack_is_refused(tmp_path: Path, store: Store, commits: list[str]) -> None:
    (tmp_path / "calc.pack" / "repo" / "config").write_text("")
    with pytest.raises(PackDamaged):
        build(tmp_path, store)
    assert everything(store) == []
