"""The state of a training run in one file, written so that a killed run finds it whole.

Owns the file `training.safetensors`: all tensors (weights, optimizers, average, recurrent state,
random state) and, in its header, a JSON of the rest. Written beside its place, flushed and renamed.
Nothing in it is code. The finished model is `checkpoint`'s business.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from twin.lm import durable, shards
from twin.lm.errors import BadCheckpoint
from twin.lm.place import SNAPSHOT

NAME: Final = SNAPSHOT
FORMAT: Final = 1
_KIND: Final = "twin-lm-training"


def save(folder: Path, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
    """Writes the file; one that is there stays until the new one is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f".{NAME}.new"
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    about = {"kind": _KIND, "format": str(FORMAT), "rest": json.dumps(rest, allow_nan=True)}
    save_file(_unshared(plain), beside, metadata=about)
    durable.flush(beside)
    beside.replace(folder / NAME)
    durable.flush(folder)


def exists(folder: Path) -> bool:
    return (folder / NAME).is_file()


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, rest). Raises BadCheckpoint for a file that is missing, damaged or another's."""
    path = folder / NAME
    if not path.is_file():
        raise BadCheckpoint(f"{folder} has no {NAME} to continue from. Start without `--resume`.")
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            if about.get("kind") != _KIND or about.get("format") != str(FORMAT):
                raise BadCheckpoint(
                    f"{path} is of another program or version. Start without `--resume`."
                )
            rest = json.loads(about["rest"])
            return {name: file.get_tensor(name) for name in file.keys()}, rest  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise BadCheckpoint(
            f"{path} is damaged ({error}). Restore it, or start without `--resume`."
        ) from error


def fill(model: torch.nn.Module, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Copies the weights under `prefix` into the model. Raises BadCheckpoint for another shape."""
    own = model.state_dict()
    found = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    for name in sorted(own.keys() | found.keys()):
        if name not in own or name not in found or own[name].shape != found[name].shape:
            raise BadCheckpoint(
                f"The run was started with another shape of network (`{name}` differs). Continue "
                "it with the same recipe, or start without `--resume`."
            )
    shards.load(model, found)


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """safetensors refuses tensors that share memory: the second of two gets its own."""
    seen: set[int] = set()
    for name, tensor in tensors.items():
        address = tensor.untyped_storage().data_ptr()
        if address in seen:
            tensors[name] = tensor.clone()
        seen.add(address)
    return tensors
