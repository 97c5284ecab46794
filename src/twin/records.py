"""The nouns that cross rooms: frozen, keyword-only records. Nothing here does work.

Times are Unix seconds (UTC); `commit_id` and `blob_id` are full hexadecimal git object names; paths
are
relative to the repository's root, with `/`, decoded as UTF-8 with `surrogateescape`.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec

ChangeStatus = Literal["A", "C", "D", "M", "R", "T"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChange:
    """What one commit did to one file. `added` and `deleted` count lines; None where
    nobody counted: a binary or huge file, one that is no source, a blob that the clone lacks."""

    path: str
    status: ChangeStatus
    old_path: str | None = None
    """Only for a rename or copy: where it came from."""
    added: int | None = None
    deleted: int | None = None
    old_blob: str = ""
    """Empty where the file did not exist before."""
    new_blob: str = ""
    """Empty where the file does not exist after."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """One commit as git tells it. A merge has no `changes`."""

    commit_id: str
    parent_ids: tuple[str, ...]
    author_name: str
    author_email: str
    author_time: int
    commit_time: int
    subject: str
    body: str
    changes: tuple[FileChange, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A name given to a commit (`merge`, `bot`, `bump`, `typo`, `fix`, `feature` ...) and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MinedCommit:
    """A commit with what mining found out about it. Written by `observe.mine`, read by `curate`."""

    commit: Commit
    num_source_files: int
    """Source files (not tests, docs, vendored or generated) that it changes."""
    num_test_files: int
    num_source_lines: int
    """Added plus deleted lines in source files."""
    message_score: float
    """In [0, 1]: how much the message says about the change. A weight; a gate if strict."""
    labels: tuple[Label, ...] = ()
    dropped_by: str | None = None
    """The first rule that removed it, None where it is kept."""


SandboxLevel = Literal["bubblewrap", "landlock"]
"""`bubblewrap`: namespaces of its own (user or an unprivileged uid, processes, network with a
loopback, mounts) and a system call filter. `landlock`: for machines that forbid namespaces; file
access by Landlock, no sockets at all, no signals to others, a system call filter."""

TestClass = Literal[
    "fail_to_pass", "pass_to_pass", "guard", "flaky", "both_fail", "pass_to_fail", "skipped",
    "unreached",
]  # fmt: skip
"""`fail_to_pass`: fails before and passes after, or is new and could not even be collected before.
`pass_to_pass`: passed with the parent and passes after. `guard`: new, and passes on both sides.
`flaky`: not the same in every run of one side. `both_fail`: fails after, and did not pass with
the parent. `pass_to_fail`: the commit breaks it. `skipped`: did not run after, so says nothing.
`unreached`: generated, and before it only crashed, hung, or failed for want of a name."""

WhyInvalid = Literal[
    "", "no_parent", "no_tests", "no_environment", "nothing_runs", "nothing_passes",
    "nothing_fails", "flaky_only", "unfinished", "error",
]  # fmt: skip
"""Why a commit is not valid. `nothing_runs`: no test could be collected after it; `nothing_passes`:
none passes after; `nothing_fails`: none fails before (a refactoring, or tests that only guard);
`flaky_only`: what failed before did not do so every time; `unfinished`: a limit was met; `error`:
this program failed, three times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """What running a commit's tests before and after it showed."""

    commit_id: str
    parent_id: str
    why: WhyInvalid
    """Empty where the commit is valid: a test fails before and passes after, every time."""
    detail: str = ""
    """One sentence more, empty where the reason says all."""
    environment: str = ""
    """The key of the environment it ran in."""
    classes: dict[str, TestClass] = field(default_factory=dict)
    """By pytest's node id."""
    selection: tuple[str, ...] = ()
    """The files that were run, the same on every side; empty means the whole suite."""
    level: SandboxLevel | None = None
    """How the code was confined; None where nothing ran."""
    limiter: str = ""
    """What held it to its memory: `cgroup v2`, `cgroup v1` or `watching`."""
    num_runs: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    generated: dict[str, str] = field(default_factory=dict)
    """Test files of the proof that are not the commit's own: path -> artefact. Empty for a commit
    that its own tests prove."""

    @property
    def is_valid(self) -> bool:
        """At least one test fails before and passes after, every time."""
        return not self.why

    def tests(self, wanted: TestClass) -> list[str]:
        """The node ids of one class, in the order they ran."""
        return [test for test, found in self.classes.items() if found == wanted]


PairKind = Literal[
    "scope", "precision", "meta_plan", "step_plan", "test_plan", "edit", "preference"
]  # fmt: skip
"""What a training pair teaches. `preference` has two answers, of which one is better."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a chat, in the words that every provider knows."""

    role: Literal["system", "user", "assistant"]
    content: str


