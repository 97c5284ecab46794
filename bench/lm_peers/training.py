"""The transformer through the hybrid's own trainer: one loop, one clock, one optimizer, one
validation. Only the network differs, and what its recipe says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from lm_peers.transformer import Transformer
from twin.lm.corpus import Corpus
from twin.lm.kernels.native import half
from twin.lm.optim import Average, Gradients, Optimizers, Rates
from twin.lm.precision import FORMATS, choose_precision
from twin.lm.pretrain import Run, rates
from twin.lm.recipe import Recipe


class TransformerRun(Run):
    """A run of `twin.lm.pretrain` that trains this model; writes no checkpoint of a hybrid.

    The recipe's shape must be the hybrid of equal size: memory is foreseen by it.
    """

    def __init__(self, recipe: Recipe, corpus: Corpus, folder: Path, *, model: Transformer) -> None:
        super().__init__(recipe, corpus, folder, kernels="chunked")
        self.model: Any = model.to(self.device)
        self.optimizers = Optimizers(self.model, rates(recipe), newton_dtype=newton_dtype())
        self.gradients = Gradients(self.model)
        self.average = Average(self.model, recipe.ema) if recipe.ema else None
        torch.manual_seed(recipe.seed)

    def _save_model(self, figures: dict[str, Any]) -> None:
        """A checkpoint's format is the hybrid's."""

    def _state_entropy(self) -> float | None:
        """A KV cache has no such thing."""
        return None


def recipe_optimizers(model: nn.Module) -> Optimizers:
    """What the recipes train with: Muon for hidden matrices, AdamW for the rest."""
    return Optimizers(model, Rates(), newton_dtype=newton_dtype())


def newton_dtype() -> torch.dtype:
    """Muon's products are not the network's: in half precision for every peer, where that runs."""
    return FORMATS[choose_precision(torch.device("cpu"), has_half=half.available() is None)]
