"""Why a file stands where it does, in words: a model's contributions joined with the facts.

Owns the wording. Features are grouped into the handful of arguments that people use; the amounts
are the model's own and sum to the score, the facts come from the scene. Ranks nothing.
"""

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np

from twin.coding.corpus import Scene, path_bag
from twin.coding.features import Question
from twin.coding.text import WORD, terms_of

MOST: Final = 3
_GROUPS: Final = (  # the first that fits
    ("names", ("symbols", "names", "compound_symbols")),
    ("path", ("path", "stem_", "rank_path")),
    ("text", ("text", "window", "cover", "compound_text", "prose", "calls")),
    ("chain", ("chain", "task_chain")),
    ("messages", ("message_", "subject_", "rare_")),
    ("activity", ("touched", "since_touch", "hours_since", "age")),
    ("tests", ("mirrored", "promise_of_tests", "importing_tests")),
    ("imports", ("import", "promise_of_imp")),
    ("folder", ("folder",)),
    ("kind", ("is_", "num_", "share_of_longest", "task_")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One argument for a file."""

    kind: str
    text: str
    amount: float
    """What it added to the score."""


@cache
def group_of(feature: str) -> str:
    """The argument that a feature belongs to."""
    bare = feature.removeprefix("rank_")
    for group, starts in _GROUPS:
        if any(feature.startswith(start) or bare.startswith(start) for start in starts):
            return group
    return "kind"


def reasons_for(
    question: Question,
    scene: Scene,
    file: int,
    contributions: dict[str, float],
    values: dict[str, float],
) -> tuple[Reason, ...]:
    """The strongest arguments for one file, strongest first."""
    amounts: dict[str, float] = {}
    for feature, amount in contributions.items():
        group = group_of(feature)
        amounts[group] = amounts.get(group, 0.0) + amount
    ranked = sorted(amounts, key=lambda group: -amounts[group])
    reasons = []
    for group in ranked:
        text = _wording(group, question, scene, file, values)
        if text and amounts[group] > 0:
            reasons.append(Reason(kind=group, text=text, amount=round(amounts[group], 4)))
        if len(reasons) == MOST:
            break
    return tuple(reasons)


def _wording(
    group: str, question: Question, scene: Scene, file: int, values: dict[str, float]
) -> str:
    if group == "text":
        words = _held(question, scene, file, "text")
        return f"its text has {words}" if words else ""
    if group == "names":
        words = _held(question, scene, file, "symbols")
        return f"defines names with {words}" if words else ""
    if group == "path":
        words = _words(question, set(_path_terms(scene, file)))
        return f"its path says {words}" if words else ""
    if group == "messages":
        return "changed under similar messages" if values["message_near"] > 0.05 else ""
    if group == "chain":
        return "part of the work going on" if values["chain_best"] > 0.05 else ""
    if group == "activity":
        return _touched(values)
    if group == "imports":
        return _imported(values)
    if group == "tests":
        return "its tests match" if values["mirrored_test"] + values["promise_of_tests"] > 0 else ""
    if group == "folder":
        return "its folder matches" if values["folder_best"] > 0.3 else ""
    return "is source code of a fitting size" if values["is_source"] else ""


def _imported(values: dict[str, float]) -> str:
    importers = round(float(np.expm1(values["importers"])))
    if importers:
        return f"imported by {importers} source file{'s' if importers > 1 else ''}"
    return "imports matching files" if values["promise_of_imports"] > 0 else ""


def _touched(values: dict[str, float]) -> str:
    if values["since_touch_inverse"] == 0:
        return ""
    commits = round(float(np.expm1(values["since_touch"])))
    return "changed in the last commit" if commits <= 1 else f"changed {commits} commits ago"


def _held(question: Question, scene: Scene, file: int, field: str) -> str:
    """The words of the task that the field holds, the most telling ones first."""
    hits = scene.match(field, question.terms)
    document = scene.view.positions[scene.rows[file]]
    here = hits.document == document
    impact = dict(zip(hits.term[here].tolist(), hits.impact[here].tolist(), strict=True))
    worth = {int(question.terms[term]): amount for term, amount in impact.items()}
    return _words(question, set(worth), worth)


def _path_terms(scene: Scene, file: int) -> list[int]:
    return [int(term) for term in path_bag(scene.paths[file]).terms]


def _words(question: Question, held: set[int], worth: dict[int, float] | None = None) -> str:
    """Up to three words of the task whose terms are held, quoted."""
    worth = worth or {}
    found: dict[str, float] = {}
    for word in dict.fromkeys(WORD.findall(question.text)):
        terms = [term for term in terms_of(word) if term in held]
        if terms and len(word) > 1:
            found[word] = max(worth.get(term, 0.0) for term in terms)
    best = sorted(found, key=lambda word: -found[word])[:3]
    return ", ".join(f"'{word}'" for word in best)
