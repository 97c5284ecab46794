"""The gates G0 to G2: what must hold before anything is trained.

Owns their thresholds, each as a `Band` in words with its reason. Every gate is a function from a
model and tokens to verdicts; `gates_trained` has those that judge training, `gating` decides which
gates a stage needs. A figure that is not finite always fails.

The published G2 asks for an entropy of 2 to 5 nats. That fits 97 symbols (ln 97 = 4.6); with
24,000 tokens an untrained model has 10.1. So the bands are shares of ln(vocabulary).
"""

import copy
import math

import torch
from torch import Tensor

from twin.lm.diagnostics import mean_loss
from twin.lm.errors import KernelUnavailable
from twin.lm.kernels.reference import Reference
from twin.lm.kernels.registry import choose
from twin.lm.model import HybridLM
from twin.lm.tokenizer import CONTROL, Tokenizer
from twin.lm.verdict import Band, Grade, Verdict

_FAST = ("native", "compiled", "triton", "fla")
_AGREEMENT = Band(pass_to=1e-4, warn_to=1e-2, unit="relative L2")
"""float32 through five layers gives 2e-6; 1e-2 is what bfloat16 gives."""
_ENTROPY = Band(pass_from=0.9, pass_to=1.02, warn_from=0.25, warn_to=1.3, unit="of ln(vocabulary)")
_FIRST_LOSS = Band(pass_from=0.8, pass_to=1.1, warn_from=0.25, warn_to=1.75,
                   unit="of ln(vocabulary)")  # fmt: skip


def g0_tokenizer(tokenizer: Tokenizer, vocab_size: int) -> tuple[Verdict, ...]:
    """Control tokens are single tokens, each with its own number, and text never becomes one."""
    same = tokenizer.vocab_size == vocab_size
    sizes = Verdict(
        gate="G0", check="vocabulary", grade="pass" if same else "fail",
        value=float(tokenizer.vocab_size), thresholds=f"pass {vocab_size}, the model's",
        sentence="Tokenizer and model number alike." if same else
        f"The tokenizer has {tokenizer.vocab_size} tokens and the model {vocab_size}: "
        "they do not belong together.",
    )  # fmt: skip
    faults = [fault for mark in CONTROL if (fault := _control_fault(tokenizer, mark, vocab_size))]
    grade: Grade = "fail" if faults else "pass"
    said = f"All {len(CONTROL)} control tokens are one token each; text never becomes one."
    if faults:
        said = f"{faults[0]} Make the tokenizer again with this version."
    if not tokenizer.control:
        grade = "warn"
        said = (
            "This vocabulary was made without control tokens: fine for plain text, but the model "
            "cannot be told where a text or a turn ends."
        )
    marks = Verdict(
        gate="G0", check="control tokens", grade=grade,
        value=float(len(CONTROL) - len(faults)),
        thresholds=f"pass all {len(CONTROL)}; warn where none was wanted", sentence=said,
    )  # fmt: skip
    return sizes, marks


def g0_kernels(wanted: str = "auto", device: torch.device | None = None) -> Verdict:
    """The kernels that run here, or that none does."""
    bands = f"pass {', '.join(_FAST)}; warn a fallback; fail none"
    try:
        name = choose(wanted, device).name
    except KernelUnavailable as error:
        return Verdict(gate="G0", check="kernels", grade="fail", value=None, thresholds=bands,
                       sentence=str(error))  # fmt: skip
    if name in _FAST:
        grade, said = "pass", f"The kernels `{name}` run here."
    else:
        grade, said = (
            "warn",
            (
                f"The fallback `{name}` is in use: right, but slower. `twin doctor` tells what is "
                "missing (a C++ compiler, mostly)."
            ),
        )
    return Verdict(gate="G0", check="kernels", grade=_as_grade(grade), value=None,
                   thresholds=bands, sentence=said)  # fmt: skip


def _as_grade(text: str) -> Grade:
    return "pass" if text == "pass" else "warn"


