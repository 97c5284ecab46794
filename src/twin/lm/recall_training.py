"""Trains small networks on MQAR alone: what a fixed state holds, what an anchor or induction adds.

Owns the tiny loop and its shape. These networks are no language models and the result says nothing
about a checkpoint; it says what to expect of the architecture. The trainer's own optimizer; a batch
of fresh questions a step; the number of keys grows over the run, so that one network is judged at
every number of keys.

Tried before: AdamW at 3e-3, all numbers of keys from the start, or Zoology's sparse questions leave
both networks at chance after 600 steps; a matrix learning rate of 0.02 leaves the pure one there
after 1,500. With what is here it knows 4 and 8 keys by step 750.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
import torch.nn.functional as F

from twin.lm.config import HybridConfig, num_parameters, state_bytes
from twin.lm.model import HybridLM
from twin.lm.optim import Gradients, Optimizers, Rates
from twin.lm.recall import IGNORED, mqar, mqar_accuracy

PURE = HybridConfig(
    vocab_size=129, d_model=64, n_layers=2, head_dim=16, mamba_head_dim=16, d_state=16,
    decay_rank=16, ffn_mult=2.0, attention_heads=4, branch_norm=True,
)  # fmt: skip
"""64 keys and 64 values; a state small enough that 64 pairs are a strain."""
RATES: Final = Rates(matrix_lr=0.01, lr=2e-3, weight_decay=0.0)
GROWTH: Final = (0.0, 0.4, 0.55, 0.7, 0.8)
"""Share of the run from which each number of keys takes part, least first."""
ROUNDS: Final = 3
EMBEDDING_STD: Final = 0.02
"""Keys and values mean nothing but themselves, so they must differ from the start: with a language
model's 0.002 the pure network knew 0.56 of 4 keys where it knew 0.98 with this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallPoint:
    """One network at one number of keys."""

    network: str
    num_parameters: int
    state_bytes: int
    num_keys: int
    accuracy: float
    chance: float


def compare_recall(
    *,
    config: HybridConfig = PURE,
    num_keys: Sequence[int] = (4, 8, 16, 32, 64),
    steps: int = 1200,
    tokens: int = 4096,
    seed: int = 0,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> list[RecallPoint]:
    """The network with its states alone, with attention in its last block, and with induction, all
    trained equally long; `tokens` of each step."""
    pure = replace(config, attention_every=0, induction_max=0)
    networks = {
        "hybrid": pure,
        "hybrid with an attention anchor": replace(pure, attention_every=config.n_layers),
        "hybrid with induction": replace(pure, induction_max=1),
    }
    found = []
    for place, (name, shape) in enumerate(networks.items()):

        def told(done: int, place: int = place) -> None:
            tell(place * steps + done, len(networks) * steps)

        model = train_on_mqar(
            shape, num_keys=num_keys, steps=steps, tokens=tokens, seed=seed, tell=told
        )
        for keys in num_keys:
            batch = mqar(
                num_keys=keys, batch_size=64, vocab_size=shape.vocab_size, seed=1_000_003 + seed
            )
            found.append(
                RecallPoint(
                    network=name,
                    num_parameters=num_parameters(shape),
                    state_bytes=state_bytes(shape),
                    num_keys=keys,
                    accuracy=mqar_accuracy(model, batch),
                    chance=batch.chance,
                )
            )
    return found


def train_on_mqar(
    config: HybridConfig,
    *,
    num_keys: Sequence[int],
    steps: int,
    tokens: int,
    seed: int,
    rates: Rates = RATES,
    tell: Callable[[int], None] = lambda done: None,
) -> HybridLM:
    """A network trained on pairs, few at first; what takes part goes round."""
    model = HybridLM(config, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.nn.init.normal_(model.embed.weight, std=EMBEDDING_STD)
    optimizers = Optimizers(model, rates, newton_dtype=torch.float32)
    gradients = Gradients(model)
    for step in range(steps):
        progress = step / steps
        begun = [keys for keys, start in zip(num_keys, GROWTH, strict=False) if start <= progress]
        keys = begun[step % len(begun)]
        batch = mqar(
            num_keys=keys,
            batch_size=max(4, tokens // (2 * keys * (1 + ROUNDS))),
            vocab_size=config.vocab_size,
            seed=seed * steps + step,
            rounds=ROUNDS,
        )
        logits_BTX, _ = model(batch.tokens_BT)
        loss = F.cross_entropy(
            logits_BTX.flatten(0, 1), batch.targets_BT.flatten(), ignore_index=IGNORED
        )
        loss.backward()  # type: ignore[no-untyped-call]
        gradients.measure_and_clip(1.0)
        warm_up = min(1.0, (step + 1) / 30)
        optimizers.step(warm_up * 0.5 * (1 + math.cos(math.pi * progress)))
        tell(step + 1)
    return model.eval()
