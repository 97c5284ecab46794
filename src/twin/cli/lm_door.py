"""What the language model's commands share: errors as this program's, its packages, its folder.

The room `lm` imports nothing of ours, so its errors are told apart and given exit codes here.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from twin.cli.door import Door
from twin.errors import MissingRequirement, UsageError
from twin.lm.errors import KernelUnavailable, LmError, NotEnoughMemory

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_SIZES = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}


def seconds(ctx: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """For an option: `90s`, `10m`, `1h30m` or plain seconds."""
    if value is None:
        return None
    number = r"(\d{1,9}(?:\.\d{1,9})?)"
    whole = re.fullmatch(rf"(?:{number}[smh])*{number}?", value)  # a unit but on the last
    parts = re.findall(rf"{number}([smh]?)", value) if whole else []
    found = sum(float(number) * _UNITS[unit or "s"] for number, unit in parts)
    if not found:
        raise click.BadParameter(f"{value!r} is no duration; write 90s, 10m or 1h30m", ctx)
    return found


def amount(ctx: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """For an option: `500k`, `1.5M` or a plain number."""
    if value is None:
        return None
    parts = re.fullmatch(r"(\d{1,12}(?:\.\d{1,9})?)([kmg]?)", value.lower())
    found = int(float(parts[1]) * _SIZES[parts[2]]) if parts else 0
    if found < 1:
        raise click.BadParameter(f"{value!r} is no number of tokens; write 500k or 2M", ctx)
    return found


@contextmanager
def sentences() -> Iterator[None]:
    """The room's errors as this program's."""
    try:
        yield
    except (KernelUnavailable, NotEnoughMemory) as error:
        raise MissingRequirement(str(error)) from error
    except LmError as error:
        raise UsageError(str(error)) from error


def need_torch(what: str) -> None:
    """Raises MissingRequirement, with the cure, where the extra `lm` is not installed."""
    try:
        import safetensors  # noqa: F401  (only whether both are there)
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingRequirement(
            f"{what} needs the package `{error.name}`. Install it with "
            '`pip install "cognitive-twin[lm]"`.'
        ) from error


def models_folder(door: Door) -> Path:
    """Where this repository's language models live."""
    return door.home() / ".twin" / "lm"


def checkpoint_folder(door: Door, name: str) -> Path:
    """A folder as given where it is one; else the model of that name."""
    from twin.lm.checkpoint import is_checkpoint, model_folder

    given = Path(name)
    if is_checkpoint(given) or given.name != name:
        return given
    return model_folder(models_folder(door), name)
