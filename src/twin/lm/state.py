"""The recurrent state: a plain tuple of tensors, every one with the batch as its first axis.

Owns its layout and what is done with whole states: clone, detach, join streams into a batch, take
some out, save and load. Knows nothing of how a state is advanced.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from twin.lm.config import MINGRU_GATES, HybridConfig
from twin.lm.errors import BadState

State = tuple[Tensor, ...]

GROWING = -1
"""Stands for the number of cached tokens in a shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One tensor of the state."""

    layer: int
    """Counted from 0; what stands before all layers has their number."""
    name: str
    """wkv, conv, ssm, shift, gate, kv or recent."""
    shape: tuple[int, ...]
    """Without the batch."""


@cache
def layout(config: HybridConfig) -> tuple[Part, ...]:
    """What a state holds, in order."""
    return tuple(
        Part(layer=layer, name=name, shape=shape)
        for layer in range(config.n_layers + 1)
        for name, shape in _parts(config, layer)
    )


def _parts(c: HybridConfig, layer: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    if layer == c.n_layers:
        if c.num_recent:
            yield "recent", (c.num_recent,)
        return
    if c.has_rwkv:
        yield "wkv", (c.n_heads, c.head_dim, c.head_dim)
    if c.has_mamba:
        yield "conv", (c.conv_width - 1, c.conv_channels)
        yield "ssm", (c.mamba_heads, c.mamba_head_dim, c.d_state)
    if c.has_rwkv and c.token_shift != "none":
        yield "shift", (c.d_model,)
    if c.pathways == "both" and c.fusion == "MINGRU":
        yield "gate", (MINGRU_GATES,)
    if c.has_attention(layer):
        yield "kv", (2, c.attention_heads, GROWING, c.d_model // c.attention_heads)


def zeros(
    config: HybridConfig, batch_size: int, device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> State:  # fmt: skip
    """The state before the first token. Tokens that are remembered are numbers too; in bfloat16
    they would become others."""
    exact = torch.promote_types(dtype, torch.float32)
    return tuple(
        torch.zeros(
            batch_size, *(max(size, 0) for size in part.shape), device=device,
            dtype=exact if part.name == "recent" else dtype,
        )
        for part in layout(config)
    )  # fmt: skip


def check(config: HybridConfig, state: State, batch_size: int) -> None:
    """Raises BadState where the state belongs to another shape of network or another batch."""
    parts = layout(config)
    if len(state) != len(parts):
        raise BadState(
            f"The state has {len(state)} tensors, this network's has {len(parts)}. "
            "Use the state with the model that made it."
        )
    for part, tensor in zip(parts, state, strict=True):
        wanted = (batch_size, *part.shape)
        fits = tensor.dim() == len(wanted) and all(
            size in (GROWING, found) for size, found in zip(wanted, tensor.shape, strict=True)
        )
        if not fits:
            raise BadState(
                f"`{part.name}` of layer {part.layer} has the shape {tuple(tensor.shape)}, "
                f"but {wanted} is needed. Use the state with the model and batch that made it."
            )
        if part.name == "recent":  # they become places in a table
            known = (tensor >= 0) & (tensor <= config.vocab_size)
            if not bool(known.all()):
                raise BadState(
                    "The state remembers tokens that this network does not have. Use the state "
                    "with the model that made it, or start without it."
                )


def clone(state: State) -> State:
    """A copy that shares no memory."""
    return tuple(tensor.clone() for tensor in state)


def detach(state: State) -> State:
    """The same numbers without the history of how they were computed: what is handed from one
    training batch to the next."""
    return tuple(tensor.detach() for tensor in state)


def begin(start: Callable[[int], State], carried: State | None, fresh_B: Tensor) -> State | None:
    """The state a training batch starts from: carried on, but new in the rows that are fresh. None,
    which is new in all, where nothing fits. `start` gives the state of so many new rows."""
    if carried is None or bool(fresh_B.all()) or carried[0].shape[0] != len(fresh_B):
        return None
    if not fresh_B.any():
        return carried
    fresh = fresh_B.to(carried[0].device)
    return tuple(
        torch.where(fresh.view(-1, *[1] * (old.dim() - 1)), new.to(old.dtype), old)
        for new, old in zip(start(len(fresh_B)), carried, strict=True)
    )


def join(states: Sequence[State]) -> State:
    """Streams into one batch, in order. Raises BadState where caches of attention anchors differ
    in length: such streams cannot share a batch."""
    if not states:
        raise BadState("There is no state to join. Give at least one.")
    try:
        return tuple(torch.cat(parts) for parts in zip(*states, strict=True))
    except (RuntimeError, ValueError) as error:
        raise BadState(
            "These states cannot share a batch: they are of different shapes. Join states of one "
            "model and, where it has attention anchors, of one length."
        ) from error


def take(state: State, rows: Sequence[int] | Tensor) -> State:
    """Some streams of a batch, in the order given."""
    index = torch.as_tensor(rows, dtype=torch.long, device=state[0].device)
    return tuple(tensor.index_select(0, index) for tensor in state)


def num_bytes(state: State) -> int:
    """What it takes in memory."""
    return sum(tensor.numel() * tensor.element_size() for tensor in state)


def save(path: Path, state: State) -> None:
    """Writes a safetensors file."""
    save_file(
        {f"{place:04d}": x.detach().cpu().contiguous() for place, x in enumerate(state)}, path
    )


def load(path: Path) -> State:
    """Raises BadState where the file is missing, cut short or something else."""
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadState(f"{path} cannot be read as a state: {error}. Start without it.") from error
    return tuple(found[name] for name in sorted(found))
