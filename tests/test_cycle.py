"""The loop from end to end on real repositories: what is learnt is proven, what is not is not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from twin.coding.git import GitRepository
from twin.coding.replay import Replayed, replay
from twin.coding.timeline import Timeline
from twin.config import Config, MineConfig
from twin.cycle.answers import locate
from twin.cycle.improvement import STAGES, Improvement, improve
from twin.cycle.past import index_now, mine_history, mine_now, newest_tasks
from twin.errors import RepositoryError
from twin.store.database import Store, open_store

WITHOUT_FIT = tuple(stage for stage in STAGES if stage != "fit")
"""The stages where there is too little to learn from."""

New = Callable[..., Path]
Git = Callable[..., str]


def improved(root: Path, config: Config | None = None, *, redo: bool = False) -> Improvement:
    with GitRepository.open(root) as repository, open_store(root) as store:
        return improve(repository, store, config or Config(), redo=redo)


def opened(root: Path) -> Store:
    return open_store(root)


@pytest.fixture(scope="module")
def learnt_once(
    tmp_path_factory: pytest.TempPathFactory, new_world: New
) -> tuple[Path, Improvement]:
    """A repository of which a version was learnt and promoted, and what `improve` said of it."""
    root = new_world(tmp_path_factory.mktemp("learnt") / "world", 170)
    return root, improved(root)


@pytest.fixture
def learnt(learnt_once: tuple[Path, Improvement], tmp_path: Path) -> Path:
    """A copy of its own, store and all."""
    return Path(shutil.copytree(learnt_once[0], tmp_path / "copy" / "world"))


def commit(root: Path, git: Git, message: str, **files: str) -> None:
    for path, text in files.items():
        (root / "src" / f"{path}.py").write_text(text, encoding="utf-8")
    git(root, "add", "src")
    git(root, "commit", "-q", "-m", message)


def test_what_the_words_of_a_task_hide_is_learnt_proven_and_put_into_service(
    learnt: Path, learnt_once: tuple[Path, Improvement]
) -> None:
    root, first = learnt, learnt_once[1]
    assert first.decision == "better"
    assert first.promoted
    assert not first.refused
    assert first.in_service == first.candidate == "relevance-1"
    assert first.figures["relevance-1"]["recall@1"] > 0.9
    assert first.figures["bm25"]["recall@1"] < 0.1
    assert first.num_tasks == first.num_train + first.num_holdout == 169
    assert "relevance-1" in Path(first.report).read_text(encoding="utf-8")
    json.dumps(first.figures)

    again = improved(root)
    assert again.skipped == STAGES
    assert (again.decision, again.promoted, again.figures) == ("better", True, first.figures)

    with GitRepository.open(root) as repository, opened(root) as store:
        located = locate(repository, store, Config(), "Adjust the acorn so that it keeps in order")
        assert located.version == "relevance-1"
        assert located.answer.files[0].path == "src/falcon.py"
        assert [run.status for run in store.runs.runs()] == ["done", "done"]
        assert store.decisions.recent(1)[0].ranked[0].path == "src/falcon.py"
        assert len(store.registry.versions()) == 1


def test_where_there_is_nothing_to_learn_nothing_is_promoted(new_history: New) -> None:
    found = improved(new_history(170, shuffled=True))
    assert found.decision != "better"
    assert not found.promoted
    assert found.in_service == "default"


@pytest.mark.slow
def test_two_runs_apart_make_the_same_model_to_the_byte(new_history: New) -> None:
    root = new_history(100)
    other = Path(shutil.copytree(root, root.parent / "other" / root.name))
    models, reports = [], []
    for place in (root, other):
        found = improved(place)
        assert found.candidate is not None
        with opened(place) as store:
            models.append(store.registry.get(found.candidate).artifact)
        reports.append(found.figures)
    assert models[0] == models[1]
    assert reports[0] == reports[1]


def test_too_little_history_is_not_enough_data_and_the_shipped_model_answers(
    new_history: New,
) -> None:
    root = new_history(3)
    found = improved(root)
    assert found.decision == "not enough data"
    assert found.candidate is None
    assert not found.refused
    assert "The history holds 2 usable tasks" in found.reason
    assert found.reason.endswith("the shipped model answers.")
    assert Path(found.report).exists()
    assert improved(root).skipped == WITHOUT_FIT

    with GitRepository.open(root) as repository, opened(root) as store:
        located = locate(repository, store, Config(), "Adjust the acorn")
    assert located.version == "default"
    assert located.answer.files[0].path == "src/acorn.py"


def test_a_new_commit_is_mined_alone_and_makes_the_stages_run_again(
    new_history: New, run_git: Git
) -> None:
    root = new_history(30)
    improved(root)
    commit(root, run_git, "Adjust the acorn once more", acorn="class Acorn: pass\n")
    with GitRepository.open(root) as repository, opened(root) as store:
        mined = mine_now(repository, store, Config())
        assert (mined.num_commits, mined.num_new) == (31, 1)
        indexed = index_now(repository, store, Config())
        assert (indexed.num_parsed, indexed.num_files) == (1, 24)
    after = improved(root)
    assert after.skipped == ()
    assert after.num_tasks == 30


def test_a_rewritten_history_is_mined_anew(new_history: New, run_git: Git) -> None:
    root = new_history(30)
    improved(root)
    run_git(root, "reset", "-q", "--hard", "HEAD~10")
    run_git(root, "reflog", "expire", "--expire=now", "--all")
    run_git(root, "gc", "-q", "--prune=now")
    commit(root, run_git, "Adjust the acorn in another way", acorn="class Acorn: pass\n")
    with GitRepository.open(root) as repository, opened(root) as store:
        mined = mine_now(repository, store, Config())
    assert (mined.num_commits, mined.num_new) == (21, 21)


@pytest.mark.slow
def test_other_settings_are_another_question(new_history: New) -> None:
    root = new_history(30)
    improved(root)
    strict = improved(root, Config(mine=MineConfig(strict=True)))
    assert "mine" not in strict.skipped
    assert improved(root).skipped == WITHOUT_FIT[:-1]


def test_a_report_that_was_removed_is_written_again(new_history: New) -> None:
    root = new_history(5)
    report = Path(improved(root).report)
    report.unlink()
    assert improved(root).skipped == WITHOUT_FIT[:-1]
    assert report.exists()


def test_doing_every_stage_again_neither_makes_a_second_version_nor_another_verdict(
    learnt: Path, learnt_once: tuple[Path, Improvement]
) -> None:
    first, again = learnt_once[1], improved(learnt, redo=True)
    assert again.skipped == ()
    assert (again.decision, again.in_service) == (first.decision, first.in_service)
    assert again.figures == first.figures
    with opened(learnt) as store:
        assert [version.version_id for version in store.registry.versions()] == ["relevance-1"]


def test_a_model_that_is_gone_from_the_disk_is_made_again(learnt: Path) -> None:
    root = learnt
    shutil.rmtree(root / ".twin" / "artifacts")
    with GitRepository.open(root) as repository, opened(root) as store:
        located = locate(repository, store, Config(), "Adjust the acorn")
        assert located.version == "default"
        assert "The shipped model answers" in located.notice
    found = improved(root)
    assert found.promoted
    with GitRepository.open(root) as repository, opened(root) as store:
        assert locate(repository, store, Config(), "Adjust the acorn").notice == ""
        statuses = [version.status for version in store.registry.versions()]
    assert statuses == ["retired", "live"]


def test_a_version_that_was_taken_out_by_hand_stays_out(learnt: Path) -> None:
    root = learnt
    with opened(root) as store:
        store.registry.move("relevance-1", "retired", "by hand")
    found = improved(root)
    assert not found.promoted
    assert found.in_service == "default"
    assert found.reason == "relevance-1 was put into service and taken out again by hand."
    assert found.skipped == STAGES


def test_a_repository_without_source_is_refused_before_anything_is_written(
    new_repository: New,
) -> None:
    root = new_repository(("Begin", {"README.md": "Words.\n"}))
    with pytest.raises(RepositoryError, match="has no source file"):
        improved(root)


def test_tasks_in_languages_that_the_index_does_not_read_do_not_count(
    new_repository: New,
) -> None:
    changes = [
        (f"Change the ruby number {at} a little", {"lib/a.rb": f"x = {at}\n", "b.py": "y = 1\n"})
        for at in range(60)
    ]
    found = improved(new_repository(*changes))
    assert found.decision == "not enough data"
    assert found.num_tasks == 0


def test_a_repository_of_one_file_is_judged_without_a_fault(new_repository: New) -> None:
    changes = [(f"Change the number to {at} now", {"a.py": f"x = {at}\n"}) for at in range(80)]
    found = improved(new_repository(*changes))
    assert not found.promoted
    assert found.figures["bm25"]["recall@1"] == 1.0


def rows(root: Path, ids: set[str] | None = None) -> dict[str, Replayed]:
    """The features of every task, by commit; `ids` limits which tasks are asked."""
    with GitRepository.open(root) as repository, opened(root) as store:
        mined = mine_history(repository, store, Config())
        tasks = newest_tasks(repository, mined, Config())
        tasks = [task for task in tasks if ids is None or task.commit_id in ids]
        timeline = Timeline([one.commit for one in mined])
        found = replay(repository, repository.tree, store.blobs, timeline, tasks)
        return {row.task.commit_id: row for row in found}


def test_what_comes_later_changes_nothing_in_the_features_of_a_task(new_history: New) -> None:
    short = rows(new_history(60, "short"))
    long = rows(new_history(110, "long"), ids=set(short))
    assert short.keys() == long.keys()
    assert len(short) == 59
    for commit_id, row in short.items():
        assert row.paths == long[commit_id].paths
        assert row.names == long[commit_id].names
        np.testing.assert_array_equal(row.values, long[commit_id].values)


def test_the_commit_itself_is_not_among_what_its_features_see(
    new_history: New, run_git: Git
) -> None:
    """The same parent and message, but another file changed: all but the targets is equal."""
    one, other = new_history(40, "one"), new_history(40, "other")
    found = []
    for root, word in ((one, "acorn"), (other, "velvet")):
        moment = {"GIT_AUTHOR_DATE": "1800000000 +0000", "GIT_COMMITTER_DATE": "1800000000 +0000"}
        (root / "src" / f"{word}.py").write_text("changed = True\n", encoding="utf-8")
        run_git(root, "commit", "-q", "-a", "-m", "Improve the handling of umber", **moment)
        head = run_git(root, "rev-parse", "HEAD")
        found.append(rows(root, ids={head})[head])
    assert found[0].task.targets != found[1].task.targets
    np.testing.assert_array_equal(found[0].values, found[1].values)
