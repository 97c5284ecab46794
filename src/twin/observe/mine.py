"""Which commits are tasks: structural facts, labels and a score for every commit, and named rules.

Owns the rules and their order. A rule either keeps a commit or gives the reason to drop it; nothing
is thrown away, a dropped commit only says by which rule. Does not read git (`coding.history`
does) and does not make tasks (`curate.tasks` does).
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from twin.coding.paths import Role, role_of
from twin.config import MineConfig
from twin.observe.message import count_words, kinds_of, message_score
from twin.records import Commit, FileChange, Label, MinedCommit

__all__ = ["RULES", "STRICT_RULES", "AttritionRow", "Rule", "attrition", "message_score", "mine"]

_BOT: Final = re.compile(
    r"\[bot\]|[-_ ]bot\b|\bbot[-_@]|^bot$"
    r"|\b(?:dependabot|pre-commit-ci|renovate|github-actions?|greenkeeper|pyup|snyk|imgbot"
    r"|allcontributors|mergify|semantic-release|travis(?:-ci)?|circleci|codecov|deepsource"
    r"|restyled|sourcery-ai|weblate|transifex|crowdin|bors|homu|k8s-ci-robot|copybara)\b",
    re.IGNORECASE,
)
_AGENT: Final = re.compile(r"\b(?:copilot|devin|jules|cursor|claude|codex|openhands|sweep)\b", re.I)
"""Coding agents sign as bots, but what they commit is a task that somebody gave them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One reason to drop commits. `verdict` returns the reason, or None to keep."""

    name: str
    verdict: Callable[[MinedCommit, MineConfig], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttritionRow:
    """What one rule did: how many commits it removed and how many were left after it."""

    rule: str
    removed: int
    remaining: int


def _merge(mined: MinedCommit, config: MineConfig) -> str | None:
    parents = len(mined.commit.parent_ids)
    return f"joins {parents} histories and changes nothing itself" if parents > 1 else None


def _bot(mined: MinedCommit, config: MineConfig) -> str | None:
    return next((label.reason for label in mined.labels if label.name == "bot"), None)


def _no_source(mined: MinedCommit, config: MineConfig) -> str | None:
    return None if mined.num_source_files else "changes no source file"


def _too_many_files(mined: MinedCommit, config: MineConfig) -> str | None:
    if mined.num_source_files <= config.max_source_files:
        return None
    return f"changes {mined.num_source_files} source files, more than {config.max_source_files}"


def _too_many_lines(mined: MinedCommit, config: MineConfig) -> str | None:
    if mined.num_source_lines <= config.max_source_lines:
        return None
    return f"changes {mined.num_source_lines} source lines, more than {config.max_source_lines}"


def _too_few_words(mined: MinedCommit, config: MineConfig) -> str | None:
    words = count_words(mined.commit.subject)
    return f"{words} words, fewer than {config.min_words}" if words < config.min_words else None


def _says_little(mined: MinedCommit, config: MineConfig) -> str | None:
    if mined.message_score >= config.min_message_score:
        return None
    return f"message scores {mined.message_score:.2f}, less than {config.min_message_score:.2f}"


RULES: Final[tuple[Rule, ...]] = (
    Rule(name="merge", verdict=_merge),
    Rule(name="bot", verdict=_bot),
    Rule(name="no_source", verdict=_no_source),
    Rule(name="max_source_files", verdict=_too_many_files),
    Rule(name="max_source_lines", verdict=_too_many_lines),
)
"""In this order; the first that objects drops the commit."""

STRICT_RULES: Final[tuple[Rule, ...]] = (
    *RULES,
    Rule(name="min_words", verdict=_too_few_words),
    Rule(name="min_message_score", verdict=_says_little),
)
"""With `strict`. House styles differ so much that these would empty some repositories, so by
default the message only weighs."""


def rules_of(config: MineConfig) -> tuple[Rule, ...]:
    """The rules that a configuration asks for, in order."""
    return STRICT_RULES if config.strict else RULES


def mine(commits: Iterable[Commit], config: MineConfig) -> Iterator[MinedCommit]:
    """Every commit, in the order given, with what was found out about it; none is left out."""
    rules = rules_of(config)
    for commit in commits:
        yield _judged(_observed(commit, config), rules, config)


def attrition(mined: Iterable[MinedCommit], config: MineConfig) -> list[AttritionRow]:
    """A first row for all commits, then one for each rule in order."""
    dropped = Counter(commit.dropped_by for commit in mined)
    remaining = dropped.total()
    rows = [AttritionRow(rule="all", removed=0, remaining=remaining)]
    for rule in rules_of(config):
        remaining -= dropped[rule.name]
        rows.append(AttritionRow(rule=rule.name, removed=dropped[rule.name], remaining=remaining))
    return rows


def bot_reason(commit: Commit) -> str | None:
    """Why the author is a machine that nobody gave a task, None for people and coding agents."""
    return _bot_reason(commit.author_name, commit.author_email)


@lru_cache(maxsize=4096)
def _bot_reason(author_name: str, author_email: str) -> str | None:
    for word, said in (("name", author_name), ("address", author_email)):
        found = _BOT.search(said)
        if found and not _AGENT.search(f"{author_name} {author_email}"):
            return f"author's {word} says {found[0].strip()!r}"
    return None


def _judged(mined: MinedCommit, rules: Sequence[Rule], config: MineConfig) -> MinedCommit:
    for rule in rules:
        reason = rule.verdict(mined, config)
        if reason is not None:
            known = {label.name for label in mined.labels}
            label = () if rule.name in known else (Label(name=rule.name, reason=reason),)
            return replace(mined, dropped_by=rule.name, labels=mined.labels + label)
    return mined


def _observed(commit: Commit, config: MineConfig) -> MinedCommit:
    roles = [role_of(change.path) for change in commit.changes]
    source = [
        change for change, role in zip(commit.changes, roles, strict=True) if role == "source"
    ]
    score = message_score(commit.subject, commit.body, config.min_words)
    return MinedCommit(
        commit=commit,
        num_source_files=len(source),
        num_test_files=roles.count("test"),
        # Unknown counts (a blob is missing, or too large to compare) weigh nothing.
        num_source_lines=sum((c.added or 0) + (c.deleted or 0) for c in source),
        message_score=score.value,
        labels=tuple(_labels(commit, roles)),
    )


def _labels(commit: Commit, roles: Sequence[Role]) -> Iterator[Label]:
    if len(commit.parent_ids) > 1:
        yield Label(name="merge", reason=f"has {len(commit.parent_ids)} parents")
    bot = bot_reason(commit)
    if bot is not None:
        yield Label(name="bot", reason=bot)
    kinds = dict(kinds_of(commit.subject, commit.body))
    for role, name in (("doc", "docs"), ("test", "tests")):
        if roles and all(here == role for here in roles):
            kinds.setdefault(name, f"changes only {name}")
    for name, reason in kinds.items():
        yield Label(name=name, reason=reason)
    for name in ("vendored", "generated"):
        count = sum(role == name for role in roles)
        if count:
            yield Label(name=name, reason=f"changes {_files(count)} by {_WHO[name]}")
    renames = sum(map(_is_rename, commit.changes))
    if renames:
        yield Label(name="rename", reason=f"moves {_files(renames)}")


_WHO: Final = {"vendored": "other projects", "generated": "a program"}


def _is_rename(change: FileChange) -> bool:
    return change.status == "R"


def _files(count: int) -> str:
    return f"{count} file" if count == 1 else f"{count} files"
