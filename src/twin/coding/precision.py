"""Inside the chosen files: which symbols the task is about, and at what detail to show them.

Owns the tiers: `primary` (shown whole), `supporting` (signature and docstring), `type context` (the
signature of what encloses a primary symbol, and of classes it names), `excluded` (named in no
package). Works on the chosen files' text of that commit; does not rank files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from twin.coding.corpus import Scene
from twin.coding.digest import Repository
from twin.coding.features import Question
from twin.coding.languages import language_of
from twin.coding.lexical import Bag, Floats, Postings, View
from twin.coding.parse import parse
from twin.coding.text import WORD, count_terms
from twin.records import ParsedFile, Symbol

Tier = Literal["primary", "supporting", "type context", "excluded"]

NAME_WEIGHT: Final = 2.0
"""A word in the name says more than one in the body."""
PRIMARY_SHARE: Final = 0.55
SUPPORTING_SHARE: Final = 0.25
"""Shares of the best symbol's score. Chosen so that a typical file has one to three primaries."""
MAX_PRIMARY: Final = 6
MAX_SUPPORTING: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class LocatedSymbol:
    """One symbol of a chosen file."""

    name: str
    """Dotted, with what encloses it."""
    kind: str
    start_line: int
    end_line: int
    signature: str
    tier: Tier
    score: float


def symbols_for(
    question: Question, repository: Repository, scene: Scene, paths: Sequence[str]
) -> dict[str, tuple[LocatedSymbol, ...]]:
    """The symbols of each path that are not excluded, best first."""
    texts = file_texts(repository, scene.files, paths)
    parsed = {
        path: parse(text.encode("utf-8", "surrogateescape"), language_of(path) or "")
        for path, text in texts.items()
    }
    return located_symbols(question, texts, parsed)


def file_texts(
    repository: Repository, files: Mapping[str, str], paths: Sequence[str]
) -> dict[str, str]:
    """The text of each path that can be read."""
    wanted = {files[path]: path for path in paths}
    texts = {}
    for blob, data in repository.blobs(wanted):
        if data is not None:
            texts[blob] = data.decode("utf-8", "surrogateescape")
    return {path: texts[files[path]] for path in paths if files[path] in texts}


def located_symbols(
    question: Question, texts: Mapping[str, str], parsed: Mapping[str, ParsedFile]
) -> dict[str, tuple[LocatedSymbol, ...]]:
    """Scores every symbol of all files together and gives each its tier."""
    owners: list[tuple[str, Symbol]] = []
    bodies: list[Bag] = []
    names: list[Bag] = []
    for path, file in parsed.items():
        lines = texts[path].split("\n")
        for symbol in file.symbols:
            body = "\n".join(lines[symbol.start_line - 1 : symbol.end_line])
            owners.append((path, symbol))
            bodies.append(Bag.of(count_terms(body)))
            names.append(Bag.of(count_terms(f"{symbol.name} {symbol.parent}")))
    if not owners:
        return {}
    everything = View(np.arange(len(owners)), len(owners))
    weights = question.full + question.in_subject
    scores: Floats = Postings(bodies).match(question.terms, everything).scores(weights)
    in_name = Postings(names).match(question.terms, everything, b=0.0)
    scores = scores + NAME_WEIGHT * in_name.scores(weights)
    tiers = _tiers(owners, scores)
    found: dict[str, list[LocatedSymbol]] = {path: [] for path in parsed}
    for at in np.argsort(-scores, kind="stable"):
        path, symbol = owners[at]
        if tiers[at] != "excluded":
            found[path].append(
                LocatedSymbol(
                    name=_dotted(symbol),
                    kind=symbol.kind,
                    start_line=symbol.start_line,
                    end_line=symbol.end_line,
                    signature=symbol.signature,
                    tier=tiers[at],
                    score=float(scores[at]),
                )
            )
    return {path: tuple(symbols) for path, symbols in found.items()}


def _tiers(owners: Sequence[tuple[str, Symbol]], scores: Floats) -> list[Tier]:
    tiers: list[Tier] = ["excluded"] * len(owners)
    best = float(scores.max(initial=0.0))
    if best <= 0:
        return tiers
    primaries = supporters = 0
    for at in np.argsort(-scores, kind="stable"):
        share = scores[at] / best
        if (
            share >= PRIMARY_SHARE
            and primaries < MAX_PRIMARY
            and not _holds_better(at, owners, scores)
        ):
            tiers[at] = "primary"
            primaries += 1
        elif share >= SUPPORTING_SHARE and supporters < MAX_SUPPORTING:
            tiers[at] = "supporting"
            supporters += 1
    chosen = [owners[at] for at, tier in enumerate(tiers) if tier == "primary"]
    enclosing = {(path, symbol.parent) for path, symbol in chosen if symbol.parent}
    mentioned = {word for _, symbol in chosen for word in WORD.findall(symbol.signature)}
    for at, (path, symbol) in enumerate(owners):
        is_type = symbol.kind in {"class", "struct", "interface", "trait", "enum", "type"}
        if tiers[at] == "excluded" and (
            (path, _dotted(symbol)) in enclosing or (is_type and symbol.name in mentioned)
        ):
            tiers[at] = "type context"
    return tiers


def _holds_better(at: int, owners: Sequence[tuple[str, Symbol]], scores: Floats) -> bool:
    """Whether a symbol inside this one carries most of its score: then the inner one is meant."""
    path, symbol = owners[at]
    prefix = _dotted(symbol)
    return any(
        other_path == path
        and (other.parent == prefix or other.parent.startswith(prefix + "."))
        and scores[index] >= 0.6 * scores[at]
        for index, (other_path, other) in enumerate(owners)
    )


def _dotted(symbol: Symbol) -> str:
    return f"{symbol.parent}.{symbol.name}" if symbol.parent else symbol.name
