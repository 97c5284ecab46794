"""Trains small networks on MQAR alone: what a fixed state can hold, and what an anchor adds.

Owns the tiny loop and its shape. These networks are no language models and the result says nothing
about a checkpoint; it says what to expect of the architecture. AdamW, one batch of fresh questions
a step with the number of keys drawn anew, so that one network is judged at every number of keys.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from twin.lm.config import HybridConfig, num_parameters, state_bytes
from twin.lm.model import HybridLM
from twin.lm.recall import IGNORED, mqar, mqar_accuracy

PURE = HybridConfig(
    vocab_size=129, d_model=64, n_layers=2, head_dim=16, mamba_head_dim=16, d_state=16,
    decay_rank=16, ffn_mult=2.0, attention_heads=4,
)  # fmt: skip
"""64 keys and 64 values; a state small enough that 64 pairs are a strain."""


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
    steps: int = 600,
    batch_size: int = 32,
    seed: int = 0,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> list[RecallPoint]:
    """The network as it is, and with attention in its last block, trained equally long."""
    networks = {
        "hybrid": replace(config, attention_every=0),
        "hybrid with an attention anchor": replace(config, attention_every=config.n_layers),
    }
    found = []
    for place, (name, shape) in enumerate(networks.items()):

        def told(done: int, place: int = place) -> None:
            tell(place * steps + done, len(networks) * steps)

        model = train_on_mqar(shape, num_keys=num_keys, steps=steps, batch_size=batch_size,
                              seed=seed, tell=told)  # fmt: skip
        for keys in num_keys:
            batch = mqar(num_keys=keys, length=8 * keys, batch_size=64,
                         vocab_size=shape.vocab_size, seed=1_000_003 + seed)  # fmt: skip
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
    batch_size: int,
    seed: int,
    lr: float = 3e-3,
    tell: Callable[[int], None] = lambda done: None,
) -> HybridLM:
    """A network trained on batches whose number of keys goes round, least first."""
    model = HybridLM(config, seed=seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        keys = num_keys[step % len(num_keys)]
        batch = mqar(num_keys=keys, length=8 * keys, batch_size=max(4, batch_size * 8 // keys),
                     vocab_size=config.vocab_size, seed=seed * steps + step)  # fmt: skip
        logits_BTX, _ = model(batch.tokens_BT)
        loss = F.cross_entropy(
            logits_BTX.flatten(0, 1), batch.targets_BT.flatten(), ignore_index=IGNORED
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        tell(step + 1)
    return model.eval()
