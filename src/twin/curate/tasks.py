"""Localisation tasks from mined commits, and the one split that training and judging may use.

Owns the query (a message without what gives the answer away), the targets, duplicates and the split
by time. Does not decide which commits are worth it (`observe.mine` did) and ranks nothing.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from twin.coding.paths import role_of
from twin.errors import UsageError
from twin.records import FileChange, MinedCommit, Task

MIN_WEIGHT: Final = 0.05
"""Even a message that says little shows which files change at all."""

MAX_MESSAGE: Final = 20_000
MAX_QUERY: Final = 5_000
"""Characters read and kept. What is longer is a pasted log; nobody puts a task like that."""

# Every pattern below is linear: what may start a match cannot also stand inside it, or is bounded.
_SIGNED: Final = re.compile(
    r"^[ \t]*(?:[A-Z][A-Za-z]*(?:-[A-Za-z]+){0,3}-[Bb]y|Cc|CC|Change-Id|Reviewed-on|git-svn-id"
    r"|PiperOrigin-RevId|Differential Revision)[ \t]*:.*$",
    re.MULTILINE,
)
_MAIL: Final = re.compile(r"<[^<>\s@]+@[^<>\s]+>|(?<![\w.+-])[\w.+-]+@[\w-]+\.[\w.-]+\b")
_URL: Final = re.compile(r"<?\b(?:(?:https?|ftp|git|ssh)://|www\.)[^\s<>)\]]+>?", re.IGNORECASE)
_REFERENCE: Final = re.compile(
    r"""
    (?:\b(?:close[sd]?|fix(?:e[sd])?|resolve[sd]?|refs?|references|see(?:[ ]also)?|issues?|bugs?
        |prs?|pull[ ]requests?|tickets?|related[ ]to|part[ ]of|backport[ ]of|via)\b[ ]?:?[ ]?)?
    (?:[\w.-]{1,60}/[\w.-]{1,80})?(?:\#|\bgh-|\bbpo-)\d+\b
    (?:[ ]?(?:,|&|and)[ ]?(?:and[ ])?\#\d+\b)*
    """,
    re.VERBOSE | re.IGNORECASE,
)
_NUMBERED: Final = re.compile(r"\b(?:issue|pr|pull request|ticket) \d+\b", re.IGNORECASE)
_HASH: Final = re.compile(r"\b(?=[0-9a-f]*\d)(?=\d*[a-f])[0-9a-f]{7,64}\b|\b[0-9a-f]{40}\b")
_SUFFIXES: Final = (
    "adoc|bat|bazel|c|cc|cfg|cjs|cmake|conf|cpp|cs|css|csv|cts|cxx|go|gradle|h|hh|hpp|hs|html|hxx"
    "|in|ini|ipynb|java|js|json|jsx|kt|less|lock|lua|m4|md|mdx|mjs|mk|mts|php|pl|po|proto|ps1|pxd"
    "|py|pyi|pyw|pyx|rb|rs|rst|sass|scala|scss|sh|sql|svg|swift|tex|toml|tpl|ts|tsx|txt|vue|xml"
    "|yaml|yml"
)
_START: Final = r"(?<![\w.@~+/\\-])"
_FILE: Final = re.compile(
    _START + r"(?:[\w.@~+-]*[/\\])*[\w.@~+-]+\.(?:" + _SUFFIXES + r")\b(?!\.?\w)"
    r"(?:::[\w:\[\].-]+|:\d+)?"
)
_PATH: Final = re.compile(
    _START + r"(?:/?[\w.@~+-]+(?:/[\w.@~+-]+){2,}/?|[\w.@~+-]+(?:/[\w.@~+-]+)?/(?!\w))"
)
_GAP: Final = "\0"
"""Stands where something was taken out, until the brackets and commas around it are gone too."""
_ENCLOSED: Final = re.compile(r"\([ ,\0]*\0[ ,]*\)|\[[ ,\0]*\0[ ,]*\]|<\0>|`\0`|'\0'|\"\0\"")
_AT_START: Final = re.compile(r"^([ \t]*(?:[*-] )?)(?:\0[ \t:,;.-]*)+")
_AT_END: Final = re.compile(r"[ \t:,;(-]*\0[ \t:,;.\0]*$")
_INSIDE: Final = re.compile(r"[ \t]*\0[ \t\0]*")


def localisation_tasks(
    mined: Sequence[MinedCommit], repository: str, trees: Callable[[str], Mapping[str, str]]
) -> list[Task]:
    """One task for each kept commit that changes source files which its first parent had.

    `trees` gives path -> blob id of a commit. Ordered by time. A cherry-pick or backport (same
    query, same targets) counts once, where it came first: the later one would be a question whose
    answer has been seen, in training and in the history that features read.
    """
    tasks: list[Task] = []
    for commit in mined:
        if commit.dropped_by is None and commit.commit.parent_ids:
            task = _task(commit, repository, trees)
            if task is not None:
                tasks.append(task)
    tasks.sort(key=lambda task: task.time)
    return _distinct(tasks)


def split_by_time(tasks: Sequence[Task], holdout: float) -> tuple[list[Task], list[Task]]:
    """(train, holdout): the latest share `holdout` of the tasks is held out, by commit time.

    Tasks of one moment stay on one side, the later: every training task is strictly earlier than
    every held-out one.
    """
    if not 0 < holdout < 1:
        raise UsageError(f"The held-out share is {holdout}. Set [fit] holdout between 0 and 1.")
    ordered = sorted(tasks, key=lambda task: task.time)
    if not ordered:
        return [], []
    cut = min(math.floor(len(ordered) * (1 - holdout) + 1e-9), len(ordered) - 1)
    first = ordered[cut].time
    return [t for t in ordered if t.time < first], [t for t in ordered if t.time >= first]


def clean_query(subject: str, body: str = "") -> str:
    """A message as a person would put the task: no numbers of issues, addresses, hashes, file
    names, or lines about who signed what."""
    text = f"{subject}\n\n{body}"[:MAX_MESSAGE].replace(_GAP, "")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    for pattern in (_SIGNED, _URL, _MAIL, _REFERENCE, _NUMBERED, _FILE, _PATH, _HASH):
        text = pattern.sub(_GAP, text)
    kept = "\n".join(_closed(line) for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", kept).strip()[:MAX_QUERY]


def _closed(line: str) -> str:
    """A line without its gaps, and without a line of nothing but punctuation where one was."""
    if _GAP not in line:
        return line.rstrip()
    line = _ENCLOSED.sub(_GAP, line)
    line = _AT_END.sub("", _AT_START.sub(r"\1", line))
    line = _INSIDE.sub(" ", line).rstrip()
    return line if any(char.isalnum() for char in line) else ""


def _task(
    mined: MinedCommit, repository: str, trees: Callable[[str], Mapping[str, str]]
) -> Task | None:
    commit = mined.commit
    query = clean_query(commit.subject, commit.body)
    if not any(char.isalpha() for char in query):
        return None
    before = {path for change in commit.changes if (path := _before(change)) is not None}
    candidates = {path for path in before if role_of(path) == "source"}
    if not candidates:
        return None
    parent_id = commit.parent_ids[0]
    existing = trees(parent_id)
    targets = tuple(sorted(path for path in candidates if path in existing))
    if not targets:
        return None
    return Task(
        repository=repository,
        commit_id=commit.commit_id,
        parent_id=parent_id,
        time=commit.commit_time,
        query=query,
        targets=targets,
        weight=max(MIN_WEIGHT, mined.message_score),
        touches_tests=mined.num_test_files > 0,
    )


def _before(change: FileChange) -> str | None:
    """The file's name at the parent, None where it did not exist there."""
    if change.status == "R":
        return change.old_path
    # A copy leaves its source alone, and what is added was not there to be found.
    return None if change.status in ("A", "C") else change.path


def _distinct(tasks: Iterable[Task]) -> list[Task]:
    first: dict[tuple[str, tuple[str, ...]], Task] = {}
    for task in tasks:
        first.setdefault((" ".join(task.query.casefold().split()), task.targets), task)
    return list(first.values())
