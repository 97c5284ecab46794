"""The recipe that goes to the gate is chosen on later tasks than it was fitted on."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from twin.coding.replay import Replayed
from twin.specialists.relevance import RelevanceModel, default_model
from twin.train.recipes import (
    MIN_TASKS,
    RECIPES,
    Fitted,
    fit_best,
    recalls,
    weights_of,
)
from twin.train.relevance import Rows, fit_trees

Replay = Callable[..., list[Replayed]]
Shuffle = Callable[[list[Replayed], int], list[Replayed]]

FIRST = next(iter(RECIPES))


@pytest.fixture(scope="module")
def default() -> RelevanceModel:
    return default_model()


@pytest.fixture(scope="module")
def learnt(replayed: Replay, default: RelevanceModel) -> Fitted:
    return fit_best(replayed(100, informative=["path"]), default)


def chance(num_files: int) -> float:
    """The mean of recall@1, 5 and 10 of one target among so many files, ranked by lot."""
    return sum(min(k / num_files, 1) for k in (1, 5, 10)) / 3


def test_every_recipe_and_the_default_are_measured_on_the_inner_part(learnt: Fitted) -> None:
    assert set(learnt.inner) == {"default", *RECIPES}
    assert all(0 <= value <= 1 for value in learnt.inner.values())
    assert learnt.recipe in RECIPES


def test_what_can_be_learnt_is_learnt(learnt: Fitted, replayed: Replay) -> None:
    later = replayed(100, informative=["path"], start=1000)
    assert learnt.inner["linear"] > 0.95
    assert recalls(learnt.model, later).mean() > 0.9


def test_the_card_says_on_what_it_was_learnt(learnt: Fitted, default: RelevanceModel) -> None:
    assert learnt.model.card.trained_on == (*default.card.trained_on, "owner/name")
    assert learnt.model.card.num_tasks == 100


def test_equal_tasks_and_seeds_give_equal_models_in_whatever_order_they_come(
    replayed: Replay, default: RelevanceModel
) -> None:
    tasks = replayed(MIN_TASKS, informative=["text"])
    mixed = [tasks[at] for at in np.random.default_rng(0).permutation(len(tasks))]
    first, again = fit_best(tasks, default, seed=3), fit_best(mixed, default, seed=3)
    assert first.model.to_bytes() == again.model.to_bytes()
    assert (first.recipe, first.inner) == (again.recipe, again.inner)


def test_later_tasks_are_never_learnt_from_when_recipes_are_compared(
    replayed: Replay, default: RelevanceModel
) -> None:
    # The later fifth can be told by a column that says nothing before.
    early = replayed(80, informative=["path"], num_files=20)
    late = replayed(20, informative=["names_compound"], num_files=20, start=80)
    inner = fit_best([*late, *early], default).inner
    assert inner["linear"] < chance(20) + 0.2
    told = fit_best(replayed(100, informative=["names_compound"], num_files=20), default).inner
    assert told["linear"] > 0.95


def test_shuffled_targets_leave_every_recipe_near_chance(
    replayed: Replay, with_other_targets: Shuffle, default: RelevanceModel
) -> None:
    tasks = with_other_targets(replayed(240, informative=["path", "text"], num_files=20), 2)
    inner = fit_best(tasks, default).inner
    # One task's figure spreads by about 0.33; four standard errors of 48 tasks are 0.19.
    assert {name for name, value in inner.items() if value > chance(20) + 0.19} == set()


def test_too_few_tasks_are_refused_with_their_number(
    replayed: Replay, default: RelevanceModel
) -> None:
    for size in (0, 1, MIN_TASKS - 1):
        with pytest.raises(ValueError, match=f"{size} tasks are too few.*{MIN_TASKS}"):
            fit_best(replayed(size), default)


def test_the_first_recipe_is_taken_unless_another_is_clearly_better(
    replayed: Replay, default: RelevanceModel
) -> None:
    no_choice = fit_best(replayed(MIN_TASKS, num_files=1), default)
    assert set(no_choice.inner.values()) == {1.0}
    assert no_choice.recipe == FIRST
    # A default that is very sure of something else is more than a few trees can talk out of it.
    misled = Rows.of(replayed(60, informative=["text"]), 0)
    stubborn = fit_trees(misled, default.card, rounds=100, learning_rate=1.0)
    clear = fit_best(replayed(MIN_TASKS, informative=["path"]), stubborn)
    assert clear.inner["linear"] > clear.inner[FIRST] + 0.2
    assert clear.recipe == "linear"


def test_ties_go_against_the_model(replayed: Replay) -> None:
    (task,) = replayed(1, num_files=30)
    flat = replace(task, values=np.zeros_like(task.values))
    assert recalls(default_model(), [flat]).tolist() == [0.0]
    (small,) = replayed(1, num_files=7)
    flat = replace(small, values=np.zeros_like(small.values))
    assert recalls(default_model(), [flat]).tolist() == pytest.approx([1 / 3])  # among the first 10


def test_later_tasks_weigh_more_and_their_mean_weight_is_about_one(replayed: Replay) -> None:
    weights = weights_of(replayed(50))
    assert weights == sorted(weights)
    assert 0.5 <= weights[0] < weights[-1] < 1.5
    assert np.mean(weights) == pytest.approx(1, abs=0.02)
    assert weights_of([]) == []
