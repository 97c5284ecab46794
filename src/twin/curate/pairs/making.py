"""All pairs of one commit, and why others did not come about. The table of kinds is here."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from twin import __version__
from twin.curate.pairs.edited import edit
from twin.curate.pairs.facts import Facts, Maker
from twin.curate.pairs.located import precision, scope
from twin.curate.pairs.mended import mended
from twin.curate.pairs.planned import meta_plan, step_plan, test_plan
from twin.curate.pairs.preferred import preference
from twin.records import Pair, PairKind

VERSION: Final = 2
"""Of what pairs look like; a new one makes all of them again."""
CODE_VERSION: Final = f"{__version__}, pairs {VERSION}"

MAKERS: Final[Sequence[tuple[PairKind, Maker]]] = (
    ("scope", scope),
    ("precision", precision),
    ("meta_plan", meta_plan),
    ("step_plan", step_plan),
    ("test_plan", test_plan),
    ("edit", edit),
    ("edit", mended),
    ("preference", preference),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What came of a commit."""

    pairs: tuple[Pair, ...]
    left_out: dict[str, int]
    """`kind: reason` -> how often."""


def made_of(facts: Facts, *, max_tokens: int) -> Made:
    """Every pair of a commit, each once, that fits into `max_tokens`."""
    pairs: dict[str, Pair] = {}
    left_out: Counter[str] = Counter()
    for kind, maker in MAKERS:
        for one in maker(facts):
            if isinstance(one, str):
                left_out[f"{kind}: {one}"] += 1
            elif one.num_tokens > max_tokens:
                left_out[f"{kind}: too_long"] += 1
            elif not one.completion or one.completion == one.rejected:
                left_out[f"{kind}: no_difference"] += 1
            elif one.content_hash in pairs:
                left_out[f"{kind}: duplicate"] += 1
            else:
                pairs[one.content_hash] = one
    return Made(pairs=tuple(pairs.values()), left_out=dict(left_out))
