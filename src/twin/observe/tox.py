"""What `tox.ini` adds to the needs of a project's tests: packages, and names of groups.

Environments of tox that run pytest count, all their factors together: `rich: rich` installs what
some of the tests skip without. Factors that stand for versions of one package exclude each other
(`django4: django<5`, `django5: django<6`), so a name with different bounds is left out, and what a
line says for the oldest versions alone. tox itself is not asked: its files substitute and generate.
"""

import configparser
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

_CONDITION: Final = re.compile(r"(?P<factors>[\w,{}.!-]+):(?:\s+|$)(?P<rest>.*)")
_OTHER_WORK: Final = frozenset(
    {"check", "cov", "coverage", "docs", "format", "lint", "mypy", "pyright", "typing"}
)
_OLDEST: Final = re.compile(r"\b(?:lowest|min|minimal|minimum|old|oldest)\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToxNeeds:
    """What its test environments install besides the project."""

    lines: tuple[str, ...] = ()
    """Requirements as written."""
    groups: tuple[str, ...] = ()
    """Names of dependency groups and extras."""


def of_tox(text: str) -> ToxNeeds:
    """The needs of the environments that run pytest; nothing where the file cannot be read."""
    parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
    try:
        parser.read_string(text)
    except configparser.Error:
        return ToxNeeds()
    plain: list[str] = []
    for_some: list[str] = []
    groups: list[str] = []
    inherited = parser.get("testenv", "commands", fallback="") or ""
    for section in parser.sections():
        if not re.fullmatch(r"testenv(?::.*)?", section):
            continue
        commands = parser.get(section, "commands", fallback=None)
        if section != "testenv" and "pytest" not in (inherited if commands is None else commands):
            continue
        for condition, line in _entries(parser.get(section, "deps", fallback="") or ""):
            (for_some if condition else plain).append(line)
        for option in ("dependency_groups", "extras"):
            value = (parser.get(section, option, fallback="") or "").replace(",", "\n")
            groups += (line for _, line in _entries(value))
    return ToxNeeds(
        lines=tuple(dict.fromkeys([*plain, *_agreeing(for_some)])),
        groups=tuple(name for name in dict.fromkeys(groups) if name not in _OTHER_WORK),
    )


def _entries(value: str) -> Iterator[tuple[str, str]]:
    """(condition, entry) of each line that says something by itself."""
    for line in value.splitlines():
        text = line.split(" #")[0].strip(" \t\\")
        found = _CONDITION.fullmatch(text)
        condition, text = (found["factors"], found["rest"].strip()) if found else ("", text)
        excluded = _OLDEST.search(condition) or not _OTHER_WORK.isdisjoint(condition.split("-"))
        # `{[base]deps}` is for tox alone to understand.
        if text and not excluded and not text.startswith(("#", "-", "{", "git+", "http")):
            yield condition, text


def _agreeing(lines: Iterable[str]) -> Iterator[str]:
    """Without the names of which different lines want different versions."""
    by_name: dict[str, set[str]] = defaultdict(set)
    for line in lines:
        try:
            by_name[canonicalize_name(Requirement(line).name)].add(line)
        except InvalidRequirement:
            yield line
    for wanted in by_name.values():
        if len(wanted) == 1:
            yield from wanted
