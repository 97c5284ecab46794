"""The gates on training: what passes, what is warned of, and that each can fail."""

import math
from collections.abc import Callable, Iterable

import pytest

from twin.lm.diagnostics import Ablation, GradientReading, Gradients, LayerReading
from twin.lm.gates_trained import TrainingPoint, g3, g4, g5, g35, g36
from twin.lm.state_health import StateReading
from twin.lm.verdict import Verdict


def grades(verdicts: Iterable[Verdict]) -> dict[str, str]:
    return {one.check: one.grade for one in verdicts}


def run(
    loss: Callable[[int], float], *, steps: int = 1000, norm: float | None = 1.0
) -> list[TrainingPoint]:
    return [
        TrainingPoint(step=step, loss=loss(step), gradient_norm=norm)
        for step in range(10, steps + 1, 10)
    ]


def falling(step: int) -> float:
    return 1.5 + 3 * math.exp(-step / 200)


def test_a_run_that_learns_passes() -> None:
    assert set(grades(g3(run(falling))).values()) == {"pass"}


@pytest.mark.parametrize(
    ("loss", "check", "grade"),
    [
        (lambda step: 4.0, "loss falls", "warn"),
        (lambda step: 4.0 + step / 1000, "loss falls", "fail"),
        (lambda step: falling(step) if step < 700 else 3.0, "loss stays down", "fail"),
        (lambda step: falling(step) * (1 if step < 900 else 1.08), "loss stays down", "warn"),
        (lambda step: math.nan if step == 500 else falling(step), "loss falls", "fail"),
        (lambda step: math.inf if step == 1000 else falling(step), "loss falls", "fail"),
    ],
)
def test_a_loss_that_does_not_fall_or_rises_again_is_found(
    loss: Callable[[int], float], check: str, grade: str
) -> None:
    assert grades(g3(run(loss)))[check] == grade


@pytest.mark.parametrize(
    ("norm", "grade"),
    [(0.5, "pass"), (1.5, "pass"), (2.9, "warn"), (5.1, "fail"), (0.2, "warn"), (0.0, "fail"),
     (math.nan, "fail"), (math.inf, "fail"), (None, "not yet")],
)  # fmt: skip
def test_the_gradient_norm_has_its_bands(norm: float | None, grade: str) -> None:
    assert grades(g3(run(falling, norm=norm)))["gradient norm"] == grade


def test_before_the_warm_up_is_over_norms_say_nothing() -> None:
    verdict = g3(run(falling, steps=99, norm=50.0) + run(falling, steps=10, norm=50.0))[-1]
    assert verdict.grade == "not yet"
    assert "judged from step 100 on" in verdict.thresholds


def test_a_short_run_is_judged_and_says_how_short_it_was() -> None:
    assert "in 300 steps (fewer than 1,000)" in g3(run(falling, steps=300))[0].sentence


def test_a_run_without_points_is_not_yet_judged() -> None:
    assert grades(g3([])) == {"loss falls": "not yet"}


def state(**figures: float) -> StateReading:
    values = {"cosine": 0.6, "top5_share": 0.8, "effective_rank": 10.0, "largest": 100.0}
    return StateReading(layer=0, pathway="rwkv", max_rank=32, num_not_finite=0,
                        **(values | figures))  # fmt: skip


def layer(number: int = 0, **figures: float | None) -> LayerReading:
    values: dict[str, float | None] = {
        "rwkv_norm": 1.0, "mamba_norm": 1.0, "gate_mean": 0.3, "gate_saturated": 0.1,
        "variance_in": 1.0, "variance_out": 1.5,
    }  # fmt: skip
    return LayerReading(layer=number, **(values | figures))


@pytest.mark.parametrize(
    ("figures", "check", "grade"),
    [
        ({}, "state cosine, rwkv", "pass"),
        ({"cosine": 0.96}, "state cosine, rwkv", "warn"),
        ({"cosine": 0.995}, "state cosine, rwkv", "fail"),
        ({"cosine": math.nan}, "state cosine, rwkv", "fail"),
        ({"top5_share": 0.4}, "top-5 singular share, rwkv", "warn"),
        ({"effective_rank": 1.5}, "state entropy, rwkv", "warn"),
        ({"largest": 1e5}, "state size, rwkv", "warn"),
        ({"largest": math.inf}, "state size, rwkv", "fail"),
    ],
)
def test_state_health_has_its_bands(figures: dict[str, float], check: str, grade: str) -> None:
    """The worst layer decides, wherever it stands."""
    found = g35([state(), state(**figures), state()], [layer()], steps=1000)
    assert grades(found)[check] == grade


