"""What does not fit is refused before it starts, with a batch that does."""

import re
from typing import Any

import pytest

from twin.lm.config import HybridConfig, num_parameters, preset
from twin.lm.errors import NotEnoughMemory
from twin.lm.memory import GIB, Step, available_bytes, foresee, training_bytes

SMALL = preset("3.5M")


def step(config: HybridConfig = SMALL, batch: int = 16, window: int = 256, **how: Any) -> Step:
    return Step(config=config, batch=batch, window=window, **how)


def test_more_tokens_and_more_parameters_need_more() -> None:
    assert training_bytes(step()) < training_bytes(step(batch=64))
    assert training_bytes(step()) < training_bytes(step(preset("125M")))


def test_teachers_need_more_and_shared_weights_less() -> None:
    large = preset("125M")
    assert training_bytes(step(large, teachers=(large,))) > training_bytes(step(large)) + GIB // 2
    spared = training_bytes(step(large)) - training_bytes(step(large, sharing=4))
    assert spared == pytest.approx(20 * num_parameters(large) * 3 / 4)


def test_a_batch_that_does_not_fit_is_refused_with_one_that_does() -> None:
    with pytest.raises(NotEnoughMemory, match="--batch") as refused:
        foresee(step(batch=4096, window=1024), available=4 * GIB, world=2)
    (rows,) = re.findall(r"--batch (\d+)", str(refused.value))
    each = step(batch=int(rows) // 2, window=1024)
    assert GIB < foresee(each, available=4 * GIB) <= 4 * GIB


def test_a_model_that_does_not_fit_at_all_is_refused_with_a_smaller_one() -> None:
    with pytest.raises(NotEnoughMemory, match="smaller preset"):
        foresee(step(preset("125M")), available=GIB)


def test_long_memories_of_tokens_need_more() -> None:
    long = preset("3.5M", induction_max=2, induction_window=2**20)
    assert training_bytes(step(long)) > training_bytes(step()) + GIB // 2


def test_what_is_free_is_known_or_nothing_is_refused() -> None:
    found = available_bytes()
    assert found is None or found > 0
    assert foresee(step(), available=None) > 0
