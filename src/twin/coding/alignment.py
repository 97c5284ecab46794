"""How well a plan fits what was really changed: a bad plan told apart from bad work on a good one.

The commit's own plan scores 1, an empty one 0, and a plan never gains by losing a target. Compares
two plans; knows neither models nor tests.
"""

from collections.abc import Iterable, Set
from dataclasses import dataclass
from itertools import product
from typing import Final

from twin.coding.paths import role_of
from twin.coding.plan import Plan

FILES: Final = 0.5
SYMBOLS: Final = 0.35
ORDER: Final = 0.15
"""The wrong file cannot be made good by anything that follows; the wrong symbol in the right file
often is; the order matters least."""

BESIDES: Final = 0.1
"""Weight of a target outside of the source: documents, settings, changelogs. A plan without them
does the work, and is not whole."""

Target = tuple[str, str]
"""A path, and a dotted name in it or nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """Each part in [0, 1]."""

    files: float
    """F1 of the paths, weighted."""
    symbols: float
    """F1 of (path, symbol), weighted; of the paths where the change is in no symbol."""
    order: float
    """Share of the true dependencies whose both ends are planned in the right order; as `files`
    where there are none."""

    @property
    def score(self) -> float:
        """The weighted mean."""
        return FILES * self.files + SYMBOLS * self.symbols + ORDER * self.order


def alignment(plan: Plan, truth: Plan) -> Alignment:
    """How well `plan` fits `truth`, the plan of the commit that was made."""
    files = weighted_f1({(s.path, "") for s in plan.steps}, {(s.path, "") for s in truth.steps})
    true_symbols = _symbols(truth)
    symbols = weighted_f1(_symbols(plan), true_symbols) if true_symbols else files
    pairs = [(first, step.path) for step in truth.steps for first in step.depends_on]
    position = {step.path: number for number, step in enumerate(plan.ordered())}
    kept = [
        first in position and second in position and position[first] < position[second]
        for first, second in pairs
    ]
    order = sum(kept) / len(kept) if kept else files
    return Alignment(files=files, symbols=symbols, order=order)


def weighted_f1(found: Set[Target], true: Set[Target]) -> float:
    """The harmonic mean of precision and recall; 0 where either is empty."""
    both = _weight(found & true)
    return 2 * both / (_weight(found) + _weight(true)) if both else 0.0


def _weight(targets: Iterable[Target]) -> float:
    return sum(1.0 if role_of(path) == "source" else BESIDES for path, _ in targets)


def _symbols(plan: Plan) -> set[Target]:
    return {pair for step in plan.steps for pair in product([step.path], step.symbols)}