@pytest.mark.parametrize(("share", "grade"), [(0.29, "pass"), (0.31, "warn"), (0.96, "fail")])
def test_stuck_gates_are_found(share: float, grade: str) -> None:
    found = g35([state()], [layer(), layer(gate_saturated=share)], steps=1000)
    assert grades(found)["gate saturation"] == grade


def test_a_fusion_without_gates_has_no_saturation() -> None:
    assert "gate saturation" not in grades(g35([state()], [layer(gate_saturated=None)], steps=999))


def test_states_and_pathways_are_not_judged_before_a_hundred_steps() -> None:
    frozen = g35([state(cosine=1.0)], [layer()], steps=99)
    starved = g4(pathways(0.0), [layer()], WORTH, steps=99)
    assert [one.grade for one in (*frozen, *starved)] == ["not yet", "not yet"]
    assert "after 100" in frozen[0].sentence


WORTH = Ablation(loss=1.5, without={"rwkv": 2.0, "mamba": 2.0})


def pathways(*ratios: float) -> Gradients:
    layers = tuple(
        GradientReading(layer=number, rwkv=ratio, mamba=1.0, coupling=0.1)
        for number, ratio in enumerate(ratios)
    )
    overall = GradientReading(layer=None, rwkv=ratios[0], mamba=1.0, coupling=0.1)
    return Gradients(loss=1.5, norm=1.0, layers=layers, overall=overall)


@pytest.mark.parametrize(
    ("ratio", "grade"),
    [(0.3, "pass"), (3.0, "pass"), (0.1, "warn"), (10.0, "warn"), (0.09, "fail"), (11.0, "fail"),
     (0.0, "fail"), (math.inf, "fail"), (math.nan, "fail")],
)  # fmt: skip
def test_the_gradient_ratio_has_its_bands(ratio: float, grade: str) -> None:
    assert grades(g4(pathways(ratio), [layer()], WORTH, steps=100))["gradient ratio"] == grade


def test_one_layer_may_specialise_with_a_warning() -> None:
    found = g4(pathways(1.0, 50.0, 0.5), [layer()], WORTH, steps=100)
    assert grades(found)["gradient ratio, worst layer"] == "warn"
    assert "Layer 1" in found[1].sentence


@pytest.mark.parametrize(
    ("norm", "grade", "dying"), [(1.0, "pass", ""), (0.01, "warn", "RWKV"), (0.001, "fail", "RWKV"),
                                 (500.0, "fail", "Mamba"), (0.0, "fail", "RWKV")],
)  # fmt: skip
def test_a_pathway_that_adds_nothing_fails(norm: float, grade: str, dying: str) -> None:
    found = g4(pathways(1.0), [layer(rwkv_norm=norm)], WORTH, steps=100)
    verdict = next(one for one in found if one.check == "contribution")
    assert verdict.grade == grade
    assert dying in verdict.sentence


def test_a_part_the_loss_does_not_need_is_warned_of() -> None:
    worth = Ablation(loss=1.5, without={"rwkv": 1.501, "mamba": math.nan, "induction": 1.6})
    found = grades(g4(pathways(1.0), [layer()], worth, steps=100))
    assert (found["worth of rwkv"], found["worth of mamba"]) == ("warn", "fail")
    assert found["worth of induction"] == "pass"


def test_a_network_of_one_pathway_has_no_ratio_but_its_other_parts_are_judged() -> None:
    pure = Gradients(loss=1.5, norm=1.0, layers=(), overall=None)
    worth = Ablation(loss=1.5, without={"attention": 1.501})
    early = grades(g4(pure, [layer()], worth, steps=99))
    assert early == {"gradient ratio": "not yet"}
    assert grades(g4(pure, [layer()], worth, steps=100)) == early | {"worth of attention": "warn"}


@pytest.mark.parametrize(
    ("ours", "grade"), [(1.0, "pass"), (1.8, "pass"), (1.81, "fail"), (math.nan, "fail")]
)
def test_a_fifth_worse_than_the_version_before_fails(ours: float, grade: str) -> None:
    assert g36(ours, 1.5, our_steps=1000, their_steps=1000).grade == grade


def test_other_numbers_of_steps_are_not_compared() -> None:
    verdict = g36(1.0, 1.5, our_steps=1000, their_steps=2000)
    assert verdict.grade == "not yet"
    assert "1,000 steps and the other 2,000" in verdict.sentence


@pytest.mark.parametrize(
    ("loss", "grade"), [(1.45, "pass"), (1.4501, "fail"), (math.nan, "fail"), (math.inf, "fail")]
)
def test_the_target_is_reached_or_not(loss: float, grade: str) -> None:
    assert g5(loss, 1.45).grade == grade
