"""Can it look something up? A needle in a haystack, and many keys and values (MQAR).

Owns the two generators and their scores. Trains nothing (`recall_training` does) and sets no
threshold. Both speak in token ids, so they fit any tokenizer.

A fixed state cannot hold everything: n bits of state answer for at most n bits of needles, and a
small recurrent network learns to keep what predicts text, not what someone will ask. So every
figure stands beside its chance level, and the needle also beside the *same* question without a
needle: what the needle adds, in nats, is shown even where the answer is not yet the likeliest one.

Needle: the haystack is text the caller gives (or symbols drawn at random); at a depth between 0
(start) and 1 (just before the question) stands KEY VALUE, both drawn at random from the model's
symbols; the question at the end is KEY, and the model must go on with VALUE. That is copying from
far away, the one skill that a language model of any size may be asked for without instructions.
MQAR: Arora et al. 2023, "Zoology: Measuring and improving recall in efficient language models".

Shapes: B batch, T time, V vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from twin.lm.model import HybridLM

IGNORED = -100
"""Targets where nothing is asked, as `torch.nn.functional.cross_entropy` leaves them out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Haystack:
    """One question: the tokens up to and with the value, which stands last."""

    tokens: tuple[int, ...]
    value_length: int
    depth: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedleScore:
    """Mean over the questions of one length and depth."""

    length: int
    depth: float
    num_questions: int
    exact: float
    """Share of questions whose every value symbol was the likeliest one."""
    exact_chance: float
    symbol_accuracy: float
    symbol_chance: float
    median_rank: float
    """Of the right symbol, 1 is best; by chance (V + 1) / 2."""
    chance_rank: float
    log_probability: float
    """Nats per value symbol."""
    gain: float
    """Nats per value symbol that the needle adds over the same question without it."""
    gain_error: float
    """Standard error of `gain`."""


def haystack(
    text: Sequence[int] | None,
    *,
    length: int,
    depth: float,
    symbols: Sequence[int],
    seed: int,
    key_length: int = 8,
    value_length: int = 4,
    with_needle: bool = True,
) -> Haystack:
    """`length` tokens, the value last. `symbols` are the ids a needle may be made of.

    The same seed gives the same text, key and value at every depth, with and without the needle:
    without it text takes its place, so that both questions have one length. Raises ValueError for a
    depth outside 0..1, for fewer than two symbols, or where the needle does not fit.
    """
    if not 0.0 <= depth <= 1.0:
        raise ValueError(f"A depth lies between 0 and 1, not {depth}.")
    if len(symbols) < 2:
        raise ValueError("A needle needs at least two different symbols.")
    needle_length = key_length + value_length
    hay_length = length - 2 * needle_length
    if hay_length < 1:
        raise ValueError(
            f"{length} tokens hold no needle of {needle_length}; ask for at least "
            f"{2 * needle_length + 1}."
        )
    draw = torch.Generator().manual_seed(seed)
    key_value = _drawn(symbols, needle_length, draw)
    filler = _text(text, hay_length + needle_length, symbols, draw)
    place = round(depth * hay_length)
    middle = key_value if with_needle else filler[hay_length:]
    tokens = [*filler[:place], *middle, *filler[place:hay_length], *key_value]
    return Haystack(tokens=tuple(tokens), value_length=value_length, depth=depth)


@torch.no_grad()
def needle_scores(
    model: HybridLM,
    text: Sequence[int] | None,
    *,
    symbols: Sequence[int],
    lengths: Sequence[int] = (4096, 8192, 16384),
    depths: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    seeds: Sequence[int] = tuple(range(8)),
    key_length: int = 8,
    value_length: int = 4,
    window: int = 1024,
) -> list[NeedleScore]:
    """One score for each length and depth; the text is read `window` tokens at a time with the
    state carried, so memory does not grow with the length (but for an attention anchor's)."""
    found = []
    for length in lengths:
        bare = _values_log_probability(model, text, symbols, length, (0.0,), seeds, key_length,
                                       value_length, window, with_needle=False)  # fmt: skip
        full = _values_log_probability(model, text, symbols, length, depths, seeds, key_length,
                                       value_length, window, with_needle=True)  # fmt: skip
        num_symbols = len(symbols)
        for place, depth in enumerate(depths):
            log_p_SN, rank_SN = (part[place] for part in full)
            gain_S = (log_p_SN - bare[0][0]).mean(dim=1)
            num = len(seeds)
            error = float(gain_S.std(unbiased=True)) / math.sqrt(num) if num > 1 else math.nan
            found.append(
                NeedleScore(
                    length=length,
                    depth=depth,
                    num_questions=num,
                    exact=float((rank_SN == 1).all(dim=1).double().mean()),
                    exact_chance=num_symbols**-value_length,
                    symbol_accuracy=float((rank_SN == 1).double().mean()),
                    symbol_chance=1 / num_symbols,
                    median_rank=float(rank_SN.double().median()),
                    chance_rank=(num_symbols + 1) / 2,
                    log_probability=float(log_p_SN.mean()),
                    gain=float(gain_S.mean()),
                    gain_error=error,
                )
            )
    return found


