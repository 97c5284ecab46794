"""What does not fit is refused before it starts, with a batch that does."""

import re

import pytest

from twin.lm.config import preset
from twin.lm.errors import NotEnoughMemory
from twin.lm.memory import GIB, available_bytes, foresee, training_bytes

SMALL = preset("3.5M")


def test_more_tokens_and_more_parameters_need_more() -> None:
    assert training_bytes(SMALL, 16, 256) < training_bytes(SMALL, 64, 256)
    assert training_bytes(SMALL, 16, 256) < training_bytes(preset("125M"), 16, 256)


def test_a_batch_that_does_not_fit_is_refused_with_one_that_does() -> None:
    with pytest.raises(NotEnoughMemory, match="--batch") as refused:
        foresee(SMALL, 4096, 1024, available=4 * GIB)
    (rows,) = re.findall(r"--batch (\d+)", str(refused.value))
    assert foresee(SMALL, int(rows), 1024, available=4 * GIB) <= 4 * GIB


def test_a_model_that_does_not_fit_at_all_is_refused_with_a_smaller_one() -> None:
    with pytest.raises(NotEnoughMemory, match="smaller preset"):
        foresee(preset("125M"), 16, 256, available=GIB)


def test_long_memories_of_tokens_need_more() -> None:
    long = preset("3.5M", induction_max=2, induction_window=2**20)
    assert training_bytes(long, 16, 256) > training_bytes(SMALL, 16, 256) + GIB // 2


def test_what_is_free_is_known_or_nothing_is_refused() -> None:
    found = available_bytes()
    assert found is None or found > 0
    assert foresee(SMALL, 16, 256, available=None) > 0
