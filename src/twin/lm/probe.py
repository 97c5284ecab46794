"""A short training run on the side, for gates that judge gradients and states.

Owns a bare loop over the trainer's own optimizer, batches and clipping: no schedule but a warm-up,
no checkpoints, no clock. What it trains is thrown away, so callers hand in a copy. A real run is
`pretrain`'s business, and its metrics are better evidence where they exist.
"""

from collections.abc import Callable
from typing import Final

import torch
import torch.nn.functional as F

from twin.lm import state as states
from twin.lm.batches import Batches, Order
from twin.lm.corpus import Tokens
from twin.lm.gates_trained import TrainingPoint
from twin.lm.model import HybridLM
from twin.lm.optim import Gradients, Optimizers, Rates

WARM_UP_STEPS: Final = 20
"""Until the learning rate is whole."""


def train_briefly(
    model: HybridLM,
    tokens: Tokens,
    *,
    steps: int,
    batch: int = 8,
    window: int = 64,
    rates: Rates | None = None,
    clip: float = 1.0,
    seed: int = 0,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> list[TrainingPoint]:
    """Trains `model` in place on one stream of tokens; one point per step, norms before clipping.

    Stops early where the loss is not finite: that point is the last. Raises BadCorpus for text too
    short for one batch.
    """
    optimizers = Optimizers(model, rates or Rates(), newton_dtype=torch.float32)
    gradients = Gradients(model)
    # As in a real run: the cache of attention cannot be emptied for some rows of a batch.
    order: Order = "windows" if model.config.attention_every else "handoff"
    batches = Batches(tokens, seed=seed, order=order)
    device = next(model.parameters()).device
    state: states.State | None = None
    points: list[TrainingPoint] = []
    was_training = model.training
    model.train()
    try:
        for step in range(1, steps + 1):
            tokens_BT1, fresh_B = batches.next(batch, window)
            seen_BT1 = torch.from_numpy(tokens_BT1).to(device)
            before = states.begin(model.init_state, state, torch.from_numpy(fresh_B))
            logits_BTX, state = model(seen_BT1[:, :-1], before)
            loss = F.cross_entropy(logits_BTX.flatten(0, 1), seen_BT1[:, 1:].flatten())
            loss.backward()  # type: ignore[no-untyped-call]
            norms = gradients.measure_and_clip(clip)
            optimizers.step(min(1.0, step / WARM_UP_STEPS))
            state = states.detach(state)
            points.append(
                TrainingPoint(
                    step=step,
                    loss=float(loss.detach()),
                    gradient_norm=norms.total,
                    pathway_ratio=norms.ratio,
                )
            )
            tell(step, steps)
            if not torch.isfinite(loss.detach()):
                break
    finally:
        model.train(was_training)
    return points
