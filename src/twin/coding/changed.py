"""The plan behind a commit: which symbols of which files it changed, and what depends on what.

Read from both sides of a diff. Works on contents; reads no repository.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from twin.coding.graph import resolve_imports
from twin.coding.languages import language_of
from twin.coding.parse import parse
from twin.coding.plan import Action, Plan, Step
from twin.records import FileChange

Node = TypeVar("Node")

_ACTIONS: Mapping[str, Action] = {"A": "add", "C": "add", "D": "delete", "R": "rename"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """One changed file before and after; None where it was not there."""

    change: FileChange
    before: bytes | None
    after: bytes | None


def plan_of(files: Sequence[Sides]) -> Plan:
    """The plan that a commit with these changes carried out.

    A file depends on another changed file that it imports after the change; where two import each
    other, the one that comes later by name depends on the other.
    """
    parsed = {
        side.change.path: parse(side.after, language)
        for side in files
        if side.after is not None and (language := language_of(side.change.path))
    }
    imports = resolve_imports(parsed)
    steps = []
    for side in sorted(files, key=lambda side: side.change.path):
        path = side.change.path
        needed = sorted(imports.get(path, ()))
        steps.append(
            Step(
                path=path,
                action=_ACTIONS.get(side.change.status, "modify"),
                old_path=(side.change.old_path or "") if side.change.status == "R" else "",
                symbols=tuple(changed_symbols(path, side.before, side.after)),
                depends_on=tuple(p for p in needed if path not in imports.get(p, ()) or p < path),
            )
        )
    return _without_circles(steps)


def changed_symbols(path: str, before: bytes | None, after: bytes | None) -> list[str]:
    """Dotted names of the definitions whose own text differs, in order; the added and removed too.

    A definition's own text is without the definitions inside it, and without its indentation: a
    method that moves into another class counts, a class whose method changed does not.
    """
    language = language_of(path)
    if language is None:
        return []
    old = _own_texts(before, language) if before is not None else {}
    new = _own_texts(after, language) if after is not None else {}
    return [name for name in dict.fromkeys([*new, *old]) if old.get(name) != new.get(name)]


def owners(data: bytes, language: str) -> dict[int, str]:
    """Line, from 1 -> dotted name of the innermost definition it stands in; lines outside of any
    are not there."""
    found: dict[int, str] = {}
    symbols = parse(data, language).symbols
    # Inner definitions are shorter: they overwrite those around them.
    for symbol in sorted(symbols, key=lambda symbol: symbol.start_line - symbol.end_line):
        lines = range(symbol.start_line, symbol.end_line + 1)
        found.update(dict.fromkeys(lines, symbol.dotted))
    return found


def lines_of(data: bytes) -> list[str]:
    """The lines as the parser counts them, ends kept."""
    *whole, rest = data.decode("utf-8", "surrogateescape").split("\n")
    return [*(f"{line}\n" for line in whole), *([rest] if rest else [])]


def _own_texts(data: bytes, language: str) -> dict[str, str]:
    """Dotted name -> its own lines. Two definitions of one name (overloads, a property's setter)
    count together."""
    lines = lines_of(data)
    found: dict[str, list[str]] = {}
    for line, name in sorted(owners(data, language).items()):
        if line <= len(lines) and (text := lines[line - 1].strip()):
            found.setdefault(name, []).append(text)
    return {name: "\n".join(texts) for name, texts in found.items()}


def _without_circles(steps: list[Step]) -> Plan:
    """Longer circles of imports lose what closes them, by the order of the names."""
    kept: dict[str, set[str]] = {}
    made = []
    for step in steps:
        needed = tuple(path for path in step.depends_on if not leads(path, step.path, kept))
        kept[step.path] = set(needed)
        made.append(msgspec.structs.replace(step, depends_on=needed))
    return Plan(steps=tuple(made))


def leads(start: Node, goal: Node, edges: Mapping[Node, set[Node]]) -> bool:
    """Whether the goal can be reached."""
    seen: set[Node] = set()
    waiting = [start]
    while waiting:
        at = waiting.pop()
        if at == goal:
            return True
        if at not in seen:
            seen.add(at)
            waiting += edges.get(at, ())
    return False