class PairOrigin(msgspec.Struct, frozen=True, kw_only=True):
    """Where a training pair comes from."""

    repository: str
    commit_id: str
    parent_id: str
    """The commit that everything in the prompt is read from; where the source is `generated`, that
    is the commit itself."""
    commit_time: int
    source: Literal["commit", "trial", "generated"]
    """What the answer was taken from; `generated`: a fault was put into the commit's code."""
    validity: str
    """`valid`; `unvalidated` where nobody ran the commit's tests; else why it is not valid."""
    context_id: str
    """The artefact with what was retrieved at the parent; empty where the source is `generated`."""
    code_version: str
    """Of the program that made it."""
    campaign: str = ""
    """Only where `source` is `trial`."""
    trial: int | None = None


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """A question and its answer, to learn from. Written by `curate.pairs`; read by `train`."""

    kind: PairKind
    stage: Literal["", "plan", "edit"] = ""
    """Only of a `preference`: what its answers are."""
    task: str
    """The task alone, as it stands in the prompt."""
    prompt: tuple[Message, ...]
    completion: str
    rejected: str = ""
    """The worse answer of a `preference`."""
    num_tokens: int
    """Of the prompt and the longer answer; an upper estimate from the number of bytes."""
    origin: PairOrigin

    @property
    def content_hash(self) -> str:
        """Of what is learnt from it, wherever it comes from."""
        told = [self.kind, self.stage, self.prompt, self.completion, self.rejected]
        return hashlib.sha256(msgspec.json.encode(told)).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffCoverage:
    """Which of the executable lines that a commit changed its tests run. Path -> lines, from 1, of
    the commit's side."""

    changed: dict[str, tuple[int, ...]]
    covered: dict[str, tuple[int, ...]]

    @property
    def num_changed(self) -> int:
        return sum(map(len, self.changed.values()))

    @property
    def num_covered(self) -> int:
        return sum(map(len, self.covered.values()))

    @property
    def share(self) -> float:
        """1 where no line that can run was changed."""
        return self.num_covered / self.num_changed if self.num_changed else 1.0

    @property
    def missed(self) -> dict[str, list[int]]:
        """Path -> changed lines that no test runs."""
        return {
            path: [line for line in lines if line not in self.covered[path]]
            for path, lines in self.changed.items()
            if len(lines) > len(self.covered[path])
        }


WhyRejected = Literal["", "passes_before", "fails_after", "unreached", "flaky", "nothing_runs"]
"""Why a proposed test file does not count. `passes_before`: it does not tell the sides apart;
`fails_after`: nothing in it passes after; `unreached`: it fails before only for want of a name;
`flaky`: not every time; `nothing_runs`: no test of it ran after, or a limit was met."""

WhyUnsupplemented = Literal[
    "", "not_run", "covered", "nothing_proposed", "nothing_accepted", "not_together", "error"
]  # fmt: skip
"""Why a commit has no accepted generated test. `not_run`: its own tests do not run; `covered`: they
prove it and run every changed line; `not_together`: what was accepted alone fails beside the
commit's own tests; `error`: this program failed, three times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposedTest:
    """A test file that a generator proposed, and what became of it."""

    generator: str
    path: str
    artifact: str
    """Its content."""
    why: WhyRejected
    """Empty where it is accepted: a test of it fails before and passes after, every time."""
    classes: dict[str, TestClass] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Supplement:
    """What was found to prove a commit beyond its own tests."""

    commit_id: str
    parent_id: str
    natural: WhyInvalid
    """What the commit's own tests came to; empty where they prove it."""
    why: WhyUnsupplemented
    detail: str = ""
    coverage: DiffCoverage | None = None
    """Of its own tests; None where they do not run."""
    proposals: tuple[ProposedTest, ...] = ()
    proof: Validation | None = None
    """With the accepted files, which its `generated` names; None without any."""
    environment: str = ""
    """The key of the environment it ran in."""
    seconds: float = 0.0


