"""The one configuration file, `twin.toml` or `[tool.twin]` in `pyproject.toml`: every default with
its reason.

Unknown keys are errors that name the nearest valid one. Nothing here reads the environment or opens
the store.
"""

import difflib
import re
import tomllib
from pathlib import Path
from typing import Annotated

import msgspec

from twin.errors import ConfigError

Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class StoreConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where memory is kept."""

    url: str = ""
    """SQLAlchemy URL; empty means SQLite in `.twin/` at the repository's root: nothing to install
    or start."""


class MineConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which commits count as tasks."""

    max_source_files: Count = 8
    """A commit that changes more than this is a sweep, not a task: its message names no place."""
    max_source_lines: Count = 300
    """Larger diffs are moves and rewrites; the same limit as in the published figures."""
    min_words: Count = 4
    """A shorter subject says too little to find anything by."""
    strict: bool = False
    """Gate on the message score instead of weighing by it. Off: a verb-first gate keeps 1 % of
    some repositories."""
    min_message_score: Share = 0.5
    """The gate of strict mode."""


class FitConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the locator is fitted and judged."""

    holdout: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.2
    """Share of the tasks, the latest by time, that only the gate sees."""
    max_tasks: Count = 2000
    """Only the newest are used: older code says little about today's, and time grows with their
    number."""
    min_holdout_tasks: Count = 30
    """Below this the bootstrap interval is wider than any real gain, so the verdict is "not enough
    data"."""
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 0
    """One seed for everything that draws at random."""
    bootstrap_rounds: Annotated[int, msgspec.Meta(ge=100, le=1_000_000)] = 2000
    """Resamples for the confidence intervals; more moves the bounds by less than a tenth of a
    point."""


class ContextConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much a context package may hold."""

    window_tokens: Count = 32_000
    """Shorter windows give better output; 32K suits most stages."""
    reserve_tokens: Annotated[int, msgspec.Meta(ge=0)] = 8_000
    """Left free for the model's answer."""

    def __post_init__(self) -> None:
        if self.reserve_tokens >= self.window_tokens:
            raise ValueError("`reserve_tokens` must be less than `window_tokens`")


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be set."""

    store: StoreConfig = StoreConfig()
    mine: MineConfig = MineConfig()
    fit: FitConfig = FitConfig()
    context: ContextConfig = ContextConfig()


def load_config(root: Path, explicit: Path | None = None) -> Config:
    """The configuration for the repository at `root`.

    `explicit` wins, then `root/twin.toml`, then `[tool.twin]` of `root/pyproject.toml`, then the
    defaults.
    Raises ConfigError with the file, the key and the nearest valid name.
    """
    if explicit is not None:
        return _decode(_read(explicit), explicit)
    own = root / "twin.toml"
    if own.is_file():
        return _decode(_read(own), own)
    project = root / "pyproject.toml"
    if project.is_file():
        tool = _read(project).get("tool", {})
        if isinstance(tool, dict) and "twin" in tool:
            return _decode(tool["twin"], project)
    return Config()


def _read(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}. Check the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}. Correct that line.") from error


def _decode(values: object, path: Path) -> Config:
    try:
        return msgspec.convert(values, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {_explain(str(error))}") from error


def _explain(message: str) -> str:
    """Turns msgspec's message into a sentence with a cure."""
    unknown = re.search(r"unknown field `([^`]*)`(?: - at `\$\.?([^`]*)`)?", message)
    if unknown is None:
        # msgspec speaks of JSON: "Expected `object`, got `int` - at `$.store`".
        what, _, where = message.replace("`object`", "a table").partition(" - at `$.")
        place = f"`{where.rstrip('`')}`: " if where else ""
        return f"{place}{what}. Correct the value; `docs/configuration.md` lists every key."
    key, section = unknown[1], unknown[2] or ""
    holder = {"store": StoreConfig, "mine": MineConfig, "fit": FitConfig, "context": ContextConfig}
    valid = list(holder.get(section, Config).__struct_fields__)
    near = difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
    cure = f"Did you mean `{near[0]}`?" if near else f"Valid keys: {', '.join(valid)}."
    where = f"[{section}]" if section else "the top level"
    return f"unknown key `{key}` in {where}. {cure}"
