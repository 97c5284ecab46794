"""Networks that a run learns from beside the text: what they expect next, as a target.

Owns loading them and that they speak the same tokens. On little text a network that goes through it
many times learns it by heart; what others have made of the text says more of each place than the
one token that stands there (Hinton et al. 2015, arXiv 1503.02531), and a network taught by equals
becomes better than they are (Furlanello et al. 2018, arXiv 1805.04770).
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from twin.lm.checkpoint import load_model
from twin.lm.corpus import Corpus
from twin.lm.errors import BadConfig
from twin.lm.kernels.registry import Kernels


class Teachers:
    """Raises BadCheckpoint for a folder that holds no model, BadConfig for one of other tokens."""

    def __init__(
        self, folders: Sequence[Path], corpus: Corpus, *, kernels: Kernels, device: torch.device
    ) -> None:
        self._models = []
        self.warnings: list[str] = []
        for folder in folders:
            model, spoken, card = load_model(folder, kernels=kernels)
            if spoken != corpus.tokenizer:
                raise BadConfig(
                    f"The teacher {folder.name} has other tokens than this text. Teach by "
                    "models of the same text and tokenizer."
                )
            if card.get("corpus", {}).get("key") != corpus.key:
                self.warnings.append(
                    f"The teacher {folder.name} learnt from another text or another part of "
                    "it. It may know what is held out here, and these figures would flatter."
                )
            self._models.append(model.to(device).requires_grad_(False))

    @torch.no_grad()
    def targets(self, tokens_BT: Tensor, next_BT: Tensor, share: float) -> Tensor:
        """What to learn at each place, (B, T, X) summing to 1: `share` of the teachers' mean
        expectation, the rest on the token that follows. Each row is read without a past."""
        first, *others = self._models
        expected_BTX = first(tokens_BT)[0].softmax(-1)
        for model in others:  # one after another: with 24,000 symbols each is large
            expected_BTX += model(tokens_BT)[0].softmax(-1)
        expected_BTX *= share / len(self._models)
        rest = expected_BTX.new_full((), 1.0 - share).expand(*next_BT.shape, 1)
        targets_BTX: Tensor = expected_BTX.scatter_add_(-1, next_BT.unsqueeze(-1), rest)
        return targets_BTX
