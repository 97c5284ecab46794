"""The report counts what store and manifests hold, and is deaf to what a name says."""

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from twin.cycle import outcomes_page
from twin.cycle.outcomes import outcomes_of
from twin.cycle.outcomes_page import write_page
from twin.cycle.outcomes_tables import headline, tables
from twin.observe.manifest import Manifest, PackedCommit, PackedEnvironment
from twin.observe.mine import AttritionRow
from twin.records import Validation, WhyInvalid
from twin.store.database import Store

HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(1)> $\\frac{ \x1b[31m{{ 7*7 }}"
)
FOLDER = Path("/packs/one.pack")


def answered(
    store: Store, number: int, why: WhyInvalid = "", *, pack: str = "world", **how: object
) -> None:
    """One answer in the store, for the commit of that number."""
    given = Validation(
        commit_id=f"{number:040}",
        parent_id="",
        why=why,
        environment="e",
        classes={"test_a": "fail_to_pass", "test_b": "pass_to_pass"},
        num_runs=4,
        seconds=2.0,
    )
    answer = replace(given, **how)  # type: ignore[arg-type]
    store.validations.add(pack, f"{pack} {number} {why} {sorted(how)}", answer)


def manifest(num_commits: int = 3, *, name: str = "world", counted: bool = True) -> Manifest:
    commits = [
        PackedCommit(
            commit_id=f"{number:040}", parent_id="", time=0, environment="e", labels=(),
            message_score=1.0, num_source_files=1, num_test_files=1,
        )
        for number in range(num_commits)
    ]  # fmt: skip
    environment = PackedEnvironment(
        key="e", python="3.11", until="2026-01-01", packages={}, left_out=[HOSTILE],
        num_commits=num_commits, tried_on="", num_tests=10, num_passing=9, fault=HOSTILE,
    )  # fmt: skip
    rows = [
        AttritionRow(rule="all", removed=0, remaining=20),
        AttritionRow(rule="merge", removed=20 - num_commits, remaining=num_commits),
    ]
    return Manifest(
        format=2, name=name, head="", python="3.11", machine="", made_at=0.0, commits=commits,
        environments=[environment], failed={"x": "why"}, attrition=rows if counted else [],
        files={},
    )  # fmt: skip


def tried(store: Store, number: int, why: str | None, planner: str = "gold") -> None:
    """The steps of one trial; without a verdict where `why` is None."""
    steps = {
        "retrieve": {"planner": planner, "executor": "gold"},
        "plan": {"alignment": 0.5},
        "validate": {"why": why},
    }
    for step, result in steps.items():
        if step != "validate" or why is not None:
            store.trials.add(
                campaign=planner, pack="world", commit_id=str(number), number=0, step=step,
                result=result, seconds=2.0,
            )  # fmt: skip


def test_a_pack_is_followed_from_its_history_to_proved_commits(store: Store) -> None:
    answered(store, 0, seconds=1.0)
    answered(store, 1, "nothing_fails", seconds=9.0)
    found = outcomes_of(store, [(FOLDER, manifest())])
    (world,) = found.repositories
    assert (world.num_packed, world.num_unresolved, world.folder) == (3, 1, str(FOLDER))
    assert [row.remaining for row in world.attrition] == [20, 3]
    assert (world.found.num_commits, world.found.num_valid) == (2, 1)
    assert world.found.why == {"nothing_fails": 1}
    assert world.found.classes == {"fail_to_pass": 2, "pass_to_pass": 2}
    assert (world.found.median_s, world.found.p90_s, world.found.seconds) == (5.0, 9.0, (1.0, 9.0))
    assert world.found.median_run_s == 1.25
    assert world.found.commits_per_hour == 720
    assert found.pooled == world.found


def test_the_newest_answer_of_the_packs_own_environment_counts(store: Store) -> None:
    answered(store, 0, "flaky_only")
    answered(store, 0)
    answered(store, 0, "unfinished", environment="of another pack")
    found = outcomes_of(store, [(FOLDER, manifest())])
    assert (found.pooled.num_commits, found.pooled.num_valid) == (1, 1)


def test_a_repository_whose_pack_is_not_at_hand_is_shown_and_said(store: Store) -> None:
    answered(store, 0)
    answered(store, 0, pack="far")
    answered(store, 1, "nothing_fails", pack="far")
    found = outcomes_of(store, [(FOLDER, manifest())])
    assert [(one.name, one.folder) for one in found.repositories] == [
        ("world", str(FOLDER)), ("far", ""),
    ]  # fmt: skip
    assert (found.pooled.num_commits, found.pooled.num_valid) == (3, 2)
    assert "far: its pack is not at hand" in tables(found)[0].note
    alone = outcomes_of(store, [(FOLDER, manifest())], others=False)
    assert (len(alone.repositories), alone.num_others) == (1, 1)


def test_a_pack_that_did_not_count_its_attrition_is_said(store: Store) -> None:
    packs = [(FOLDER, manifest()), (FOLDER, manifest(name="old", counted=False))]
    found = outcomes_of(store, packs)
    assert [row.remaining for row in found.attrition] == [20, 3]
    assert "old: its pack has format 1" in tables(found)[0].note


def test_attrition_adds_up_over_repositories_and_their_rules(store: Store) -> None:
    strict = manifest(2, name="strict")
    strict.attrition.append(AttritionRow(rule="min_words", removed=1, remaining=1))
    found = outcomes_of(store, [(FOLDER, manifest(3)), (FOLDER, strict)])
    assert [(row.rule, row.removed, row.remaining) for row in found.attrition] == [
        ("all", 0, 40), ("merge", 35, 5), ("min_words", 1, 4),
    ]  # fmt: skip


def test_campaigns_are_told_apart_by_who_planned(store: Store) -> None:
    tried(store, 0, "")
    tried(store, 1, "tests_fail")
    tried(store, 2, None)
    tried(store, 0, "tests_fail", planner="null")
    store.trials.add(
        campaign="old", pack="world", commit_id="0", number=0, step="retrieve", result={},
        seconds=1.0,
    )  # fmt: skip
    gold, old, null = outcomes_of(store, [(FOLDER, manifest())]).campaigns
    assert (gold.planner, gold.num_trials, gold.num_solved, gold.num_unfinished) == (
        "gold", 3, 1, 1,
    )  # fmt: skip
    assert (gold.why, gold.mean_alignment) == ({"tests_fail": 1}, 0.5)
    assert gold.median_s == {"retrieve": 2.0, "plan": 2.0, "validate": 2.0}
    assert (old.planner, old.num_unfinished) == ("not recorded", 1)
    assert (null.planner, null.num_solved) == ("null", 0)


def test_an_empty_store_says_what_to_do(store: Store, tmp_path: Path) -> None:
    found = outcomes_of(store, [])
    assert "twin harness validate" in headline(found)
    assert tables(found) == []
    write_page(found, tmp_path / "page.html", "now")
    assert "twin harness validate" in (tmp_path / "page.html").read_text()


def test_more_answers_than_a_page_of_the_store_are_all_counted(store: Store) -> None:
    for number in range(120):
        answered(store, number)
    assert outcomes_of(store, [(FOLDER, manifest(120))]).pooled.num_valid == 120


def test_no_name_gets_into_the_page_as_anything_but_text(store: Store, tmp_path: Path) -> None:
    for number in range(2):
        answered(store, number, pack=HOSTILE)
    answered(store, 2, "nothing_runs", pack="far" + HOSTILE)
    tried(store, 0, "", planner=HOSTILE)
    tried(store, 1, HOSTILE)
    packs = [(FOLDER, manifest(name=HOSTILE)), (FOLDER, manifest())]
    write_page(outcomes_of(store, packs), tmp_path / "page.html", "now")
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert "<img" not in page
    assert "\x1b" not in page
    assert "{{ 7*7 }}" in page
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(drawings) == 5
    for drawing in drawings:
        ElementTree.fromstring(drawing)
    assert not re.findall(r"(?:src|href)=\"(?!#)", page)


def test_a_page_is_there_whole_or_as_it_was(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.html"
    page.write_text("the old one")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        write_page(outcomes_of(store, []), page, "now")
    assert page.read_text() == "the old one"
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".html"] == ["page.html"]
    assert not list(tmp_path.glob(".page*"))


def test_with_many_repositories_the_lines_are_of_all_together(store: Store, tmp_path: Path) -> None:
    for number in range(outcomes_page.MAX_LINES + 1):
        answered(store, number, pack=f"repository {number}")
    write_page(outcomes_of(store, []), tmp_path / "page.html", "now")
    assert (tmp_path / "page.html").read_text().count("<svg") == 3
