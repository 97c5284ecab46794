"""Learning rate and window length follow progress alone."""

import pytest

from twin.lm.schedule import SHAPES, multiplier, stage


@pytest.mark.parametrize("shape", SHAPES)
def test_it_rises_over_the_warm_up_and_never_leaves_its_range(shape: str) -> None:
    values = [multiplier(shape, n / 100, warmup=0.1, floor=0.05) for n in range(-5, 120)]
    assert values[5] == 0.0
    assert values[5:16] == sorted(values[5:16])
    assert values[15] == pytest.approx(1.0)
    assert all(0.0 <= value <= 1.0 for value in values)


@pytest.mark.parametrize("shape", ["cosine", "wsd", "linear"])
def test_it_falls_to_its_floor(shape: str) -> None:
    assert multiplier(shape, 1.0, warmup=0.1) == pytest.approx(0.0)
    assert multiplier(shape, 1.0, warmup=0.1, floor=0.05) == pytest.approx(0.05)
    assert multiplier(shape, 7.0, warmup=0.1, floor=0.05) == pytest.approx(0.05)


def test_wsd_is_stable_until_its_decay() -> None:
    assert multiplier("wsd", 0.69, warmup=0.1, decay=0.3) == pytest.approx(1.0)
    assert multiplier("wsd", 0.85, warmup=0.1, decay=0.3) == pytest.approx(0.5)


def test_no_warm_up_and_nothing_but_warm_up_work() -> None:
    assert multiplier("linear", 0.0, warmup=0.0) == 1.0
    assert multiplier("cosine", 0.5, warmup=1.0) == 0.5


def test_windows_grow_stage_by_stage() -> None:
    stages = ((0.2, 64), (0.5, 128))
    assert [stage(stages, p, 256) for p in (0.0, 0.19, 0.2, 0.5, 1.0)] == [64, 64, 128, 256, 256]
    assert stage((), 0.0, 256) == 256
