"""The parts of a forest's score add up to what LightGBM itself predicts."""

from typing import Any

import lightgbm
import numpy as np
import pytest
from numpy.typing import NDArray

from twin.specialists.relevance import default_model
from twin.specialists.trees import Forest

Floats = NDArray[np.float64]


def rows(num_rows: int, num_columns: int = 4, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num_rows, num_columns)).astype(np.float32).astype(np.float64)


def grown(rounds: int, **settings: Any) -> lightgbm.Booster:
    values = rows(600)
    wanted = values[:, 1] + 0.3 * values[:, 2] ** 2
    options = {"objective": "regression", "verbose": -1, "num_threads": 1, "seed": 1} | settings
    data = lightgbm.Dataset(values, wanted, params={"verbose": -1})
    return lightgbm.train(options, data, rounds)


def bases(booster: lightgbm.Booster, values: Floats) -> Floats:
    """Per row, what LightGBM predicts less the parts that are told."""
    parts = Forest.parse(booster.model_to_string()).contributions(values)
    return np.asarray(booster.predict(values)) - parts.sum(axis=1)


@pytest.mark.parametrize("rounds", [1, 2, 25])
@pytest.mark.parametrize("num_leaves", [2, 15])
def test_the_parts_and_one_base_make_the_score_of_every_row(rounds: int, num_leaves: int) -> None:
    found = bases(grown(rounds, num_leaves=num_leaves), rows(200, seed=9))
    np.testing.assert_allclose(found, found[0], atol=1e-9)


def test_values_at_a_threshold_and_far_outside_go_the_way_that_lightgbm_sends_them() -> None:
    booster = grown(10)
    thresholds = Forest.parse(booster.model_to_string()).threshold
    edges = np.repeat(np.concatenate([thresholds, [0.0, -0.0, 1e30, -1e30]])[:, None], 4, axis=1)
    found = bases(booster, edges)
    np.testing.assert_allclose(found, found[0], atol=1e-9)


def test_a_column_that_no_tree_asks_gets_nothing() -> None:
    booster = grown(10)
    values = rows(50)
    parts = Forest.parse(booster.model_to_string()).contributions(values)
    used = booster.feature_importance() > 0
    assert (parts[:, ~used] == 0).all()
    assert np.abs(parts[:, 1]).sum() == max(np.abs(parts).sum(axis=0))


def test_trees_without_a_split_give_nothing_to_any_column() -> None:
    booster = grown(3, min_data_in_leaf=10_000)
    values = rows(5)
    assert (Forest.parse(booster.model_to_string()).contributions(values) == 0).all()
    assert len(set(bases(booster, values).tolist())) == 1


def test_no_rows_have_no_parts() -> None:
    assert Forest.parse(grown(2).model_to_string()).contributions(rows(0)).shape == (0, 4)


def test_splits_by_category_are_refused() -> None:
    values = np.random.default_rng(0).integers(0, 6, (500, 2)).astype(np.float64)
    data = lightgbm.Dataset(
        values, values[:, 0] % 2, params={"verbose": -1}, categorical_feature=[0, 1]
    )
    booster = lightgbm.train({"objective": "regression", "verbose": -1}, data, 3)
    with pytest.raises(ValueError, match="categorical"):
        Forest.parse(booster.model_to_string())


def test_the_shipped_models_parts_are_those_of_its_own_trees() -> None:
    model = default_model()
    values = rows(30, len(model.features)).astype(np.float32)
    told = model.contributions(model.features, values)
    base = model.scores(model.features, values) - np.array([sum(row.values()) for row in told])
    np.testing.assert_allclose(base, base[0], atol=1e-6)
