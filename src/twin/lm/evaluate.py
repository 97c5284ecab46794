"""The loss of a model on a whole text, in windows without a past or with the state carried on.

Owns how a validation figure is computed: every token but the first is predicted exactly once.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from twin.lm.corpus import Tokens
from twin.lm.errors import BadCorpus
from twin.lm.memory import VALIDATED_AT_ONCE
from twin.lm.model import HybridLM
from twin.lm.precision import Precision, autocast

MAX_LOGITS: Final = 1 << 24
"""Numbers in one batch of logits: 64 MiB."""
STREAMS: Final = 8
"""Streams that a text is cut into where the state is carried on: eight of its tokens are predicted
without a past instead of one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    nats_per_token: float
    num_tokens: int
    """Predicted ones."""
    entropy: float
    """Mean entropy of the predictions, in nats."""

    def bits_per_byte(self, num_tokens: int, num_bytes: int) -> float:
        """Comparable between tokenizers; of a text with so many tokens and bytes."""
        return self.nats_per_token * num_tokens / num_bytes / math.log(2)


@torch.inference_mode()
def evaluate(
    model: HybridLM,
    tokens: Tokens,
    *,
    window: int = 256,
    carried: bool = False,
    batch: int = VALIDATED_AT_ONCE,
    precision: Precision = "auto",
    windows: int = 0,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Cross entropy over all of `tokens` in windows of `window`; the last one may be shorter.

    `windows`: only so many of them, evenly spaced over the text; 0 or more than there are: all.
    `tell` hears how many tokens of how many are done.

    Without `carried` every window starts from the model's initial state; with it, the text is cut
    into a few streams, and each window goes on from the one before.
    """
    if len(tokens) < 2:
        raise BadCorpus(f"{len(tokens)} tokens hold nothing to predict. Give more text.")
    was_training, device = model.training, model.embed.weight.device
    batch = max(1, min(batch, MAX_LOGITS // (window * model.config.vocab_size)))
    groups = _streams(tokens, window) if carried else _windows(tokens, window, batch, windows)
    nats = entropy = 0.0
    count = 0
    model.eval()
    try:
        for start, block_BT1 in groups:
            if start:
                state = None
            x_BT = torch.from_numpy(block_BT1[:, :-1]).to(device)
            y_BT = torch.from_numpy(block_BT1[:, 1:]).to(device)
            with autocast(device, precision):
                logits_BTX, state = model(x_BT, state)
            some_nats, some_entropy = _sums(logits_BTX, y_BT)
            nats, entropy, count = nats + some_nats, entropy + some_entropy, count + y_BT.numel()
            tell(count, min(windows * window or len(tokens) - 1, len(tokens) - 1))
    finally:
        model.train(was_training)
    return Evaluation(nats_per_token=nats / count, num_tokens=count, entropy=entropy / count)


def _sums(logits_BTX: Tensor, y_BT: Tensor) -> tuple[float, float]:
    """Nats of the truth, and of the predictions' entropy, summed over all positions."""
    logp_BTX = F.log_softmax(logits_BTX.float(), dim=-1)
    nats = F.nll_loss(logp_BTX.flatten(0, 1), y_BT.flatten(), reduction="sum")
    entropy = -(logp_BTX.exp() * logp_BTX).sum()
    return float(nats), float(entropy)


def count_windows(tokens: Tokens, window: int) -> int:
    """In how many windows `evaluate` goes over a text; the last may be shorter."""
    return -(-(len(tokens) - 1) // window)


def _windows(
    tokens: Tokens, window: int, batch: int, most: int
) -> Iterator[tuple[bool, np.ndarray]]:
    """(fresh, (B, T + 1)): consecutive windows, which share their border token."""
    last = len(tokens) - 1
    starts = np.arange(0, last - last % window, window)
    some = 0 < most < count_windows(tokens, window)
    if some:
        starts = starts[np.linspace(0, len(starts) - 1, most).astype(np.int64)]
    for at in range(0, len(starts), batch):
        rows = starts[at : at + batch, None] + np.arange(window + 1)
        yield True, np.asarray(tokens[rows], dtype=np.int64)
    if last % window and not some:
        yield True, np.asarray(tokens[last - last % window :], dtype=np.int64)[None]


def _streams(tokens: Tokens, window: int) -> Iterator[tuple[bool, np.ndarray]]:
    """(fresh, (B, T + 1)): windows of parallel streams, and the few tokens left over at the end."""
    last = len(tokens) - 1
    streams = max(1, min(STREAMS, last // window))
    length = last // streams
    starts = np.arange(streams) * length
    for at in range(0, length, window):
        rows = starts[:, None] + np.arange(at, min(at + window, length) + 1)
        yield at == 0, np.asarray(tokens[rows], dtype=np.int64)
    if streams * length < last:
        yield True, np.asarray(tokens[streams * length :], dtype=np.int64)[None]
