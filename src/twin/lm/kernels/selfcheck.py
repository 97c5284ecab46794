"""Are the kernels right on this machine? Compares every backend that runs with the float64 loops.

Outputs, final states and the gradient of every input, at odd lengths and weak to saturated decays,
in float64, float32 and bfloat16; then a whole small network. `python -m twin.lm.kernels.selfcheck`
shows a table; it exits with 1 where something is wrong, and with 3 where a backend was named that
cannot run. Says nothing of speed.

The error of a tensor is its distance from the reference's by L2 norm, relative to the latter.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import torch
from torch import Tensor

from twin.lm.config import HybridConfig
from twin.lm.errors import KernelUnavailable
from twin.lm.kernels.reference import Reference
from twin.lm.kernels.registry import BACKENDS, Kernels

LENGTHS: Final = (1, 15, 17, 64, 203)
DECAYS: Final = {"weak": -3.0, "medium": 0.0, "strong": 2.0}
"""What is added to the raw decays; at `strong` most lie at the floor."""
TOLERANCES: Final = {"float64": 1e-10, "float32": 1e-5, "bfloat16": 1e-2}
DECAY_TOLERANCE: Final = 4e-2
"""Of gradients of decays in bfloat16: their terms cancel."""
FUSED: Final = ("rwkv_mix", "rwkv_decay_mix", "mamba_mix")
FUSED_FACTOR: Final = {"float64": 1.0, "float32": 2.0, "bfloat16": 1.5}
"""How much further off these may be than a recurrence alone: a norm stands behind it."""
LOW_PRECISION: Final = ("fla",)
"""Backends that multiply float32 in TensorFloat-32, and are held to bfloat16's tolerance."""
MODEL_TOLERANCE: Final = {"float64": 1e-9, "float32": 2e-4, "bfloat16": 2e-2}
"""Of a whole network, where errors of layers add up and are normalised again."""
_LOGW_MIN = -5.0
_DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One operation of one backend in one precision: the worst of all its cases."""

    backend: str
    device: str
    op: str
    precision: str
    num_cases: int
    worst: str
    """The case and tensor that came nearest to its tolerance, or went furthest beyond."""
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance  # False for NaN


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Named inputs in float64. `low` names those that are activations: bfloat16 where that is
    checked. The rest are parameters, decays and states, which stay in float32."""

    run: Callable[[Kernels, Sequence[Tensor]], tuple[Tensor, ...]]
    inputs: dict[str, Tensor]
    low: frozenset[str]
    decays: frozenset[str] = frozenset()


def available() -> dict[str, str | None]:
    """Backend -> None where it runs here, else the sentence that says why not."""
    found: dict[str, str | None] = {}
    for name, make in BACKENDS.items():
        try:
            make()
            found[name] = None
        except KernelUnavailable as error:
            found[name] = str(error)
    return found


def check(
    kernels: Kernels,
    device: torch.device,
    *,
    ops: Sequence[str] = (),
    precisions: Sequence[str] = tuple(TOLERANCES),
    lengths: Sequence[int] = LENGTHS,
) -> list[Row]:
    """One row for each operation and precision; `ops` empty: all of them and the network."""
    rows = []
    for op in ops or (*OPS, "model"):
        for precision in precisions:
            if op == "model":
                rows.append(_check_model(kernels, device, precision))
            else:
                rows.append(_check_op(kernels, device, op, precision, lengths))
    return rows


def _check_op(
    kernels: Kernels, device: torch.device, op: str, precision: str, lengths: Sequence[int]
) -> Row:
    measured: list[tuple[float, float, str]] = []
    count = 0
    for length in lengths:
        for decay, shift in DECAYS.items():
            count += 1
            case = OPS[op](length, shift)
            wanted, found = _both(case, kernels, device, precision)
            for name, error in _errors(wanted, found):
                is_decay = name.removeprefix("d ") in case.decays
                measured.append(
                    (
                        error,
                        _tolerance(kernels, op, precision, is_decay),
                        f"T={length} {decay} {name}",
                    )
                )
    error, tolerance, worst = max(measured, key=_closeness)
    return Row(
        backend=kernels.name, device=device.type, op=op, precision=precision, num_cases=count,
        worst=worst, error=error, tolerance=tolerance,
    )  # fmt: skip