@torch.no_grad()
def g1(model: HybridLM, tokens_BT: Tensor) -> tuple[Verdict, ...]:
    """Forward: finite, of the right shape, causal; in one piece = split = token by token, all
    against the float64 reference. Reads at most 2 x 96 tokens: the reference is a loop."""
    tokens = tokens_BT[:2, :97]
    batch, length = tokens.shape
    was_training = model.training
    model.eval()
    try:
        logits, state = model(tokens)
        shape_right = logits.shape == (batch, length, model.config.vocab_size)
        bad = int((~torch.isfinite(logits)).sum()) + sum(
            int((~torch.isfinite(part)).sum()) for part in state
        )
        found = [
            _yes_or_no("G1", "shape", shape_right, "Logits have one row per token.",
                       f"Logits have the shape {tuple(logits.shape)}."),
            _yes_or_no("G1", "finite", bad == 0, "No NaN and no infinity.",
                       f"{bad} numbers are NaN or infinite: the weights are damaged or the run "
                       "diverged; go back to an earlier checkpoint.", value=float(bad)),
        ]  # fmt: skip
        if bad or not shape_right:
            return tuple(found)
        found += _agreements(model, tokens, logits)
        changed = tokens.clone()
        changed[:, length // 2 :] = (changed[:, length // 2 :] + 1) % model.config.vocab_size
        moved = float((model(changed)[0] - logits)[:, : length // 2].abs().max())
        found.append(
            _yes_or_no("G1", "causality", moved == 0.0,
                       "A prediction depends on nothing that follows.",
                       "A prediction changes with tokens that follow it: the future leaks, and "
                       "every loss is too good.", value=moved)
        )  # fmt: skip
        return tuple(found)
    finally:
        model.train(was_training)


def _agreements(model: HybridLM, tokens: Tensor, logits: Tensor) -> list[Verdict]:
    """Whole, split and stepped against the reference."""
    exact = copy.deepcopy(model).double().cpu()
    exact.kernels = Reference()
    truth = exact(tokens.cpu())[0]
    half = tokens.shape[1] // 2 + 1  # an odd place: no chunk ends there
    first, state = model(tokens[:, :half])
    second, _ = model(tokens[:, half:], state)
    state, stepped = model.init_state(tokens.shape[0]), []
    for place in range(tokens.shape[1]):
        one, state = model.step(tokens[:, place], state)
        stepped.append(one)
    ways = {
        "in one piece = reference": logits,
        "state handed on = reference": torch.cat([first, second], dim=1),
        "token by token = reference": torch.stack(stepped, dim=1),
    }
    found = []
    for check, way in ways.items():
        error = float((way.cpu().double() - truth).norm() / truth.norm())
        grade = _AGREEMENT.grade(error)
        said = "Agrees with the plain loop in float64."
        if grade != "pass":
            said = (
                f"Differs from the plain loop in float64 with the kernels `{model.kernels.name}`: "
                "choose other kernels (`--kernels reference` is right) and report it."
            )
        found.append(Verdict(gate="G1", check=check, grade=grade, value=error,
                             thresholds=str(_AGREEMENT), sentence=said))  # fmt: skip
    return found


@torch.no_grad()
def g2(untrained: HybridLM, tokens_BT: Tensor) -> tuple[Verdict, ...]:
    """The first predictions, before any training: as uncertain as the vocabulary is large."""
    was_training = untrained.training
    untrained.eval()
    try:
        logits = untrained(tokens_BT[:, :-1])[0].double()
    finally:
        untrained.train(was_training)
    log_p = logits.log_softmax(dim=-1)
    entropy = float(-(log_p.exp() * log_p).sum(-1).mean())
    loss = mean_loss(untrained, tokens_BT)
    full = math.log(untrained.config.vocab_size)
    known = f"ln({untrained.config.vocab_size}) = {full:.3f} nats"
    found = []
    for check, value, band in (
        ("entropy", entropy, _ENTROPY),
        ("first loss", loss, _FIRST_LOSS),
    ):
        share = value / full if full else math.nan
        grade = band.grade(share)
        said = f"{value:.3f} nats of {known}: it prefers nothing yet."
        if grade != "pass":
            said = (
                f"{value:.3f} nats of {known}: before training it is already sure of something; "
                "the starting weights of the embedding or the head are too large."
            )
        found.append(Verdict(gate="G2", check=check, grade=grade, value=share,
                             thresholds=str(band), sentence=said))  # fmt: skip
    return tuple(found)


def _control_fault(tokenizer: Tokenizer, mark: str, vocab_size: int) -> str:
    """What is wrong with one control token, empty where nothing is."""
    known = tokenizer.control.get(mark)
    if known is None:
        return f"{mark} is missing."
    if not 0 <= known < vocab_size:
        return f"{mark} has the number {known}, which the model does not know."
    if list(tokenizer.control.values()).count(known) > 1:
        return f"{mark} shares its number {known} with another."
    tokens = tokenizer.encode(mark, control=True).tolist()
    if tokens != [known]:
        return f"{mark} becomes {len(tokens)} tokens, not one."
    try:
        plain = tokenizer.encode_bytes(mark.encode()).tolist()
    except ValueError:  # a vocabulary of characters that lacks its symbols
        plain = []
    return f"{mark} written in a text becomes the control token." if known in plain else ""


def _yes_or_no(
    gate: str, check: str, right: bool, good: str, bad: str, value: float | None = None
) -> Verdict:
    return Verdict(gate=gate, check=check, grade="pass" if right else "fail", value=value,
                   thresholds="pass yes, fail no", sentence=good if right else bad)  # fmt: skip
