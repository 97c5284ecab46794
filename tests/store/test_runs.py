"""The log of commands and their stages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from twin.store.database import Store

if TYPE_CHECKING:
    from conftest import Place

BEGIN_AND_HANG = """
import time
print(store.runs.begin("improve", "a/b", {}), flush=True)
time.sleep(600)
"""


def test_a_finished_stage_is_found_by_exactly_its_key(store: Store) -> None:
    run = store.runs.begin("improve", "a/b", {"seed": 1})
    store.runs.stage_done(run, "mine", "head-1", {"kept": 3}, 1.5)
    assert store.runs.finished_stage("a/b", "mine", "head-1") == {"kept": 3}
    assert store.runs.finished_stage("a/b", "mine", "head-2") is None
    assert store.runs.finished_stage("a/b", "fit", "head-1") is None
    assert store.runs.finished_stage("c/d", "mine", "head-1") is None


def test_the_newest_result_of_a_stage_counts(store: Store) -> None:
    for kept in (1, 2):
        run = store.runs.begin("improve", "a/b", {})
        store.runs.stage_done(run, "mine", "key", {"kept": kept}, 0.1)
    assert store.runs.finished_stage("a/b", "mine", "key") == {"kept": 2}


def test_an_interrupted_run_still_lends_its_finished_stages(store: Store) -> None:
    run = store.runs.begin("improve", "a/b", {})
    store.runs.stage_done(run, "mine", "key", {"kept": 1}, 0.1)
    store.runs.finish(run, "interrupted", {})
    assert store.runs.finished_stage("a/b", "mine", "key") == {"kept": 1}


def test_after_a_rebuild_no_stage_counts_until_it_is_done_again(store: Store) -> None:
    run = store.runs.begin("improve", "a/b", {})
    store.runs.stage_done(run, "mine", "key", {"kept": 1}, 0.1)
    store.rebuild_curated()
    assert store.runs.finished_stage("a/b", "mine", "key") is None
    store.runs.stage_done(run, "mine", "key", {"kept": 2}, 0.1)
    assert store.runs.finished_stage("a/b", "mine", "key") == {"kept": 2}


def test_runs_are_listed_newest_first_with_their_ending(store: Store) -> None:
    first = store.runs.begin("improve", "a/b", {"seed": 1})
    second = store.runs.begin("locate", "a/b", {})
    store.runs.finish(first, "refused", {"why": "worse"})
    listed = store.runs.runs()
    assert [run.run_id for run in listed] == [second, first]
    assert [run.status for run in listed] == ["running", "refused"]
    assert listed[1].result == {"why": "worse"}
    assert listed[1].config == {"seed": 1}
    assert listed[1].ended_at is not None
    assert [run.run_id for run in store.runs.runs(limit=1)] == [second]


def test_the_first_ending_of_a_run_stands(store: Store) -> None:
    run = store.runs.begin("improve", "a/b", {})
    store.runs.finish(run, "done", {"n": 1})
    store.runs.finish(run, "failed", {})
    assert store.runs.runs()[0].status == "done"


def test_passwords_in_urls_are_masked_before_they_are_written(store: Store) -> None:
    url = "postgresql://ann:s3cret@host/twin"
    store.runs.begin("improve", "a/b", {"store": {"url": url}, "others": [url, 5]})
    masked = "postgresql://ann:***@host/twin"
    assert store.runs.runs()[0].config == {"store": {"url": masked}, "others": [masked, 5]}


def test_a_stage_of_an_unknown_run_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="no run"):
        store.runs.stage_done("run-x", "mine", "key", {}, 0.1)


def test_a_killed_run_is_listed_as_interrupted(place: Place) -> None:
    process = place.start(BEGIN_AND_HANG)
    assert process.stdout is not None
    run_id = process.stdout.readline().strip()
    with place.open() as store:
        assert [(run.run_id, run.status) for run in store.runs.runs()] == [(run_id, "running")]
        process.kill()
        process.communicate()
        assert [(run.run_id, run.status) for run in store.runs.runs()] == [(run_id, "interrupted")]
