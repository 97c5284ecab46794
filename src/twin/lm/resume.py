"""What a run keeps to go on exactly where it was, and how it is put back.

Owns which parts of a run these are; `snapshot` is the file. In a budget of steps a run that was
interrupted ends with the very bits of one that was not.
"""

from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from twin.lm import shards, snapshot
from twin.lm.errors import BadCheckpoint
from twin.lm.optim import GradientNorms
from twin.lm.standing import Means

if TYPE_CHECKING:
    from twin.lm.corpus import Corpus
    from twin.lm.pretrain import Run


def save(run: "Run", seconds: float | None = None) -> None:
    """Everything that is needed to go on exactly here; all processes have to call it. With several
    of them the streams of the others are not kept: they start anew after an interruption."""
    named = [(f"model.{name}", t) for name, t in run.model.state_dict().items()]
    named += [(f"optimizer.{name}", t) for name, t in run.optimizers.tensors()]
    if run.average is not None:
        named += [(f"average.{n}", t) for n, t in enumerate(run.average.weights)]
    tensors = shards.gathered(named, keep=run.leads)
    if not run.leads:
        return
    if run.state is not None and run.team.world == 1:
        tensors |= {f"state.{n:04d}": t for n, t in enumerate(run.state)}
    tensors["rng"] = torch.get_rng_state()
    if run.device.type == "cuda":
        tensors["rng.cuda"] = torch.cuda.get_rng_state(run.device)
    rest = {
        "recipe": run.recipe.to_dict(),
        "corpus": run.corpus.key,
        "step": run.step,
        "tokens": run.tokens,
        "seconds": run.clock.seconds if seconds is None else seconds,
        "train_loss": run.train_loss,
        "validation": run.validation,
        "validation_windows": run.validation_windows,
        "looked_s": run.looked_s,
        "position": run.batches.position(),
        "rules": run.rules.to_dict(),
        "means": [run.means.losses, [asdict(norms) for norms in run.means.norms]],
    }
    snapshot.save(run.folder, tensors, rest)


def restore(run: "Run") -> None:
    """Goes on where `save` was last called in the folder. Raises BadCheckpoint."""
    tensors, rest = snapshot.load(run.folder)
    check_text(rest["corpus"], run.corpus)
    snapshot.fill(run.model, tensors, "model.")
    run.optimizers.restore(_under(tensors, "optimizer."))
    if run.average is not None:
        kept = _under(tensors, "average.")
        with suppress(KeyError):  # a run that had no average starts one from here
            run.average.restore([kept[str(n)] for n in range(len(run.average.weights))])
    kept = _under(tensors, "state.")
    run.state = tuple(kept[name].to(run.device) for name in sorted(kept)) or None
    run.batches.restore(rest["position"])
    run.rules.restore(rest["rules"])
    losses, norms = rest["means"]
    run.means = Means(losses, [GradientNorms(**values) for values in norms])
    run.step, run.tokens = rest["step"], rest["tokens"]
    run.train_loss, run.validation = rest["train_loss"], rest["validation"]
    run.validation_windows = rest.get("validation_windows", 0)  # of the same text as before
    run.looked_s = rest.get("looked_s", 0.0)
    run.clock.before = rest["seconds"]
    if run.leads:
        torch.set_rng_state(tensors["rng"])
    if "rng.cuda" in tensors and run.device.type == "cuda":
        torch.cuda.set_rng_state(tensors["rng.cuda"], run.device)


def check_text(key: str, corpus: "Corpus") -> None:
    """Raises BadCheckpoint where a run began with a corpus of another key."""
    if key != corpus.key:
        raise BadCheckpoint(
            "The run was started with another text, tokenizer or held-out part. Continue it "
            "with the same, or start without `--resume`."
        )


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
