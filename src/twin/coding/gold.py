"""Carries out a plan with the commit's own text: what would a perfect coder make of this plan?

Of a commit's changes only those are made that the plan asks for: files it names, and in them the
definitions it names. With the commit's own plan that is the commit; with a damaged one it is what
the plan deserves. Works on contents; knows neither models nor tests.
"""

import difflib
from collections.abc import Iterator, Sequence

from twin.coding.changed import Sides, changed_symbols, lines_of, owners
from twin.coding.languages import language_of
from twin.coding.plan import Plan


def carried_out(plan: Plan, files: Sequence[Sides]) -> dict[str, bytes | None]:
    """Path -> its content after the plan; None where the plan removes it.

    Only paths that differ from before are there. Lines outside of any definition go with their
    file.
    """
    wanted = {step.path: frozenset(step.symbols) for step in plan.steps}
    found: dict[str, bytes | None] = {}
    for side in files:
        path = side.change.path
        if path not in wanted:
            continue
        if side.after is None:
            found[path] = None
            continue
        is_moved = side.change.status == "R"
        if is_moved and side.change.old_path:
            found[side.change.old_path] = None
        content = _content(path, side.before or b"", side.after, wanted[path])
        if content != side.before or is_moved:
            found[path] = content
    return found


def _content(path: str, before: bytes, after: bytes, wanted: frozenset[str]) -> bytes:
    language = language_of(path)
    if language is None:
        return after
    old, new = lines_of(before), lines_of(after)
    old_owners, new_owners = owners(before, language), owners(after, language)
    # A diff may take an equal line from a neighbour (a closing bracket): who is as before does
    # not count.
    changed = frozenset(changed_symbols(path, before, after))
    made: list[str] = []
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag == "equal":
            made += old[a:b]
            continue
        # One block may touch several definitions: each takes its own lines along.
        touched = {*_named(old_owners, a, b), *_named(new_owners, c, d)} & changed
        if touched and not touched & wanted:
            made += old[a:b]
        elif touched <= wanted or tag != "insert":
            made += new[c:d]
        else:
            left = changed - wanted
            made += (new[at] for at in range(c, d) if new_owners.get(at + 1, "") not in left)
    return "".join(made).encode("utf-8", "surrogateescape")


def _named(names: dict[int, str], start: int, end: int) -> Iterator[str]:
    return (names[line] for line in range(start + 1, end + 1) if line in names)
