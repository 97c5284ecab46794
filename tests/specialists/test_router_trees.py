"""Numpy says what LightGBM says."""

import lightgbm
import numpy as np
import pytest

from twin.specialists.router_trees import Trees
from twin.specialists.trees import Forest


def forest(rows: int, leaves: int) -> tuple[lightgbm.Booster, np.ndarray]:  # type: ignore[type-arg]
    rng = np.random.default_rng(0)
    values = rng.normal(size=(rows, 6)).round(1)
    outcomes = (values[:, 0] * values[:, 1] > 0).astype(float) + 0.1 * values[:, 2]
    parameters = {"num_leaves": leaves, "min_data_in_leaf": 3, "verbose": -1, "num_threads": 1}
    return lightgbm.train(parameters, lightgbm.Dataset(values, outcomes), 25), values


@pytest.mark.parametrize("leaves", [2, 7, 31])
def test_each_row_gets_the_same_score(leaves: int) -> None:
    booster, values = forest(400, leaves)
    trees = Trees.of(Forest.parse(booster.model_to_string()))
    trees.check(6)
    expected = booster.predict(values)
    assert [trees.predict(row) for row in values] == pytest.approx(expected, abs=1e-12)


def test_trees_without_a_split_are_a_constant() -> None:
    booster, values = forest(4, 31)
    trees = Trees.of(Forest.parse(booster.model_to_string()))
    assert trees.predict(values[0]) == pytest.approx(booster.predict(values[:1])[0])


def test_no_tree_at_all_answers_its_base() -> None:
    trees = Trees.constant(0.7)
    trees.check(6)
    assert trees.predict(np.zeros(6)) == 0.7


@pytest.mark.parametrize(
    "wrong",
    [
        {"left": (5,)},
        {"right": (-1,)},
        {"feature": (6,)},
        {"roots": (1,)},
        {"value": (float("nan"),)},
        {"threshold": ()},
        {"depth": 1000},
    ],
)
def test_a_forest_that_leads_astray_is_refused(wrong: dict[str, object]) -> None:
    parts: dict[str, object] = {
        "roots": (0,), "feature": (0,), "threshold": (0.0,), "left": (0,), "right": (0,),
        "value": (1.0,), "depth": 0, "base": 0.0,
    }  # fmt: skip
    Trees(**parts).check(6)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tree"):
        Trees(**{**parts, **wrong}).check(6)  # type: ignore[arg-type]
