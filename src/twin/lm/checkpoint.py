"""A trained model in a folder: written so that it is always whole, read so that it cannot surprise.

A checkpoint is four files and a manifest: `config.json` (shape and format number),
`model.safetensors` (weights), `tokenizer.json`, `card.json` (what it was trained on) and
`manifest.json` with the size and SHA-256 of each. Nothing in it is code: no pickle is read.

Saving is a small journal. Every file is first written beside its place (`.NAME.new`) and flushed;
renaming the manifest is the one moment at which the new checkpoint counts; then the files move to
their places. A process killed before that moment leaves the old checkpoint, one killed after it the
new one, because a reader takes, for each file, the copy that has the manifest's digest. Other files
in the folder (metrics, optimizer state) are left alone.
"""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from twin.lm import durable
from twin.lm.config import HybridConfig, num_parameters
from twin.lm.errors import BadCheckpoint, BadConfig

if TYPE_CHECKING:
    from torch import Tensor

    from twin.lm.kernels.registry import Kernels
    from twin.lm.model import HybridLM
    from twin.lm.tokenizer import Tokenizer

FORMAT: Final = 1
"""Counts up when an older program could no longer read the folder."""
CONFIG, WEIGHTS, TOKENIZER, CARD = FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "card.json",
)
MANIFEST: Final = "manifest.json"
_KIND: Final = "twin-lm"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_MAX_JSON_BYTES = 256 << 20
"""A byte-pair vocabulary takes a few megabytes; more than this is no file of ours."""


def model_folder(root: Path, name: str) -> Path:
    """Where the model `name` lives below `root`. Raises BadCheckpoint for a name that could lead
    elsewhere (`..`, a slash, a leading dot)."""
    if not _NAME.fullmatch(name):
        raise BadCheckpoint(
            f"{name[:100]!r} cannot be a model's name: use letters, digits and . _ + - only, "
            "starting with a letter or digit."
        )
    return root / name


def save_model(
    folder: Path,
    model: "HybridLM",
    tokenizer: "Tokenizer",
    card: Mapping[str, Any],
    *,
    weights: "Mapping[str, Tensor] | None" = None,
) -> None:
    """Writes the checkpoint into `folder`, which is made; one that is there is replaced as a whole.

    `card` is anything JSON holds; `weights` are the model's by name, where it holds but a share of
    them itself. Raises BadCheckpoint for weights that are not finite (a diverged run must not
    overwrite a good checkpoint), for a tokenizer whose number of symbols is not the model's, and
    for a folder or disk that does not take it.
    """
    folder = Path(folder)
    config = model.config
    _check_vocabulary(folder, config, tokenizer)
    weights = _sound(model.state_dict() if weights is None else weights)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            _finish_earlier_save(folder)
            _write_new(folder, weights, config, tokenizer, card)
            _commit(folder)
    except OSError as error:
        raise BadCheckpoint(
            f"The checkpoint {folder} cannot be written ({error.strerror or error}): "
            "free disk space, or name a folder that can be written to."
        ) from error


def load_model(
    folder: Path, kernels: "str | Kernels" = "auto"
) -> "tuple[HybridLM, Tokenizer, dict[str, Any]]":
    """The model in evaluation mode on the CPU in float32, its tokenizer and its card.

    Raises BadCheckpoint for whatever is wrong with the folder. The global random state is not
    disturbed.
    """
    import torch

    from twin.lm.model import HybridLM
    from twin.lm.tokenizer import tokenizer_from_dict

    folder = Path(folder)
    files = read_files(folder)
    config = _parse_config(folder, files[CONFIG])
    weights = _parse_weights(folder, files[WEIGHTS], config)
    card = _parse_json(folder / CARD, files[CARD])
    tokenizer = tokenizer_from_dict(_parse_json(folder / TOKENIZER, files[TOKENIZER]))
    _check_vocabulary(folder, config, tokenizer)
    with torch.random.fork_rng(devices=[]):
        model = HybridLM(config, kernels=kernels)
    _check_shapes(folder, model.state_dict(), weights)
    model.load_state_dict(weights)
    return model.eval(), tokenizer, card


def load_config(folder: Path) -> HybridConfig:
    """Only the shape; needs no torch and reads no weights."""
    folder = Path(folder)
    data, entry = _read(folder, CONFIG, _manifest(folder))
    _check(folder / CONFIG, data, entry)
    assert data is not None
    return _parse_config(folder, data)


def load_card(folder: Path) -> dict[str, Any]:
    """Only the card; needs no torch and reads no weights."""
    folder = Path(folder)
    data, entry = _read(folder, CARD, _manifest(folder))
    _check(folder / CARD, data, entry)
    assert data is not None
    return _parse_json(folder / CARD, data)


def is_checkpoint(folder: Path) -> bool:
    """Whether a checkpoint was ever completed there; says nothing of its health."""
    return (Path(folder) / MANIFEST).is_file()