def _values_log_probability(
    model: HybridLM,
    text: Sequence[int] | None,
    symbols: Sequence[int],
    length: int,
    depths: Sequence[float],
    seeds: Sequence[int],
    key_length: int,
    value_length: int,
    window: int,
    *,
    with_needle: bool,
) -> tuple[Tensor, Tensor]:
    """Log-probability and rank (1 is best) of every value symbol: (depths, seeds, value length)."""
    questions = [
        haystack(text, length=length, depth=depth, symbols=symbols, seed=seed,
                 key_length=key_length, value_length=value_length, with_needle=with_needle).tokens
        for depth in depths
        for seed in seeds
    ]  # fmt: skip
    device = next(model.parameters()).device
    tokens_BT = torch.tensor(questions, dtype=torch.long, device=device)
    was_training = model.training
    model.eval()
    try:
        logits_BNV = _last_logits(model, tokens_BT, value_length, window)
    finally:
        model.train(was_training)
    # Only symbols that may stand in a needle compete: chance is then exactly one in their number.
    ids = torch.tensor(list(symbols), device=device)
    logits_BNS = logits_BNV[..., ids].double()
    value_BN = tokens_BT[:, -value_length:]
    right_BN1 = (value_BN[..., None] == ids).long().argmax(dim=-1, keepdim=True)
    log_p_BNS = logits_BNS.log_softmax(dim=-1)
    log_p_BN1 = log_p_BNS.gather(-1, right_BN1)
    rank_BN = 1 + (log_p_BNS > log_p_BN1).sum(dim=-1)
    shape = (len(depths), len(seeds), value_length)
    return log_p_BN1.squeeze(-1).cpu().view(shape), rank_BN.cpu().view(shape)


def _last_logits(model: HybridLM, tokens_BT: Tensor, count: int, window: int) -> Tensor:
    """The logits that predict the last `count` tokens (B, count, V), state carried."""
    state = model.init_state(tokens_BT.shape[0])
    inputs_BT = tokens_BT[:, :-1]
    head_at = inputs_BT.shape[1] - count
    for start in range(0, head_at, window):
        _, state = model.hidden(inputs_BT[:, start : min(start + window, head_at)], state)
    logits_BNV: Tensor = model(inputs_BT[:, head_at:], state)[0]
    return logits_BNV


def _drawn(symbols: Sequence[int], count: int, draw: torch.Generator) -> list[int]:
    picks = torch.randint(len(symbols), (count,), generator=draw).tolist()
    return [int(symbols[pick]) for pick in picks]


def _text(
    text: Sequence[int] | None, count: int, symbols: Sequence[int], draw: torch.Generator
) -> list[int]:
    """`count` tokens of the caller's text from a place drawn at random, repeated where it is
    shorter; symbols at random where there is none."""
    if text is None or len(text) == 0:
        return _drawn(symbols, count, draw)
    start = int(torch.randint(len(text), (1,), generator=draw))
    return [int(text[(start + offset) % len(text)]) for offset in range(count)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """A batch of MQAR: `targets_BT[b, t]` follows `tokens_BT[b, t]`, IGNORED where not asked."""

    tokens_BT: Tensor
    targets_BT: Tensor
    num_keys: int

    @property
    def chance(self) -> float:
        """The best guess of who has seen which values stand there, but not beside which key."""
        return 1 / self.num_keys


def mqar(*, num_keys: int, batch_size: int, vocab_size: int, seed: int, rounds: int = 1) -> Recall:
    """Multi-query associative recall: `num_keys` pairs of key and value, then `rounds` times each
    key in an order of its own, every one asked for its value, which follows as it would in a text.

    (2 * num_keys * (1 + rounds) tokens.) Zoology puts filler between the questions; without it a
    batch asks many times as much, and small networks learn the task in hundreds of steps. Ids: 0 is
    unused, the lower half of the others are keys, the upper half values. Keys differ within a
    sequence. Raises ValueError where the vocabulary has too few keys.
    """
    half = (vocab_size - 1) // 2
    if num_keys > half:
        raise ValueError(f"A vocabulary of {vocab_size} has {half} keys, not {num_keys}.")
    draw = torch.Generator().manual_seed(seed)
    keys_BN = 1 + torch.rand(batch_size, half, generator=draw).argsort(dim=1)[:, :num_keys]
    values_BN = 1 + half + torch.randint(half, (batch_size, num_keys), generator=draw)
    orders = [
        torch.rand(batch_size, num_keys, generator=draw).argsort(dim=1) for _ in range(1 + rounds)
    ]
    order_BS = torch.cat(orders, dim=1)
    pairs_BS2 = torch.stack([keys_BN.gather(1, order_BS), values_BN.gather(1, order_BS)], dim=-1)
    tokens_BT = pairs_BS2.flatten(1)
    targets_BT = torch.full_like(tokens_BT, IGNORED)
    targets_BT[:, 2 * num_keys :: 2] = tokens_BT[:, 2 * num_keys + 1 :: 2]
    return Recall(tokens_BT=tokens_BT, targets_BT=targets_BT, num_keys=num_keys)


@torch.no_grad()
def mqar_accuracy(model: HybridLM, batch: Recall) -> float:
    """Share of the questions whose value was the likeliest of all symbols."""
    was_training = model.training
    model.eval()
    try:
        logits_BTV, _ = model(batch.tokens_BT.to(next(model.parameters()).device))
    finally:
        model.train(was_training)
    asked_BT = batch.targets_BT != IGNORED
    right_BT = logits_BTV.argmax(dim=-1).cpu() == batch.targets_BT
    return float(right_BT[asked_BT].double().mean())
