"""Fitting learns what tells the targets apart, and nothing where there is nothing to learn."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from twin.coding.replay import Replayed
from twin.specialists.relevance import Card, RelevanceModel, default_model
from twin.train.relevance import (
    LINEAR_FEATURES,
    MAX_OTHERS,
    MAX_REST,
    MAX_SOURCES,
    PROMISING,
    Rows,
    fit_linear,
    fit_trees,
    sampled,
)

Replay = Callable[..., list[Replayed]]
Shuffle = Callable[[list[Replayed], int], list[Replayed]]

CARD = Card(trained_on=("owner/name",), num_tasks=1)
MOST = MAX_SOURCES + MAX_OTHERS + MAX_REST


def hits(model: RelevanceModel, tasks: list[Replayed]) -> float:
    """The share of tasks whose target comes first."""
    found = [task.is_target[model.scores(task.names, task.values).argmax()] for task in tasks]
    return float(np.mean(found))


# Sampling


@pytest.mark.parametrize(
    ("num_files", "num_tests", "num_targets"),
    [(1, 0, 1), (150, 15, 2), (151, 16, 1), (900, 400, 8), (600, 0, 120), (400, 3, 399)],
)
def test_a_sample_keeps_every_target_and_is_bounded(
    replayed: Replay, num_files: int, num_tests: int, num_targets: int
) -> None:
    (task,) = replayed(1, num_files=num_files, num_tests=num_tests, num_targets=num_targets)
    small = sampled(task, 0)
    kept = {path for path, hit in zip(small.paths, small.is_target, strict=True) if hit}
    assert kept == set(task.task.targets)
    assert len(small.paths) == len(small.values) <= min(MOST + num_targets, len(task.paths))
    assert small.paths == tuple(sorted(small.paths))
    for path, row in zip(small.paths, small.values, strict=True):
        np.testing.assert_array_equal(row, task.values[task.paths.index(path)])
    assert small.num_source_files == task.num_source_files


def test_a_target_that_is_no_source_is_kept_too(replayed: Replay) -> None:
    (task,) = replayed(1, num_files=300, num_tests=300)
    moved = replace(task, is_target=np.arange(600) == 599)
    assert sampled(moved, 0).is_target.sum() == 1


def test_the_promising_sources_are_all_kept(replayed: Replay) -> None:
    (task,) = replayed(1, num_files=800, informative=PROMISING)
    promise = sum(task.values[:, task.names.index(name)] for name in PROMISING)
    best = np.argsort(-promise)[:MAX_SOURCES]
    assert {task.paths[at] for at in best} <= set(sampled(task, 0).paths)


def test_small_tasks_are_taken_whole_and_a_sample_of_a_sample_is_itself(replayed: Replay) -> None:
    (small,) = replayed(1, num_files=40, num_tests=MAX_REST)
    assert sampled(small, 3).paths == small.paths
    (large,) = replayed(1, num_files=700, num_tests=90)
    once = sampled(large, 3)
    assert sampled(once, 9).paths == once.paths


def test_rows_of_many_tasks_stand_one_after_the_other(replayed: Replay) -> None:
    tasks = replayed(3, num_files=20) + replayed(2, num_files=400, start=3)
    rows = Rows.of(tasks, 0)
    assert rows.sizes.tolist() == [20, 20, 20, 150, 150]
    assert len(rows.values) == len(rows.is_target) == rows.sizes.sum()
    assert rows.is_target.sum() == 5
    assert rows.weights.tolist() == [1.0] * 5
    assert Rows.of(tasks, 0, [1, 2, 3, 4, 5]).weights.tolist() == [1, 2, 3, 4, 5]


def test_no_task_is_nothing_to_learn_from() -> None:
    with pytest.raises(ValueError, match="no task"):
        Rows.of([], 0)


# The linear model


@pytest.mark.parametrize("name", ["rare_near", "path", "importers"])
def test_a_linear_fit_finds_the_one_column_that_tells(replayed: Replay, name: str) -> None:
    rows = Rows.of(replayed(120, informative=[name]), 0)
    model = fit_linear(rows, CARD)
    assert model.linear is not None
    weights = model.linear.weights
    assert max(weights, key=lambda key: abs(weights[key])) == name
    assert weights[name] > 5 * max(abs(weights[key]) for key in weights if key != name)
    assert hits(model, replayed(100, informative=[name], start=1000)) > 0.95


def test_a_linear_model_is_read_by_its_columns_names(replayed: Replay) -> None:
    model = fit_linear(Rows.of(replayed(20), 0), CARD)
    assert set(model.features) <= set(LINEAR_FEATURES)
    assert model.linear is not None
    assert model.linear.weights.keys() == set(model.features)
    assert (model.kind, model.card) == ("linear", CARD)


def test_a_column_that_never_changes_gets_no_say(replayed: Replay) -> None:
    tasks = replayed(40)
    for task in tasks:
        task.values[:, task.names.index("text")] = 3.0
    model = fit_linear(Rows.of(tasks, 0), CARD)
    assert model.linear is not None
    assert model.linear.weights["text"] == pytest.approx(0, abs=1e-6)
    assert all(np.isfinite(list(model.linear.weights.values())))


def test_a_task_of_more_weight_counts_more(replayed: Replay) -> None:
    tasks = replayed(40, informative=["path"]) + replayed(40, informative=["text"], start=40)
    heavy_paths = fit_linear(Rows.of(tasks, 0, [9.0] * 40 + [0.1] * 40), CARD).linear
    heavy_texts = fit_linear(Rows.of(tasks, 0, [0.1] * 40 + [9.0] * 40), CARD).linear
    assert heavy_paths is not None
    assert heavy_texts is not None
    assert heavy_paths.weights["path"] > heavy_texts.weights["path"]
    assert heavy_paths.weights["text"] < heavy_texts.weights["text"]


def test_tasks_without_any_weight_or_target_do_no_harm(replayed: Replay) -> None:
    tasks = replayed(30, informative=["path"])
    aimless = [replace(task, is_target=np.zeros_like(task.is_target)) for task in replayed(10)]
    model = fit_linear(Rows.of(tasks + aimless, 0), CARD)
    assert hits(model, replayed(50, informative=["path"], start=500)) > 0.9
    flat = fit_linear(Rows.of(tasks, 0, [0.0] * 30), CARD)
    assert flat.linear is not None
    assert set(flat.linear.weights.values()) == {0.0}


# The trees


def test_trees_find_the_column_that_tells(replayed: Replay) -> None:
    rows = Rows.of(replayed(120, informative=["rare_near"]), 0)
    told = []
    model = fit_trees(rows, CARD, rounds=30, progress=lambda *step: told.append(step))
    assert hits(model, replayed(100, informative=["rare_near"], start=1000)) > 0.9
    assert told[-1] == ("growing trees", 30, 30)
    assert model.features == rows.names


def test_equal_rows_and_seeds_give_equal_bytes(replayed: Replay) -> None:
    def fitted(seed: int) -> list[bytes]:
        rows = Rows.of(replayed(60, num_files=200, informative=["path"]), seed)
        default = default_model()
        return [
            fit_linear(rows, CARD).to_bytes(),
            fit_trees(rows, CARD, rounds=10, seed=seed).to_bytes(),
            fit_trees(rows, CARD, rounds=10, seed=seed, start=default).to_bytes(),
        ]

    first, again, other = fitted(1), fitted(1), fitted(2)
    assert first == again
    assert first[1] != other[1]


def test_trees_grow_on_top_of_a_model_and_begin_where_it_was(replayed: Replay) -> None:
    rows = Rows.of(replayed(60, informative=["path"]), 0)
    start = fit_trees(rows, CARD, rounds=10)
    more = fit_trees(rows, CARD, rounds=5, start=start)
    assert more.trees.count("\nTree=") == 15
    still = fit_trees(rows, CARD, rounds=1, learning_rate=1e-9, start=start)
    (task,) = replayed(1, start=99)
    np.testing.assert_allclose(
        still.scores(task.names, task.values), start.scores(task.names, task.values), atol=1e-6
    )


def test_a_model_of_other_features_cannot_be_started_from(replayed: Replay) -> None:
    rows = Rows.of(replayed(20), 0)
    start = fit_trees(rows, CARD, rounds=1)
    for other in (
        replace_struct(start, features_version=start.features_version + 1),
        replace_struct(start, features=(*start.features, "another")),
        fit_linear(rows, CARD),
    ):
        with pytest.raises(ValueError, match="other features"):
            fit_trees(rows, CARD, rounds=1, start=other)


def replace_struct(model: RelevanceModel, **changes: object) -> RelevanceModel:
    fields = {name: getattr(model, name) for name in model.__struct_fields__}
    return RelevanceModel(**{**fields, **changes})


@pytest.mark.parametrize("kind", ["linear", "trees"])
def test_shuffled_targets_teach_nothing(
    replayed: Replay, with_other_targets: Shuffle, kind: str
) -> None:
    tasks = with_other_targets(replayed(200, informative=["path", "text"], num_files=20), 5)
    rows = Rows.of(tasks[:120], 0)
    model = fit_linear(rows, CARD) if kind == "linear" else fit_trees(rows, CARD, rounds=20)
    # Chance is 1 in 20; four standard errors of 80 tasks are 0.1.
    assert hits(model, tasks[120:]) < 0.05 + 0.1
