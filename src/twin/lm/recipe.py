"""A recipe: everything that decides how a network is trained, in one frozen record, read from TOML.

Owns the defaults and their reasons, the check of names and values, and which of three budgets
(time, steps, tokens) a run has. Needs no torch. The shape's own options are in the table `[model]`
and go to `config.HybridConfig`.
"""

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

from twin.lm.batches import Order
from twin.lm.config import PRESETS, HybridConfig, preset
from twin.lm.errors import BadConfig
from twin.lm.schedule import SHAPES
from twin.lm.tokenizer import Kind

DEFAULT_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Raises BadConfig, with the cure, for a value that cannot be."""

    # The network.
    preset: str = "5M"
    model: Mapping[str, Any] = field(default_factory=dict)
    """Options of the shape that differ from the preset's, `dropout = 0.1` for one."""
    kernels: str = "auto"
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    compile: bool = False
    """`torch.compile` of every block. The native kernels gain nothing from it."""

    # The text.
    tokenizer: Literal["auto", "char", "byte", "bpe"] = "auto"
    """`auto`: what the preset is meant for."""
    vocab_size: int = 24_000
    """Of byte pairs, at most; a small text yields fewer."""
    control_tokens: bool = True
    held_out: float = 0.1

    # What is seen.
    batch: int = 16
    window: int = 256
    stages: tuple[tuple[float, int], ...] = ()
    """(progress, window) pairs: until this progress, windows of this length; as many tokens a step
    throughout. Short windows first are cheaper where attention is used; the hybrid gains little."""
    order: Order = "handoff"
    span: int = 8
    """Windows that a stream goes through with its state handed on, before it jumps. One stream
    through the whole text (0) sees too much alike in a row."""

    # Whom it is learnt from, beside the text.
    teachers: tuple[str, ...] = ()
    """Folders of models of the same tokens, seen from the run's own; what they expect next is
    learnt as well. For little text and much time. With `order = "windows"`."""
    teaching: float = 0.9
    """Their share of the loss."""

    # How it is learnt.
    optimizer: Literal["muon", "adamw"] = "muon"
    """Muon reached AdamW's loss in two thirds of the tokens at 4M parameters."""
    matrix_lr: float = 0.02
    lr: float = 3e-3
    weight_decay: float = 0.05
    momentum: float = 0.95
    beta1: float = 0.9
    beta2: float = 0.99
    blocks: Literal["whole", "parts", "heads"] = "parts"
    newton_steps: int = 3
    """Polar Express's three do as well as Jordan's five (1.612 against 1.626 after 200 steps,
    within the noise of a seed) for two thirds of the time."""
    rwkv_lr: float = 1.0
    mamba_lr: float = 1.0
    """Multipliers of a pathway's learning rates; 0.5 for Mamba has cured an early imbalance."""
    clip: float = 1.0
    schedule: str = "cosine"
    warmup: float = 0.05
    """Share of the budget. About 100 steps in ten minutes."""
    decay: float = 0.4
    """Share over which the schedule `wsd` falls."""
    floor: float = 0.0
    """What is left of the learning rate at the end."""
    ema: float = 0.03
    """Width of the running average as a share of the run; 0: none."""
    seed: int = 0

    # How long, and what is written meanwhile.
    time_budget_s: float = 0.0
    """Seconds of training with its validations and checkpoints, without set-up and the last
    validation. With neither this nor `steps` nor `tokens`: ten minutes."""
    steps: int = 0
    tokens: int = 0
    validate_every_s: float = 0.0
    """0: an eighth of the time budget, or 60 s. Negative: only at the end."""
    checkpoint_every_s: float = 60.0
    threads: int = 0
    """Cores to use; 0: as many as torch takes."""
    stop_early: bool = True
    """Whether the stop rules may end the run."""

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise BadConfig(f"There is no preset `{self.preset}`. Use one of {', '.join(PRESETS)}.")
        for name, allowed in _CHOICES.items():
            if (value := getattr(self, name)) not in allowed:
                raise BadConfig(f"{name} = {value!r} is not known. Use one of {list(allowed)}.")
        for name in ("batch", "window", "newton_steps"):
            if getattr(self, name) < 1:
                raise BadConfig(f"{name} = {getattr(self, name)} is too small. Use 1 or more.")
        for name in _SHARES:
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise BadConfig(f"{name} = {getattr(self, name)} is no share. Use 0 to 1.")
        for name in _NOT_NEGATIVE:
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise BadConfig(f"{name} = {getattr(self, name)} is no amount. Use 0 or more.")
        for name, most in _AT_MOST.items():
            if getattr(self, name) > most:
                raise BadConfig(f"{name} = {getattr(self, name)} is too large. Use {most} or less.")
        if not abs(self.validate_every_s) < float("inf"):
            raise BadConfig(
                f"validate_every_s = {self.validate_every_s} is no time. Use seconds, 0 for the "
                "default or -1 for the end only."
            )
        if sum(bool(v) for v in (self.time_budget_s, self.steps, self.tokens)) > 1:
            raise BadConfig("A run has one budget. Give one of time_budget_s, steps and tokens.")
        if self.teachers and self.order != "windows":
            raise BadConfig('Teachers read windows alone. Use `order = "windows"` with `teachers`.')
        self._check_stages()

    def _check_stages(self) -> None:
        ends = [end for end, _ in self.stages]
        if ends != sorted(ends) or not all(0.0 < end <= 1.0 for end in ends):
            raise BadConfig("stages need rising shares, [[0.2, 64], [0.5, 128]] for one.")
        for _, window in self.stages:
            if window < 1 or (self.batch * self.window) % window:
                raise BadConfig(
                    f"A window of {window} does not divide the {self.batch * self.window} tokens "
                    "of a step. Choose one that does."
                )

    @property
    def budget(self) -> tuple[Literal["seconds", "steps", "tokens"], float]:
        """What is spent, and how much of it there is."""
        if self.steps:
            return "steps", float(self.steps)
        if self.tokens:
            return "tokens", float(self.tokens)
        return "seconds", self.time_budget_s or DEFAULT_SECONDS

    @property
    def tokenizer_kind(self) -> Kind:
        """The kind to make: as asked for, or as the preset's name is counted with."""
        if self.tokenizer != "auto":
            return self.tokenizer
        kind: Kind = PRESETS[self.preset].tokens  # type: ignore[assignment]
        return kind

    def shape(self, vocab_size: int) -> HybridConfig:
        """The network's shape for a vocabulary. Raises BadConfig."""
        if "vocab_size" in self.model:
            raise BadConfig("The text decides `vocab_size`. Leave it out of [model].")
        return preset(self.preset, vocab_size=vocab_size, **self.model)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `from_dict` makes an equal recipe of it."""
        values = dataclasses.asdict(self)
        return values | {
            "model": dict(self.model),
            "stages": [list(s) for s in self.stages],
            "teachers": list(self.teachers),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """Raises BadConfig for an unknown key, with the nearest known one, or a wrong type."""
        hints = get_type_hints(cls)
        for name in values:
            if name not in hints:
                near = get_close_matches(name, [*hints, *get_type_hints(HybridConfig)], n=1)
                where = " in the table [model]" if near and near[0] not in hints else ""
                raise BadConfig(
                    f"`{name}` is not known in a recipe. "
                    + (f"Did you mean `{near[0]}`{where}?" if near else "Leave it out.")
                )
        return cls(**{name: _typed(name, hints[name], value) for name, value in values.items()})


def load_recipe(path: Path) -> Recipe:
    """From a TOML file. Raises BadConfig."""
    try:
        with path.open("rb") as file:
            values = tomllib.load(file)
    except FileNotFoundError:
        raise BadConfig(f"There is no recipe {path}. Give a TOML file, or none.") from None
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadConfig(f"{path} is no readable TOML ({error}). Correct it.") from error
    try:
        return Recipe.from_dict(values)
    except BadConfig as error:
        raise BadConfig(f"{path}: {error}") from None


def changed(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """The recipe with some values replaced; `model.dropout` and the like reach into the shape."""
    values = recipe.to_dict()
    for name, value in settings.items():
        table, _, inner = name.partition(".")
        if inner and table == "model":
            if not isinstance(values["model"], dict):
                raise BadConfig(f"model = {values['model']!r} is no table. Give `model.NAME` only.")
            values["model"][inner] = value
        else:
            values[name] = value
    return Recipe.from_dict(values)


def parse_setting(text: str) -> tuple[str, Any]:
    """`name=value` of the command line; the value as in TOML, a bare word as text."""
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise BadConfig(f"`{text}` is no setting. Write `name=value`, `lr=0.002` for one.")
    try:
        return name.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name.strip(), value.strip()


def _typed(name: str, wanted: Any, value: Any) -> Any:
    """The value as the record holds it; whole numbers pass as shares and amounts."""
    if name == "stages":
        return _stages(value)
    if name == "teachers":
        if not isinstance(value, (list, tuple)) or not all(isinstance(one, str) for one in value):
            raise BadConfig(f'teachers = {value!r} are no folders. Write ["one", "other"].')
        return tuple(value)
    origin = get_origin(wanted)
    kind = str if origin is Literal else dict if origin is not None else wanted
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise BadConfig(f"{name} = {value!r} is of the wrong type. Give a {kind.__name__}.")
    return value


def _stages(value: Any) -> tuple[tuple[float, int], ...]:
    try:
        return tuple((float(end), int(window)) for end, window in value)
    except (TypeError, ValueError, OverflowError):
        raise BadConfig(
            f"stages = {value!r} are no pairs. Write [[0.2, 64], [0.5, 128]] for one."
        ) from None


_CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "precision": ("auto", "bf16", "fp16", "fp32"),
    "tokenizer": ("auto", "char", "byte", "bpe"),
    "order": get_args(Order),
    "optimizer": ("muon", "adamw"),
    "blocks": ("whole", "parts", "heads"),
    "schedule": tuple(SHAPES),
}
_SHARES = (
    "held_out", "teaching", "momentum", "beta1", "beta2", "warmup", "decay", "floor", "ema",
)  # fmt: skip
_NOT_NEGATIVE = (
    "matrix_lr", "lr", "weight_decay", "rwkv_lr", "mamba_lr", "clip", "time_budget_s", "steps",
    "tokens", "span", "checkpoint_every_s", "threads", "seed", "vocab_size",
)  # fmt: skip
_AT_MOST: Final = {
    "batch": 1 << 24, "window": 1 << 24, "steps": 1 << 53, "tokens": 1 << 53, "seed": 1 << 53,
    "span": 1 << 24, "threads": 4096, "vocab_size": 1 << 24, "newton_steps": 100,
}  # fmt: skip
"""What torch can still count with, and no more than anyone could mean."""