WhyDiscarded = Literal[
    "", "survives", "breaks_run", "breaks_most", "flaky", "unfinished", "error"
]  # fmt: skip
"""Why a planted fault makes no task. `survives`: no test sees it; `breaks_run`: tests cannot be
collected, crash or hang, instead of failing; `breaks_most`: more of the suite fails than one fault
may break; `flaky`: not every time; `unfinished`: a limit was met, or the tests that should see it
do not pass by themselves; `error`: this program failed, three times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One realistic fault put into a commit's code. The task is to mend it: the fix is the file as
    it was."""

    commit_id: str
    environment: str
    path: str
    line: int
    symbol: str
    """The dotted name of the function."""
    operator: str
    """The kind of fault: `comparison`, `boundary`, ..."""
    before: str
    """The piece of the file that was replaced."""
    after: str
    artifact: str
    """The file with the fault."""
    why: WhyDiscarded
    """Empty where it makes a task."""
    detail: str = ""
    num_passing: int = 0
    """Tests of the suite that pass without it."""
    proof: Validation | None = None
    """What the tests that run the line say: with the fault is before, without it after."""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One localisation task from history: given `query` and the tree at `parent_id`, find
    `targets`."""

    repository: str
    commit_id: str
    parent_id: str
    time: int
    query: str
    targets: tuple[str, ...]
    """Source files that the commit changed and that existed at the parent; never empty."""
    weight: float = 1.0
    touches_tests: bool = False


SymbolKind = Literal[
    "class", "constant", "enum", "function", "interface", "macro", "method", "module", "struct",
    "trait", "type", "variable",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Symbol:
    """One definition in a file. Lines count from 1, both ends included."""

    name: str
    kind: SymbolKind
    start_line: int
    end_line: int
    parent: str = ""
    """Dotted name of the enclosing definition, empty at the top level."""
    signature: str = ""
    docstring: str = ""

    @property
    def dotted(self) -> str:
        """Its name with those of the definitions around it: `Class.method`."""
        return f"{self.parent}.{self.name}" if self.parent else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One import as written: `from ..a.b import c, d` is module `a.b`, level 2, names (c, d)."""

    module: str
    line: int
    names: tuple[str, ...] = ()
    level: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A name that a file calls or inherits from, and how often."""

    name: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedFile:
    """What the parser found in one blob. Depends on nothing but its bytes and its language."""

    language: str
    num_lines: int
    symbols: tuple[Symbol, ...] = ()
    imports: tuple[Import, ...] = ()
    references: tuple[Reference, ...] = ()
    docstring: str = ""
    rationale: tuple[str, ...] = ()
    """Comments that say why (`because`, `note:`, `workaround` ...), shortened."""
    has_errors: bool = False
    """The grammar met something it could not read; the rest is still usable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedTask:
    """How one ranker did on one task: the 1-based ranks of the targets, best first."""

    repository: str
    commit_id: str
    time: int
    num_candidates: int
    num_source_files: int
    target_ranks: tuple[int, ...]
    """One entry per target, sorted; always complete: every target is a candidate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Where a model version comes from: enough to make it again."""

    code_version: str
    dataset_hash: str
    config: dict[str, object] = field(default_factory=dict)
    seed: int = 0
    parent_version: str | None = None


