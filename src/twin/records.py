"""The nouns that cross rooms: frozen, keyword-only records. Nothing here does work.

Times are Unix seconds (UTC); `commit_id` and `blob_id` are full hexadecimal git object names; paths
are
relative to the repository's root, with `/`, decoded as UTF-8 with `surrogateescape`.
"""

from dataclasses import dataclass, field
from typing import Literal

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