def model_digest(folder: Path) -> str:
    """SHA-256 in hexadecimal that stands for shape, weights and tokenizer, not for the card: two
    folders with the same digest continue any text alike, and may share saved states. Taken from
    the manifest; `load_model` is what proves that the files agree with it."""
    entries = _manifest(Path(folder))
    text = "\n".join(f"{name} {entries[name]['sha256']}" for name in (CONFIG, WEIGHTS, TOKENIZER))
    return hashlib.sha256(text.encode()).hexdigest()


# ---- writing


def _sound(found: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Copies of their own, each number of them finite."""
    import torch

    weights = {
        # clone: tied or sliced tensors share memory, which safetensors refuses.
        name: tensor.detach().to("cpu").clone().contiguous()
        for name, tensor in found.items()
    }
    broken = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise BadCheckpoint(
            f"{len(broken)} of {len(weights)} weights are not finite ({broken[0]} first): the "
            "training diverged. Nothing was saved; continue from the last checkpoint with a lower "
            "learning rate."
        )
    return weights


def _write_new(
    folder: Path,
    weights: "Mapping[str, Tensor]",
    config: HybridConfig,
    tokenizer: "Tokenizer",
    card: Mapping[str, Any],
) -> None:
    from safetensors.torch import save

    # One entry only: safetensors writes several in any order, and equal models must equal in bytes.
    durable.write(_new(folder, WEIGHTS), save(dict(weights), metadata={"format": "pt"}))
    shape = {"kind": _KIND, "format": FORMAT, "config": config.to_dict()}
    durable.write(_new(folder, CONFIG), _as_json(shape))
    durable.write(_new(folder, CARD), _as_json(dict(card)))
    durable.write(_new(folder, TOKENIZER), _as_json(tokenizer.to_dict()))
    entries = {name: _entry(_new(folder, name)) for name in FILES}
    durable.write(
        _new(folder, MANIFEST), _as_json({"kind": _KIND, "format": FORMAT, "files": entries})
    )
    durable.flush(folder)


def _commit(folder: Path) -> None:
    """After the first line the new checkpoint counts; the rest only tidies."""
    os.replace(_new(folder, MANIFEST), folder / MANIFEST)
    durable.flush(folder)
    for name in FILES:
        os.replace(_new(folder, name), folder / name)
    durable.flush(folder)


def _finish_earlier_save(folder: Path) -> None:
    """Moves what a killed save had committed to its place, and drops what it had not: the copies
    beside may be the only ones, and are about to be overwritten."""
    entries: Mapping[str, Any] = {}
    with suppress(BadCheckpoint):
        entries = _manifest(folder)
    for name in FILES:
        new = _new(folder, name)
        if not new.is_file():
            continue
        if name in entries and _entry(new) == entries[name]:
            os.replace(new, folder / name)
        else:
            new.unlink()
    durable.flush(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer at a time; the lock dies with its process."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _new(folder: Path, name: str) -> Path:
    return folder / f".{name}.new"


def _entry(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"size": os.fstat(file.fileno()).st_size, "sha256": digest}


def _as_json(value: Mapping[str, Any]) -> bytes:
    try:
        return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise BadCheckpoint(
            f"The card cannot be written as JSON ({error}): put only texts, finite numbers, lists "
            "and tables into it."
        ) from error


# ---- reading


def read_files(folder: Path) -> dict[str, bytes]:
    """The four files' bytes, each as the manifest has it. Raises BadCheckpoint."""
    folder = Path(folder)
    entries = _manifest(folder)
    found = {name: _read(folder, name, entries) for name in FILES}
    if any(data is None or not _matches(data, entry) for data, entry in found.values()):
        # A save may have finished meanwhile; if it did not, the second look is the verdict.
        entries = _manifest(folder)
        found = {name: _read(folder, name, entries) for name in FILES}
    files = {}
    for name, (data, entry) in found.items():
        _check(folder / name, data, entry)
        assert data is not None
        files[name] = data
    return files


def _manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """File name -> {size, sha256}, for exactly our four files: no path is taken from it."""
    path = folder / MANIFEST
    try:
        data = _read_bytes(path)
    except FileNotFoundError:
        raise BadCheckpoint(f"{folder} is not a checkpoint: {_why_not(folder)}") from None
    manifest = _parse_json(path, data)
    _check_format(folder, manifest)
    entries = manifest.get("files")
    if not isinstance(entries, dict) or set(entries) != set(FILES):
        raise BadCheckpoint(f"{path} does not list the checkpoint's files: {_RESTORE}")
    for entry in entries.values():
        if not (isinstance(entry, dict) and isinstance(entry.get("size"), int)):
            raise BadCheckpoint(f"{path} does not list sizes and digests: {_RESTORE}")
        if not isinstance(entry.get("sha256"), str):
            raise BadCheckpoint(f"{path} does not list sizes and digests: {_RESTORE}")
    return entries


_RESTORE: Final = "restore the folder from a copy, or train the model again."


def _why_not(folder: Path) -> str:
    if not folder.exists():
        return "there is no such folder; `twin lm list` shows the models that there are."
    if not folder.is_dir():
        return "it is a file; name the folder that holds it."
    if (folder / WEIGHTS).exists():
        return (
            f"it has weights and no {MANIFEST}, so nothing tells whether they are whole. A folder "
            "of Hugging Face's is read with `AutoModelForCausalLM.from_pretrained`."
        )
    return f"it has no {MANIFEST}; a training writes it with its first checkpoint."


def _read(
    folder: Path, name: str, entries: Mapping[str, dict[str, Any]]
) -> tuple[bytes | None, dict[str, Any]]:
    """The copy that matches the manifest, else what is there, else None."""
    entry, kept = entries[name], None
    for path in (folder / name, _new(folder, name)):
        with suppress(FileNotFoundError):
            data = _read_bytes(path, entry["size"])
            if _matches(data, entry):
                return data, entry
            kept = data if path.name == name else kept
    return kept, entry


def _read_bytes(path: Path, size: int = _MAX_JSON_BYTES) -> bytes:
    """At most one byte more than `size`: a file that grew is not read into memory whole."""
    try:
        with path.open("rb") as file:
            return file.read(max(size, 0) + 1)
    except FileNotFoundError:
        raise
    except (OSError, OverflowError, MemoryError) as error:
        raise BadCheckpoint(f"{path} cannot be read ({error}): {_RESTORE}") from error


def _matches(data: bytes, entry: Mapping[str, Any]) -> bool:
    return (len(data), hashlib.sha256(data).hexdigest()) == (entry["size"], entry["sha256"])


def _check(path: Path, data: bytes | None, entry: Mapping[str, Any]) -> None:
    if data is None:
        raise BadCheckpoint(f"{path} is missing: {_RESTORE}")
    if len(data) < entry["size"]:
        raise BadCheckpoint(
            f"{path} is cut short ({len(data):,} of {entry['size']:,} bytes): {_RESTORE}"
        )
    if not _matches(data, entry):
        raise BadCheckpoint(f"{path} was changed after it was saved: {_RESTORE}")


def _parse_json(path: Path, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadCheckpoint(f"{path} is not JSON ({error}): {_RESTORE}") from error
    if not isinstance(value, dict):
        raise BadCheckpoint(f"{path} is not a JSON object: {_RESTORE}")
    return value


def _check_format(folder: Path, value: Mapping[str, Any]) -> None:
    if value.get("kind") != _KIND:
        raise BadCheckpoint(
            f"{folder} was written by another program (kind {value.get('kind')!r}): "
            "name a folder that `twin pretrain` wrote."
        )
    if value.get("format") != FORMAT:
        raise BadCheckpoint(
            f"{folder} has format {value.get('format')!r} and this program reads {FORMAT}: use "
            "the version of cognitive-twin that wrote it, or train the model again."
        )


def _parse_config(folder: Path, data: bytes) -> HybridConfig:
    value = _parse_json(folder / CONFIG, data)
    _check_format(folder, value)
    shape = value.get("config")
    try:
        return HybridConfig.from_dict(shape if isinstance(shape, dict) else {})
    except (BadConfig, TypeError, ValueError) as error:
        raise BadCheckpoint(f"{folder / CONFIG} describes no model: {error}") from error


def _parse_weights(folder: Path, data: bytes, config: HybridConfig) -> "dict[str, Tensor]":
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = folder / WEIGHTS
    try:
        weights = load(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise BadCheckpoint(f"{path} is not in safetensors format ({error}).") from error
    held = sum(tensor.numel() for tensor in weights.values())
    # Before the model is built: a shape that asks for terabytes, or for ages, must not get them.
    if config.n_layers > len(weights) or held != num_parameters(config):
        raise BadCheckpoint(
            f"{path} holds {held:,} parameters, not those of the {config.n_layers:,} layers that "
            f"{CONFIG} describes: the two belong to different models; {_RESTORE}"
        )
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise BadCheckpoint(f"{path} holds numbers that are not finite in {name}: {_RESTORE}")
    return weights


def _check_shapes(
    folder: Path, wanted: "Mapping[str, Tensor]", found: "Mapping[str, Tensor]"
) -> None:
    for name in sorted(wanted.keys() | found.keys()):
        shapes = [tuple(side[name].shape) if name in side else None for side in (wanted, found)]
        if shapes[0] != shapes[1]:
            raise BadCheckpoint(
                f"{folder / WEIGHTS} does not fit {CONFIG}: {name} should have shape {shapes[0]} "
                f"and has {shapes[1]}; the two belong to different models."
            )


def _check_vocabulary(folder: Path, config: HybridConfig, tokenizer: "Tokenizer") -> None:
    if tokenizer.vocab_size != config.vocab_size:
        raise BadCheckpoint(
            f"The tokenizer of {folder} has {tokenizer.vocab_size:,} symbols and the model "
            f"{config.vocab_size:,}: they belong to different models."
        )