def _closeness(measurement: tuple[float, float, str]) -> float:
    error, tolerance, _ = measurement
    return error / tolerance if error == error else float("inf")  # NaN is the worst of all


def _tolerance(kernels: Kernels, op: str, precision: str, is_decay: bool) -> float:
    if precision == "float32" and kernels.name in LOW_PRECISION:
        precision = "bfloat16"
    alone = DECAY_TOLERANCE if precision == "bfloat16" and is_decay else TOLERANCES[precision]
    return alone * (FUSED_FACTOR[precision] if op in FUSED else 1.0)


def _both(
    case: Case, kernels: Kernels, device: torch.device, precision: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Everything by the reference, and by the backend, from exactly the same numbers."""
    full = torch.float64 if precision == "float64" else torch.float32
    given = {
        name: x.to(_DTYPES[precision] if name in case.low else full)
        for name, x in case.inputs.items()
    }
    wanted = _everything(case, Reference(), {name: x.double() for name, x in given.items()})
    there = {name: x.to(device) for name, x in given.items()}
    return wanted, _everything(case, kernels, there, is_low=precision == "bfloat16")


def _everything(
    case: Case, kernels: Kernels, inputs: dict[str, Tensor], *, is_low: bool = False
) -> dict[str, Tensor]:
    leaves = [x.detach().requires_grad_() for x in inputs.values()]
    # Only the way forward is under autocast, as in training: it would round gradients once more.
    with torch.autocast(leaves[0].device.type, dtype=torch.bfloat16, enabled=is_low):
        outputs = case.run(kernels, leaves)
    generator = torch.Generator().manual_seed(7)
    # Drawn by shape, not by `randn_like`: that follows strides, and gives each backend others.
    cotangents = [
        torch.randn(x.shape, generator=generator, dtype=torch.float64)
        .to(torch.bfloat16)  # so that every precision holds them exactly
        .to(x.dtype)
        .to(x.device)
        for x in outputs
    ]
    gradients = torch.autograd.grad(outputs, leaves, cotangents, allow_unused=True)
    found = {f"output {number}": x.detach() for number, x in enumerate(outputs)}
    for name, gradient in zip(inputs, gradients, strict=True):
        if gradient is not None:
            found[f"d {name}"] = gradient
    return found


def _errors(wanted: dict[str, Tensor], found: dict[str, Tensor]) -> Iterator[tuple[str, float]]:
    for name, true in wanted.items():
        if name not in found:
            yield f"{name} (missing)", float("nan")
            continue
        away = (found[name].cpu().double() - true.cpu().double()).norm()
        size = true.double().norm()
        # What is exactly zero (nothing was there to learn from) must be zero, not relatively so.
        yield name, float(away / size) if size > 0 else float(away)


# ---- the operations


def _draw(seed: int) -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)


_B, _H, _K, _N = 2, 2, 32, 32
_D = _H * _K


def _wkv6(length: int, shift: float) -> Case:
    draw, shape = _draw(length), (_B, length, _H, _K)
    logw = torch.clamp_min(-torch.exp(draw(*shape) + shift), _LOGW_MIN)
    return Case(
        run=lambda kernels, x: kernels.wkv6(*x, logw_min=_LOGW_MIN - 1e-6),
        inputs={
            "r": draw(*shape), "k": draw(*shape), "v": draw(*shape), "logw": logw,
            "u": draw(_H, _K), "state": draw(_B, _H, _K, _K),
        },
        low=frozenset(("r", "k", "v")),
        decays=frozenset(("logw",)),
    )  # fmt: skip


def _ssd(length: int, shift: float) -> Case:
    draw = _draw(length)
    return Case(
        run=lambda kernels, x: kernels.ssd(*x),
        inputs={
            "x": draw(_B, length, _H, _K), "loga": -torch.exp(draw(_B, length, _H) + shift),
            "b": draw(_B, length, _N), "c": draw(_B, length, _N), "state": draw(_B, _H, _K, _N),
        },
        low=frozenset(("x", "b", "c")),
        decays=frozenset(("loga",)),
    )  # fmt: skip


def _rwkv_mix(length: int, shift: float) -> Case:
    draw = _draw(length)
    return Case(
        run=lambda kernels, x: kernels.rwkv_mix(*x, logw_min=_LOGW_MIN),
        inputs={
            "p": draw(_B, length, 4 * _D), "w": draw(_B, length, _D) + shift, "u": draw(_H, _K),
            "norm_weight": 1 + 0.1 * draw(_D), "norm_bias": 0.1 * draw(_D),
            "state": draw(_B, _H, _K, _K),
        },
        low=frozenset(("p",)),
        decays=frozenset(("w",)),
    )  # fmt: skip


def _rwkv_decay_mix(length: int, shift: float) -> Case:
    draw, rank = _draw(length), 16
    return Case(
        run=lambda kernels, x: kernels.rwkv_decay_mix(*x, logw_min=_LOGW_MIN),
        inputs={
            "p": draw(_B, length, 4 * _D + rank), "decay_up": draw(_D, rank) / 4,
            "decay_base": draw(_D) + shift, "u": draw(_H, _K),
            "norm_weight": 1 + 0.1 * draw(_D), "norm_bias": 0.1 * draw(_D),
            "state": draw(_B, _H, _K, _K),
        },
        low=frozenset(("p",)),
        decays=frozenset(("decay_up", "decay_base")),
    )  # fmt: skip


def _mamba_mix(length: int, shift: float) -> Case:
    draw, channels, width = _draw(length), _D + 2 * _N, 4
    return Case(
        run=lambda kernels, x: kernels.mamba_mix(*x),
        inputs={
            "p": draw(_B, length, 2 * _D + 2 * _N + _H),
            "conv_weight": 0.5 * draw(channels, width), "conv_bias": 0.1 * draw(channels),
            "dt_bias": draw(_H) - 1, "a_log": draw(_H) + shift, "skip": draw(_H),
            "norm_weight": 1 + 0.1 * draw(_D),
            "conv_state": draw(_B, width - 1, channels), "ssm_state": draw(_B, _H, _K, _N),
        },
        low=frozenset(("p",)),
        decays=frozenset(("dt_bias", "a_log")),
    )  # fmt: skip


def _gated_sum(length: int, _: float) -> Case:
    draw = _draw(length)
    return Case(
        run=lambda kernels, x: tuple(kernels.gated_sum(*x, normed=n) for n in (False, True)),
        inputs={
            "r": draw(_B, length, _D), "m": draw(_B, length, _D),
            "weight": 0.1 * draw(2 * _D), "bias": draw(1),
        },
        low=frozenset(("r", "m")),
    )  # fmt: skip


def _add_norm(length: int, _: float) -> Case:
    draw = _draw(length)
    return Case(
        run=lambda kernels, x: kernels.add_norm(*x, out_dtype=x[1].dtype),
        inputs={
            "x": draw(_B, length, _D), "y": draw(_B, length, _D), "weight": 1 + 0.1 * draw(_D)
        },
        low=frozenset(("y",)),
    )  # fmt: skip


def _linear(length: int, _: float) -> Case:
    draw = _draw(length)
    return Case(
        run=lambda kernels, x: (kernels.linear(*x),),
        inputs={"x": draw(_B, length, _D), "weight": draw(48, _D) / 8},
        low=frozenset(("x",)),
    )


def _relu2(length: int, _: float) -> Case:
    return Case(
        run=lambda kernels, x: (kernels.relu2(*x),),
        inputs={"x": _draw(length)(_B, length, _D)},
        low=frozenset(("x",)),
    )


OPS: dict[str, Callable[[int, float], Case]] = {
    "wkv6": _wkv6,
    "ssd": _ssd,
    "rwkv_mix": _rwkv_mix,
    "rwkv_decay_mix": _rwkv_decay_mix,
    "mamba_mix": _mamba_mix,
    "gated_sum": _gated_sum,
    "add_norm": _add_norm,
    "relu2": _relu2,
    "linear": _linear,
}
"""Each makes the case of one length and strength of decay."""


# ---- a whole network


def _check_model(kernels: Kernels, device: torch.device, precision: str) -> Row:
    """Logits and every weight's gradient of two layers, the state handed on half-way."""
    from twin.lm.model import HybridLM

    config = HybridConfig(vocab_size=16, d_model=64, n_layers=2, decay_rank=16)
    full = torch.float64 if precision == "float64" else torch.float32
    tokens = torch.randint(16, (2, 77), generator=torch.Generator().manual_seed(1))
    found: list[dict[str, Tensor]] = []
    for backend, place, dtype, is_low in (
        (Reference(), torch.device("cpu"), torch.float64, False),
        (kernels, device, full, precision == "bfloat16"),
    ):
        model = HybridLM(config, kernels=backend, seed=0).to(place, dtype)
        ids = tokens.to(place)
        with torch.autocast(place.type, dtype=torch.bfloat16, enabled=is_low):
            # Halves of equal length: for `compiled` another one would mean to compile again.
            _, state = model(ids[:, :38])
            logits, _ = model(ids[:, 38:-1], state)
        flat, targets = logits.double().flatten(0, 1), ids[:, 39:].flatten()
        torch.nn.functional.cross_entropy(flat, targets).backward()  # type: ignore[no-untyped-call]
        grads = {f"d {n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
        found.append({"logits": logits.detach(), **grads})
    tolerance = MODEL_TOLERANCE[precision]
    if kernels.name in LOW_PRECISION and precision == "float32":
        tolerance = MODEL_TOLERANCE["bfloat16"]
    if precision == "bfloat16":
        # As one vector: the gradient of a single number (a gate's bias) may cancel to nothing.
        found = [
            {
                "logits": side["logits"],
                "gradients": torch.cat([side[n].cpu().double().flatten() for n in sorted(grads)]),
            }
            for side in found
        ]
    errors = [(error, tolerance, name) for name, error in _errors(found[0], found[1])]
    error, _, worst = max(errors, key=_closeness)
    return Row(
        backend=kernels.name, device=device.type, op="model", precision=precision, num_cases=1,
        worst=worst, error=error, tolerance=tolerance,
    )  # fmt: skip


# ---- the command


def report(
    backends: Sequence[str],
    device: torch.device,
    lengths: Sequence[int] = LENGTHS,
    ops: Sequence[str] = (),
    precisions: Sequence[str] = (),
) -> tuple[list[Row], dict[str, str]]:
    """Rows of those that run, and why the others do not. `compiled` is `chunked` with whole blocks
    compiled, so only the network is asked of it."""
    rows: list[Row] = []
    absent: dict[str, str] = {}
    for name in backends:
        try:
            kernels = BACKENDS[name]()
        except KernelUnavailable as error:
            absent[name] = str(error)
            continue
        wanted = ("model",) if name == "compiled" else ops
        rows += check(
            kernels, device, ops=wanted, precisions=precisions or tuple(TOLERANCES), lengths=lengths
        )
    return rows, absent


def main(arguments: Sequence[str] | None = None) -> int:
    """0: all that run are right; 1: one is wrong; 3: one that was named cannot run here."""
    parser = argparse.ArgumentParser(
        prog="python -m twin.lm.kernels.selfcheck", description=__doc__
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--backend", action="append", choices=sorted(BACKENDS), default=[])
    parser.add_argument("--op", action="append", choices=[*OPS, "model"], default=[])
    parser.add_argument("--precision", action="append", choices=[*TOLERANCES], default=[])
    parser.add_argument("--length", action="append", type=int, default=[])
    options = parser.parse_args(arguments)
    # `compiled` takes minutes to compile on a CPU: there only where it is named.
    device = torch.device(options.device)
    names = options.backend or [n for n in BACKENDS if n != "compiled" or device.type != "cpu"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows, absent = report(
            names, device, options.length or LENGTHS, options.op, options.precision
        )
    if options.json:
        shown = [asdict(row) | {"passed": row.passed} for row in rows]
        print(json.dumps({"device": _device_name(device), "rows": shown, "absent": absent}))
    else:
        print(_device_name(device))
        for row in rows:
            print(_line(row))
        for name, reason in absent.items():
            print(f"{name:<10} absent: {reason}")
    if not all(row.passed for row in rows):
        return 1
    return 3 if absent and options.backend else 0


def _line(row: Row) -> str:
    verdict = "pass" if row.passed else "FAIL"
    return (
        f"{row.backend:<10} {row.op:<10} {row.precision:<9} {verdict}  "
        f"{row.error:.1e} of {row.tolerance:.0e} at {row.worst}, {row.num_cases} cases"
    )


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"{device.type}, torch {torch.__version__}"


if __name__ == "__main__":
    sys.exit(main())
