"""The one configuration file, `twin.toml` or `[tool.twin]` in `pyproject.toml`: every default with
its reason.

Unknown keys are errors that name the nearest valid one. Nothing here reads the environment or opens
the store.
"""

import difflib
import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal, get_args

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


Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
Money = Annotated[float, msgspec.Meta(ge=0)]


Provider = Literal[
    "openai", "together", "vllm", "llama-server", "ollama", "anthropic", "local", "scripted"
]  # fmt: skip
PROVIDER_NAMES = get_args(Provider)
ROUTED = "twin"
"""The name that clients ask for to let the router choose; no model can be called so."""


class Price(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """USD per million tokens."""

    input: Money = 0.0
    """For the request."""
    output: Money = 0.0
    """For the answer."""
    cached: Money | None = None
    """For prompt tokens that the provider read from its cache; empty means as `input`."""


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model that can be asked: `[models.NAME]`."""

    provider: Provider
    """Sets the wire format, the usual `base_url` and which endpoints exist."""
    model: str = ""
    """What the provider calls it; empty means NAME."""
    base_url: str = ""
    """Up to and including `/v1`; empty means the provider's own, or its usual local port."""
    adapter: str = ""
    """A LoRA adapter that the server already holds: sent instead of `model`."""
    role: Literal["triage", "reasoning", "escalation", "emergency", "other"] = "other"
    """Its tier when the gateway chooses: T0, T1, T2, or when all else is out. `other` models answer
    only those who name them."""
    accounts: tuple[str, ...] = ()
    """Where the secrets are: `env:NAME` or `file:PATH`. Several are one pool, each with its own
    rate limit. Empty sends none, which local servers take."""
    headers: dict[str, str] = {}
    """Sent with each request; values may be `env:NAME` or `file:PATH`."""
    price: Price = Price()
    """What it costs; budgets count with it."""
    endpoints: tuple[
        Literal["chat", "completions", "embeddings", "responses", "messages"], ...
    ] = ()
    """Which ones the server speaks; empty means what the provider is known for. Others are
    translated."""
    context_window: Count | None = None
    """Tokens; a larger request goes to the next tier without being sent."""
    requests_per_minute: Count | None = None
    """Per account. The provider's own 429 and Retry-After are respected either way."""
    tokens_per_minute: Count | None = None
    """Per account."""
    max_concurrency: Count | None = None
    """Requests under way at once, all accounts together."""
    deadline_s: Seconds = 600.0
    """From asking to the last byte; long answers of big models take minutes."""
    first_byte_s: Seconds = 120.0
    """Until the answer begins."""
    idle_s: Seconds = 60.0
    """Between two pieces of a stream; a stalled server is given up after it."""
    connect_s: Seconds = 5.0
    """Until the connection stands."""
    retries: Annotated[int, msgspec.Meta(ge=0, le=10)] = 2
    """Further tries before the first byte; each waits longer, with jitter."""
    hedge_s: Seconds | None = None
    """Ask a second account after this long without a byte, and take whichever answers first. Off:
    it pays twice."""
    monthly_usd: Money | None = None
    """Above this the model is skipped until the month (UTC) ends."""
    fallback: tuple[str, ...] = ()
    """Models to ask in this order where this one was named and cannot answer."""
    inject: bool = True
    """Whether this model may receive injected context; where false, no header changes that."""
    script: str = ""
    """Only for `scripted`: a JSONL file of answers to replay."""


class ServeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The gateway's door."""

    host: str = "127.0.0.1"
    """Anything but loopback needs virtual keys."""
    port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 8484
    """0 takes a free one."""
    require_keys: bool = False
    """Ask for a virtual key on loopback too."""
    admin_key: str = ""
    """`env:NAME` or `file:PATH`; empty switches the admin API off."""
    aliases: dict[str, str] = {}
    """Names that clients use -> a model here, or `twin` for the one the router picks. Globs work:
    `"claude-*" = "twin"`."""
    max_body_bytes: Count = 32_000_000
    """A request with a dozen images; more is refused with 413."""
    max_response_bytes: Count = 64_000_000
    """More than any model writes; the rest is cut off and the call recorded as failed."""
    max_concurrency: Count = 512
    """Calls under way at once; each holds its request and answer in memory."""
    max_queue: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 1024
    """Calls that wait beyond that; more are refused with 503 and Retry-After."""
    queue_s: Seconds = 10.0
    """The longest wait in that queue."""
    drain_s: Seconds = 30.0
    """How long a shutdown waits for answers under way."""
    otlp_endpoint: str = ""
    """Where OpenTelemetry traces go, such as `http://127.0.0.1:4318`; needs the extra `otel`. Texts
    of requests and answers are never in them."""


class RouteConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When the small tier's answer is enough. Only for calls to `twin`."""

    confidence: Share = 0.85
    """T0 answers above it; calibrated, so that 85 of 100 such answers are right."""
    complexity: Share = 0.70
    """T0 answers at or under it."""
    check: bool = True
    """Judge T0's answer before its first byte goes out, and escalate what is not good enough."""
    answer_confidence: Share = 0.5
    """The judged answer goes out at or above it."""
    verifier: str = ""
    """A model that is asked whether T0's answer does what was asked, before it goes out; the lower
    of its grade and the built-in check counts. Empty: the built-in check alone, which costs
    nothing."""
    handoff: bool = True
    """Tell the next tier what the first one saw, as JSON before the request."""


class RecordConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is kept of each call."""

    sync: Literal["process", "disk"] = "process"
    """What a record survives once the client has its answer: `process` a killed process or program,
    `disk` a power cut too, for a wait of one group commit."""
    when_full: Literal["refuse", "serve"] = "refuse"
    """Where the disk takes no more records: refuse calls (503), or serve unrecorded and count."""
    max_age_days: Count = 30
    """Long enough for a monthly round of training; older calls go."""
    max_mb: Count = 2_000
    """Of recorded traffic; the oldest calls go first."""
    redact: dict[str, str] = {}
    """Further rules, name -> regular expression; what matches is replaced by `[redacted:NAME]`."""


class InjectConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Retrieved context that is put before requests."""

    enabled: bool = False
    """Off: a request then goes out byte for byte. The header `x-twin-context: on` or `off` decides
    for one request."""
    repository: bool = True
    """Files and symbols that the request seems to be about."""
    documents: tuple[str, ...] = ("AGENTS.md", "CLAUDE.md", "memory/*.md")
    """Globs from the repository's root: memory notes and documents, searched by section."""
    max_tokens: Count = 4_000
    """For all of it; shorter windows give better output."""
    wait_s: Seconds = 2.0
    """A request does not wait longer for context; it goes without, and the record says so."""


class BudgetConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """USD per calendar month (UTC); a tier over its budget is skipped."""

    triage: Money | None = None
    """All models of that role together."""
    reasoning: Money | None = None
    """All models of that role together."""
    escalation: Money | None = None
    """All models of that role together."""
    total: Money | None = None
    """Of everything; above it calls are refused (429) unless a model without a price answers."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be set."""

    store: StoreConfig = StoreConfig()
    mine: MineConfig = MineConfig()
    fit: FitConfig = FitConfig()
    context: ContextConfig = ContextConfig()
    serve: ServeConfig = ServeConfig()
    route: RouteConfig = RouteConfig()
    record: RecordConfig = RecordConfig()
    inject: InjectConfig = InjectConfig()
    budget: BudgetConfig = BudgetConfig()
    models: dict[str, ModelConfig] = {}
    """The models that can be asked, by the name that clients use."""

    def __post_init__(self) -> None:
        if ROUTED in self.models:
            raise ValueError(f"`{ROUTED}` is the router's own name: call the model otherwise")
        known = {ROUTED, *self.models}
        for alias, target in self.serve.aliases.items():
            if target not in known:
                raise ValueError(f"the alias `{alias}` leads to `{target}`, which is no model")
        if self.route.verifier and self.route.verifier not in self.models:
            raise ValueError(f"`route.verifier` is `{self.route.verifier}`, which is no model")
        for name, model in self.models.items():
            for other in model.fallback:
                if other not in self.models:
                    raise ValueError(f"`{name}` falls back to `{other}`, which is no model")


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
        message = str(error)
        if "models[...]" in message:
            message = message.replace("models[...]", f"models.{_faulty_model(values)}")
        raise ConfigError(f"{path}: {_explain(message)}") from error


def _faulty_model(values: object) -> str:
    """The name of the first model that does not convert; msgspec does not say it."""
    models = values.get("models", {}) if isinstance(values, dict) else {}
    for name, model in models.items():
        try:
            msgspec.convert(model, ModelConfig)
        except msgspec.ValidationError:
            return str(name)
    return "NAME"


def _explain(message: str) -> str:
    """Turns msgspec's message into a sentence with a cure."""
    unknown = re.search(r"unknown field `([^`]*)`(?: - at `\$\.?([^`]*)`)?", message)
    if unknown is None:
        # msgspec speaks of JSON: "Expected `object`, got `int` - at `$.store`".
        what, _, where = message.replace("`object`", "a table").partition(" - at `$.")
        place = f"`{where.rstrip('`')}`: " if where else ""
        if what == "Object missing required field `provider`":
            what = f"`provider` is missing; it is one of {', '.join(PROVIDER_NAMES)}"
        elif what.startswith("Invalid enum value"):
            what = f"{what}; the reference lists the valid ones"
        return f"{place}{what}. Correct the value; `docs/configuration.md` lists every key."
    key, section = unknown[1], unknown[2] or ""
    valid = list(_struct_at(section).__struct_fields__)
    near = difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
    cure = f"Did you mean `{near[0]}`?" if near else f"Valid keys: {', '.join(valid)}."
    where = f"[{section}]" if section else "the top level"
    return f"unknown key `{key}` in {where}. {cure}"


def _struct_at(section: str) -> type[msgspec.Struct]:
    """The table that `[section]` fills; the top level where there is no such section."""
    if section.startswith("models."):
        return Price if section.endswith(".price") else ModelConfig
    fields = {field.name: field.type for field in msgspec.structs.fields(Config)}
    found = fields.get(section, Config)
    return found if isinstance(found, type) and issubclass(found, msgspec.Struct) else Config
