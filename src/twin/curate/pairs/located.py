"""Pairs of the two stages that look for places: which files, and which symbols in them.

The answers are what the commit changed, of what was there before it.
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from twin.coding.changed import Sides, changed_symbols, lines_of
from twin.coding.languages import language_of
from twin.coding.parse import parse
from twin.coding.precision import Tier
from twin.coding.text import WORD
from twin.curate.pairs.facts import Facts, Prompt, as_json, sections
from twin.records import Pair, ParsedFile, Symbol

MAX_SYMBOLS: Final = 1_500
"""Of all files together: a longer list is no question."""
TYPES: Final = frozenset({"class", "enum", "interface", "struct", "trait", "type"})

SCOPE: Final = (
    'You choose the files that a task changes. Answer with JSON, {"files": [PATH, ...]}, and only '
    "with files of the list, the likeliest first."
)
PRECISION: Final = (
    "You choose at what detail each symbol of some files matters to a task: `primary` is changed, "
    "`supporting` is used by what is changed, `type context` encloses it or is named in its "
    "signature; every other symbol is excluded. Answer with JSON, {PATH: {TIER: [SYMBOL, ...]}}, "
    "without the excluded ones."
)

Named = tuple[str, Symbol]
"""A path and one of its symbols."""


def scope(facts: Facts) -> Iterator[Pair | str]:
    """Task and retrieved files -> those of them that were changed."""
    existing = [path for side in facts.sides if (path := path_before(side)) in facts.parent.parsed]
    found = [path for path in facts.candidates if path in existing]
    if not existing:
        yield "nothing_existed"
    elif not found:
        yield "not_retrieved"
    else:
        for _ in range(len(existing) - len(found)):
            yield "file_not_retrieved"
        listed = "\n".join(f"- {path}" for path in facts.candidates)
        prompt = sections(Task=facts.task, Candidate_files=listed)
        yield facts.pair("scope", Prompt(system=SCOPE, user=prompt), as_json({"files": found}))


def precision(facts: Facts) -> Iterator[Pair | str]:
    """Task and the symbols of the right files -> a tier for each."""
    sides = {
        path: side
        for side in facts.sides
        if (path := path_before(side)) in facts.parent.parsed and side.before is not None
    }
    parsed = {path: facts.parent.parsed[path] for path in sorted(sides)}
    tiers = true_tiers(sides, parsed)
    if sum(len(file.symbols) for file in parsed.values()) > MAX_SYMBOLS:
        yield "too_many_symbols"
    elif "primary" not in tiers.values():
        yield "no_symbol_changed"
    else:
        prompt = sections(Task=facts.task, Symbols=_listing(parsed))
        yield facts.pair("precision", Prompt(system=PRECISION, user=prompt), _by_file(tiers))


def true_tiers(
    sides: Mapping[str, Sides], parsed: Mapping[str, ParsedFile]
) -> dict[tuple[str, str], Tier]:
    """(path, dotted name) -> tier, of every symbol that was there before. Both mappings are by the
    path before."""
    symbols = [(path, symbol) for path, file in parsed.items() for symbol in file.symbols]
    tiers: dict[tuple[str, str], Tier] = dict.fromkeys(map(_key, symbols), "excluded")
    changed = {
        (path, name)
        for path, side in sides.items()
        for name in changed_symbols(side.change.path, side.before, side.after)
    }
    primary = [one for one in symbols if _key(one) in changed]
    tiers.update(dict.fromkeys(map(_key, primary), "primary"))
    # What the new text uses counts too: that is what whoever writes it has to know.
    after = {path: (side.change.path, side.after) for path, side in sides.items()}
    used = _used(primary, {path: (path, side.before) for path, side in sides.items()})
    used |= _used(_symbols_after(after, changed), after)
    for one in symbols:
        if tiers[_key(one)] == "excluded" and one[1].name in used and one[1].kind not in TYPES:
            tiers[_key(one)] = "supporting"
    enclosing = {(path, symbol.parent) for path, symbol in primary}
    mentioned = {word for _, symbol in primary for word in WORD.findall(symbol.signature)}
    for one in symbols:
        is_type = one[1].kind in TYPES and one[1].name in used | mentioned
        if tiers[_key(one)] == "excluded" and (_key(one) in enclosing or is_type):
            tiers[_key(one)] = "type context"
    return tiers


def path_before(side: Sides) -> str:
    """The file's name at the parent; empty where it was not there."""
    if side.change.status in ("A", "C"):
        return ""
    return (side.change.old_path or "") if side.change.status == "R" else side.change.path


def _symbols_after(
    after: Mapping[str, tuple[str, bytes | None]], changed: set[tuple[str, str]]
) -> list[Named]:
    """The changed symbols as they stand after the change."""
    found = []
    for path, (new_path, data) in after.items():
        language = language_of(new_path)
        if language is not None and data is not None:
            symbols = parse(data, language).symbols
            found += [(path, symbol) for symbol in symbols if (path, symbol.dotted) in changed]
    return found


def _used(
    symbols: Sequence[Named], contents: Mapping[str, tuple[str, bytes | None]]
) -> set[str]:  # fmt: skip
    """Names that the bodies call or inherit from."""
    found: set[str] = set()
    lines = {path: lines_of(data or b"") for path, (_, data) in contents.items()}
    for path, symbol in symbols:
        language = language_of(contents[path][0])
        body = textwrap.dedent("".join(lines[path][symbol.start_line - 1 : symbol.end_line]))
        if language is not None:
            read = parse(body.encode("utf-8", "surrogateescape"), language)
            found.update(reference.name for reference in read.references)
    return {name.rpartition(".")[2] for name in found}


def _key(one: Named) -> tuple[str, str]:
    return one[0], one[1].dotted


def _listing(parsed: Mapping[str, ParsedFile]) -> str:
    """Every symbol of every file with its signature on one line."""
    lines = []
    for path, file in parsed.items():
        lines.append(f"## {path}")
        for symbol in {symbol.dotted: symbol for symbol in file.symbols}.values():
            signature = " ".join(symbol.signature.split())
            lines.append(f"- {symbol.dotted}" + (f": {signature}" if signature else ""))
    return "\n".join(lines)


def _by_file(tiers: Mapping[tuple[str, str], Tier]) -> str:
    found: dict[str, dict[str, list[str]]] = {}
    for (path, name), tier in tiers.items():
        if tier != "excluded":
            by_tier = found.setdefault(path, {"primary": [], "supporting": [], "type context": []})
            by_tier[tier].append(name)
    return as_json(found)
