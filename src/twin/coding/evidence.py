"""How much a piece of text is about a request: one number in [0, 1], comparable between requests.

A ranking always has a first place, even for "hello". Whether that place deserves to be shown is
decided here: by the telling words of the request (no function words, no pleasantries) that the
piece holds, counted by how rare they are where it comes from. Ranks nothing itself.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from twin.coding.lexical import Floats, Hits, Ints, weighted_counts
from twin.coding.text import WORD, count_terms

MAX_WORDS: Final = 400
"""Of a request; what follows is a pasted log or file, of which the first part says enough."""

FLOOR: Final = 0.6
"""Below this relevance a piece is not about the request. Of 46 everyday questions ("Write a haiku",
"How do I sort a list?") 2 or 3 passed in each of three repositories, of their commits' messages
53 to 91 %. One word alone, however rare, never does."""

FEWEST: Final = 8
"""A smaller collection counts as having so many pieces, or no word could ever be rare in it."""

_SILENT_WORDS: Final = """
a able about above after again all almost along already also although always am among an and
another any anyone anything are around as ask at away back be became because become been before
begin being below best better between both but by came can cannot come could d day dear did do
does doing done down during each either else enough etc even ever every everyone everything
explain fine first for from gave get give go goes going gone gonna good got great guess had hand
has have having he hello help her here hers hey hi him his hope how however i idea if in instead
into is it its itself just keep kind know last least less let like little ll look lot m made make
makes many may maybe me mean might mine more morning most much must my myself need needs never new
next nice no none nor not nothing now of off often oh ok okay old on once one ones only onto or
other others our out over own people perhaps please possible probably put question quite rather re
really right s said same say see seem seems shall she should show simple since small so some
someone something soon sorry start still such sure t take tell than thank thanks that the their
them then there these they thing things think this those though through time to today together
told too try two under until up upon us use used using ve very want was way we welcome well went
were what whatever when where whether which while who whole whom whose why will wish with within
without wonder word words work would write wrote yeah yes yet you your yours yourself code coding
golang java javascript program programming python rust typescript
"""
_SILENT: Final = frozenset(_SILENT_WORDS.split())
"""English words that say how somebody talks, not what about, and names of languages, which say no
place. In other languages the rarity of the
words must do; a greeting that no file holds counts as rare and missing, which is right."""


@dataclass(frozen=True, slots=True)
class Words:
    """The telling words of a request, as terms."""

    terms: Ints

    @classmethod
    def of(cls, request: str) -> "Words":
        found = [word for word in WORD.findall(request) if word.lower() not in _SILENT]
        terms = count_terms(" ".join(found[:MAX_WORDS]))
        return cls(np.fromiter(terms, np.int64, len(terms)))

    def __len__(self) -> int:
        return len(self.terms)


def rarity(hits: Hits) -> Floats:
    """Per term in [0, 1]: 1 for a word in at most about sqrt(n) of the n pieces, or in none;
    towards 0 for one in all of them."""
    number = len(hits.idf)
    frequency = weighted_counts(hits.term, np.ones(len(hits.term)), number)
    size = max(hits.num_documents, FEWEST)
    idf = np.log1p((size - np.minimum(frequency, size) + 0.5) / (frequency + 0.5))
    rare: Floats = np.minimum(idf / (0.5 * np.log1p(size / 0.5)), 1.0)
    return rare


def evidence(hits: Hits, rare: Floats) -> Floats:
    """Per piece: the rare words that it holds, less where it leaves many of the request's out.

    h * sqrt(h / all): three words of three give 3, three of twelve 1.5.
    """
    held = weighted_counts(hits.document, rare[hits.term], hits.num_documents)
    spread: Floats = held * np.sqrt(held / max(float(rare.sum()), 1e-9))
    return spread


def relevance(amount: Floats) -> Floats:
    """Evidence as a number in [0, 1]: one rare word alone is 0.5, two of two are 0.67."""
    in_bounds: Floats = amount / (amount + 1.0)
    return in_bounds
