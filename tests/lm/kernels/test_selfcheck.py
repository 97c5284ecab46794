"""The check of the kernels finds them right, and finds what is made wrong."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from twin.lm.errors import KernelUnavailable
from twin.lm.kernels import selfcheck
from twin.lm.kernels.chunked import Chunked
from twin.lm.kernels.registry import BACKENDS, Kernels
from twin.lm.kernels.selfcheck import OPS, TOLERANCES, check, main

CPU = torch.device("cpu")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chunked", "native", "triton", "fla"])
def test_every_backend_that_runs_here_is_right(name: str) -> None:
    rows, absent = selfcheck.report([name], CPU, lengths=(1, 17, 64))
    if name in absent:
        pytest.skip(absent[name])
    assert {(row.op, row.precision) for row in rows} == {
        (op, precision) for op in (*OPS, "model") for precision in TOLERANCES
    }
    assert [row for row in rows if not row.passed] == []


def test_every_operation_of_the_seam_is_checked() -> None:
    assert {name for name in vars(Kernels) if callable(getattr(Kernels, name))} >= set(OPS)
    assert {name for name in vars(Kernels) if not name.startswith("_")} == set(OPS)


class Wrong(Chunked):
    """Right outputs, wrong in one gradient: what a comparison of outputs alone would not see."""

    name = "wrong"

    def wkv6(self, *inputs: Tensor, logw_min: float | None = None) -> tuple[Tensor, Tensor]:
        out, state = super().wkv6(*inputs, logw_min=logw_min)
        return out, state + 0.01 * (inputs[3].sum() - inputs[3].sum().detach())


def test_a_wrong_gradient_is_found_and_named() -> None:
    (row,) = check(Wrong(), CPU, ops=["wkv6"], precisions=["float64"], lengths=[17])
    assert not row.passed
    assert "d logw" in row.worst


class Broken(Chunked):
    name = "broken"

    def ssd(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        out, state = super().ssd(*inputs)
        return out * float("nan"), state


def test_a_nan_is_worse_than_any_number() -> None:
    (row,) = check(Broken(), CPU, ops=["ssd"], precisions=["float32"], lengths=[5])
    assert not row.passed


class Detached(Chunked):
    name = "detached"

    def relu2(self, x: Tensor) -> Tensor:
        return super().relu2(x).detach() + 0 * x.sum()


def test_a_gradient_that_is_lost_is_found() -> None:
    (row,) = check(Detached(), CPU, ops=["relu2"], precisions=["float64"], lengths=[5])
    assert not row.passed


def _absent() -> Chunked:
    raise KernelUnavailable("not here")


def test_the_command_says_what_is_absent_and_fails_for_what_is_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--device", "cpu", "--length", "5", "--op", "wkv6", "--json"]
    monkeypatch.setitem(BACKENDS, "wrong", Wrong)
    monkeypatch.setitem(BACKENDS, "absent", _absent)
    assert main([*arguments, "--backend", "chunked"]) == 0
    capsys.readouterr()
    assert main([*arguments, "--backend", "chunked", "--backend", "absent"]) == 3
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert {row["precision"] for row in said["rows"]} == set(TOLERANCES)
    assert said["absent"] == {"absent": "not here"}
    assert main([*arguments[:-1], "--backend", "wrong"]) == 1
    assert "FAIL" in capsys.readouterr().out