VersionStatus = Literal[
    "candidate", "failed", "passed", "shadow", "canary", "live", "retired"
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """One version of one model in the registry. Never deleted; `artifact` is a content hash."""

    version_id: str
    model: str
    """Which job it does, such as `relevance`."""
    status: VersionStatus
    artifact: str
    created_at: float
    lineage: Lineage
    metrics: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A figure with its 95 % confidence interval."""

    value: float
    low: float
    high: float


Decision = Literal["better", "worse", "not enough data"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the gate says of a candidate against one opponent, and on what evidence."""

    decision: Decision
    candidate: str
    opponent: str
    num_tasks: int
    metric: str
    difference: Interval
    reason: str
    """One sentence for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One change of a version's status, as the registry recorded it."""

    version_id: str
    before: VersionStatus
    after: VersionStatus
    reason: str
    at: float


RunStatus = Literal["running", "done", "refused", "failed", "interrupted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One command that was run on a repository, and how it ended."""

    run_id: str
    command: str
    repository: str
    status: RunStatus
    """`interrupted` also where the process is gone without having said how it ended."""
    started_at: float
    ended_at: float | None = None
    config: dict[str, object] = field(default_factory=dict)
    result: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedFile:
    """One file of an answer and why it stands there; the list's order is the rank."""

    path: str
    score: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalDecision:
    """What one `locate` was asked and what it answered: the next round's evidence."""

    repository: str
    commit_id: str
    """The indexed commit that it searched."""
    query: str
    version: str
    """The model version that ranked."""
    ranked: tuple[RankedFile, ...]
    seconds: float
    task_id: str = ""
    """Joins the decision with the outcome of its task, where there is one."""
    at: float = 0.0
    """Filled in by the store."""


# The records of traffic are msgspec structs: one is made for every call that passes the gateway and
# goes to the journal as MessagePack, which costs a fifth of what a frozen dataclass costs there.

DialectName = Literal["chat", "completions", "embeddings", "responses", "messages"]
"""The shape of a request: OpenAI's endpoints by their last word, and Anthropic's `messages`."""

AttemptOutcome = Literal["ok", "escalated", "failed", "cancelled", "graded"]
"""`escalated`: it answered, and the answer was not good enough to go out. `graded`: it was asked
what it thinks of another one's answer."""

CallOutcome = Literal["ok", "refused", "failed", "cancelled"]
"""`refused`: this gateway said no (key, budget, limit, bad request); `failed`: no model answered;
`cancelled`: the client hung up."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer consumed, in tokens."""

    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0
    num_cached_tokens: int = 0
    """Part of the prompt tokens that the provider read from its cache."""
    is_estimated: bool = False
    """The provider did not say; counted as a quarter of the characters."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What a request asks, in whichever dialect it came: what routing and injection look at."""

    text: str
    """Of the last user message with words; those of an agent that bring tool results alone are
    passed over, so that all steps of a task are asked about the same."""
    system: str = ""
    """System and developer texts, joined by an empty line."""
    num_messages: int = 1
    """System messages not counted."""
    num_chars: int = 0
    """Of all texts: system, messages, tool calls and results; not of images or tool schemas."""
    num_prompt_tokens: int = 0
    """Estimated as a quarter of the characters, tool schemas included."""
    has_tools: bool = False
    has_tool_results: bool = False
    """Some message answers a tool call: an agent is at work."""
    has_images: bool = False
    wants_json: bool = False
    """The caller asked for JSON, with or without a schema."""
    max_tokens: int | None = None


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a tool that a model asked for."""

    name: str
    arguments: str
    """JSON text as the model wrote it; nobody has checked that it parses."""
    call_id: str = ""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a model answered, in whichever dialect: what the answer-side check judges."""

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str = ""
    """In the words of `chat`: stop, length, tool_calls, content_filter; empty where it broke off.
    """
    is_refusal: bool = False
    """The provider itself marked it as one; nothing is read into the text."""
    logprobs: tuple[float, ...] | None = None
    """Natural logarithm of each token's probability; None where the provider gave none."""
    num_completion_tokens: int = 0
    """As reported; else a quarter of the characters."""


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """What the answer-side check thinks of one answer, before any of it goes out."""

    confidence: float
    """Probability that the answer will do."""
    reason: str
    """The finding that weighed most, for people; empty where nothing is wrong with it."""


class RoutingExample(msgspec.Struct, frozen=True, kw_only=True):
    """One request with what became of the answers: what the router learns from. Written by
    `curate.routing`; read by `train` and `gate`."""

    question: Question
    weak: float | None
    """How good the small tier's answer was, in [0, 1]; None where nobody can know."""
    strong: float | None
    """The same of the big tier's answer."""
    at: float | None = None
    """Unix seconds; None where the source does not say."""
    group: str = ""
    """Requests that are alike: a session, a project, the subject of an examination."""
    source: str = ""
    """Where it comes from: a call's id, or a file and its line."""
    reason: str = ""
    """How the outcome is known: feedback, escalated, accepted, measured."""


class Classification(msgspec.Struct, frozen=True, kw_only=True):
    """What a request is, before anyone has answered it."""

    type: str
    """triage, heartbeat, simple, coding, review, architecture, planning, retrieval, ops, novel."""
    complexity: float
    """In [0, 1]."""
    confidence: float
    """Calibrated probability that the small tier's answer will do."""
    gain: float = 0.0
    """Expected quality of the bigger tier's answer less the small one's; what routing learns."""
    skill: str = ""
    project: str = ""
    version: str = ""
    """The model version that said so; `rules` where none is trained."""


class ContextItem(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of context that was put before a request."""

    source: str
    """`repository`, `memory` or `document`."""
    name: str
    """The file, with the lines where it is a part of one."""
    relevance: float
    num_tokens: int


class RouteDecision(msgspec.Struct, frozen=True, kw_only=True):
    """Which model was asked first and why."""

    model: str
    reason: str
    """One sentence for people."""
    classification: Classification | None = None
    """None where the caller named a model and nothing was decided."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One question put to one model while answering a call, as it happened. Times are milliseconds
    since the call's start."""

    model: str
    """Its name in the configuration."""
    outcome: AttemptOutcome
    account: str = ""
    """The account's label such as `env:ACCOUNT_A`; never the secret."""
    upstream_model: str = ""
    """The name the provider knows it by."""
    dialect: DialectName = "chat"
    """Of `request` and `response`."""
    status: int = 0
    """HTTP status; 0 where no answer came."""
    reason: str = ""
    """Why it failed, or why its answer was not good enough."""
    confidence: float | None = None
    """The answer-side check's probability that the answer will do; None where it was not judged."""
    started_ms: float = 0.0
    first_byte_ms: float | None = None
    latency_ms: float = 0.0
    """From its own start to its last byte."""
    request: bytes | None = None
    """As sent, redacted; None where it is the call's own request but for the `model` field."""
    response: bytes = b""
    """As received, redacted: a body, or a stream's bytes."""
    is_streamed: bool = False
    """`response` is server-sent events."""
    chunk_ms: tuple[float, ...] = ()
    """When each piece of a stream arrived."""
    usage: Usage | None = None
    cost_usd: float = 0.0


class Call(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="call", tag_field="kind"
):
    """One call that a client made to the gateway, from its first byte to its last. Written by
    `serve`; read by `curate`, `train` and `twin calls`."""

    call_id: str
    """`call_` and 32 hexadecimal digits; sent to the client as `x-request-id`."""
    at: float
    """Unix seconds."""
    dialect: DialectName
    """Of `request`, and of what the client received."""
    outcome: CallOutcome
    asked_model: str
    model: str = ""
    """The configured model whose answer went out; empty where none did."""
    key_id: str = ""
    """The virtual key's public id; empty where the gateway needs none."""
    session: str = ""
    """From the `x-twin-session` header; else a digest of what begins the conversation."""
    task_id: str = ""
    """From the `x-twin-task` header; joins the call with decisions and outcomes."""
    status: int = 200
    """HTTP status that the client received."""
    error: str = ""
    is_stream: bool = False
    is_degraded: bool = False
    """The emergency model answered."""
    route: RouteDecision | None = None
    context: tuple[ContextItem, ...] = ()
    handoff: bytes = b""
    """The hand-off JSON that the last attempt received; empty where nothing was escalated."""
    first_byte_ms: float | None = None
    latency_ms: float = 0.0
    request: bytes = b""
    """As the client sent it, redacted."""
    response: bytes | None = None
    """As the client received it, redacted; None where it is the last attempt's own."""
    attempts: tuple[Attempt, ...] = ()
    meta: dict[str, str] = {}
    """What else is worth keeping: the client's user agent, the caller's own request id."""


LOCAL: Final = "local"
"""In a key's place: who says it has the store itself before him, and may speak of every call."""


class Feedback(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="feedback", tag_field="kind"
):
    """What somebody said of a call afterwards."""

    feedback_id: str
    """`fb_` and 32 hexadecimal digits."""
    call_id: str
    at: float
    score: float | None = None
    """In [0, 1]; 1 is good."""
    comment: str = ""
    demonstration: str = ""
    """The answer that should have been given."""
    key_id: str = ""
    """Of whoever said it; LOCAL where that was done with `twin calls feedback`."""


Entry = Call | Feedback


class CallSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a list of calls: what a call was, without what was said in it."""

    call_id: str
    at: float
    dialect: DialectName
    outcome: CallOutcome
    asked_model: str
    model: str
    key_id: str
    session: str
    task_id: str
    status: int
    error: str
    is_stream: bool
    is_degraded: bool
    is_escalated: bool
    first_byte_ms: float | None
    latency_ms: float
    num_prompt_tokens: int
    num_completion_tokens: int
    cost_usd: float


class Preference(msgspec.Struct, frozen=True, kw_only=True):
    """Two answers to the same call, of which one is better."""

    call_id: str
    reason: str
    """Why the rejected one was not good enough, or what the feedback says."""
    at: float
    rejected: int
    """Which of the call's attempts, counted from 1."""
    chosen: int | None = None
    """Likewise; None where the feedback's demonstration is better."""
    feedback_id: str = ""


class VirtualKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key that this gateway gave out. The secret itself is shown once and stored nowhere."""

    key_id: str
    """`key_` and 12 hexadecimal digits: public, in records and logs."""
    name: str
    digest: str
    """SHA-256 of the secret, hexadecimal. Secrets hold 256 random bits, so that a slow hash would
    add nothing."""
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None
    models: tuple[str, ...] = ()
    """Names or globs of models it may ask; empty allows all."""
    monthly_usd: float | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


class Spend(msgspec.Struct, frozen=True, kw_only=True):
    """What was used in one calendar month (UTC) by one key on one model."""

    month: str
    """`2026-11`."""
    key_id: str
    model: str
    num_calls: int
    num_prompt_tokens: int
    num_completion_tokens: int
    cost_usd: float
