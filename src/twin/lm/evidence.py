"""What is known of a checkpoint besides its weights: its steps, its metrics, the text it learnt.

Owns reading them for the gates. Judges nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from twin.lm import metrics
from twin.lm.checkpoint import load_model
from twin.lm.corpus import Part, reopen
from twin.lm.errors import BadCorpus
from twin.lm.gates_trained import TrainingPoint, ValidationPoint
from twin.lm.kernels.registry import Kernels
from twin.lm.model import HybridLM
from twin.lm.tokenizer import Tokenizer

CORPORA: Final = ".corpora"
"""Where the models' texts are kept, beside the models."""
MAX_TRAIN_BYTES: Final = 8 << 20
MAX_HELD_OUT_BYTES: Final = 2 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model under judgement, with what is known of its training."""

    name: str
    model: HybridLM
    tokenizer: Tokenizer
    steps: int
    """Training steps behind these weights; 0 for one that was only built."""
    history: tuple[TrainingPoint, ...] = ()
    validation: tuple[ValidationPoint, ...] = ()
    corpus_key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """What is read: bytes to learn from, and bytes that the model was not trained on."""

    train: bytes
    held_out: bytes


def load_subject(folder: Path, kernels: str | Kernels = "auto") -> Subject:
    """Raises BadCheckpoint for a folder that holds no whole model, KernelUnavailable."""
    model, tokenizer, card = load_model(folder, kernels)
    lines = metrics.read(folder)
    corpus = card.get("corpus")
    return Subject(
        name=folder.name,
        model=model,
        tokenizer=tokenizer,
        steps=_whole(card.get("step")),
        history=tuple(_training(lines)),
        validation=tuple(
            ValidationPoint(step=line["step"], loss=float(line["val"]))
            for line in lines
            if isinstance(line.get("val"), int | float)
        ),
        corpus_key=str(corpus.get("key", "")) if isinstance(corpus, dict) else "",
    )


def learnt_text(subject: Subject, cache: Path) -> Text:
    """The text that the model was trained on, from the corpora's cache. Raises BadCorpus where it
    is not known or gone."""
    if not subject.corpus_key:
        raise BadCorpus(f"{subject.name} does not say what it was trained on. Give `--text FILE`.")
    try:
        corpus = reopen(cache, subject.corpus_key)
    except BadCorpus:
        raise BadCorpus(
            f"The text that {subject.name} was trained on is no longer in {cache}. "
            "Give `--text FILE`."
        ) from None
    return Text(
        train=_bytes(corpus.tokenizer, corpus.train, MAX_TRAIN_BYTES),
        held_out=_bytes(corpus.tokenizer, corpus.held_out, MAX_HELD_OUT_BYTES),
    )


def file_text(paths: Sequence[Path], held_out: float = 0.1) -> Text:
    """Files one after another; the end is held out. Raises BadCorpus for what cannot be read."""
    try:
        data = b"\n".join(path.read_bytes() for path in paths)
    except OSError as error:
        raise BadCorpus(f"{error.filename} cannot be read ({error.strerror}).") from error
    cut = len(data) - min(int(len(data) * held_out), MAX_HELD_OUT_BYTES)
    while cut < len(data) and data[cut] & 0xC0 == 0x80:  # not inside a character of UTF-8
        cut += 1
    return Text(train=data[:cut][:MAX_TRAIN_BYTES], held_out=data[cut:])


def _bytes(tokenizer: Tokenizer, part: Part, limit: int) -> bytes:
    """The text behind the first tokens, without control tokens."""
    tokens = part.tokens[:limit].tolist()
    plain = [tokenizer.token_bytes(one) for one in tokens if tokenizer.control_name(one) is None]
    return b"".join(plain)[:limit]


def _training(lines: Sequence[dict[str, Any]]) -> list[TrainingPoint]:
    return [
        TrainingPoint(
            step=line["step"],
            loss=float(line["loss"]),
            gradient_norm=_number(line.get("gradient_norm")),
            pathway_ratio=_number(line.get("gradient_ratio")),
        )
        for line in lines
        if isinstance(line.get("loss"), int | float)
    ]


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _whole(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
