"""The router: what a request is, and whether the small model's answer will do, before anyone asks.

The one door to both forms: `Router.rules()` needs no training and errs towards the bigger model;
`Router.load()` takes what `twin train router` made (registry model `router`, an artefact of
`router_model.Learnt`). Numpy only and well under a millisecond, so that it can stand before every
request. Owns no threshold: what confidence is enough is the configuration's business.
"""

from typing import Final

import msgspec

from twin.records import Classification, Question
from twin.specialists import router_rules
from twin.specialists.router_features import LENGTH, see
from twin.specialists.router_model import Card, Learnt

MODEL: Final = "router"
"""The job's name in the registry."""


class Router:
    """Immutable; safe to share between threads."""

    def __init__(self, learnt: Learnt | None, version: str) -> None:
        self._learnt = learnt
        self.version = version

    @classmethod
    def rules(cls) -> "Router":
        """The untrained one."""
        return cls(None, router_rules.VERSION)

    @classmethod
    def load(cls, data: bytes, version: str = "") -> "Router":
        """From the bytes of `dump`; `version` is the registry's name for it, and goes into every
        classification. Raises StoreCorrupt for bytes that are no router, StoreTooNew."""
        return cls(Learnt.from_bytes(data), version or MODEL)

    def dump(self) -> bytes:
        """Raises ValueError for the rules: they are code."""
        if self._learnt is None:
            raise ValueError("The rules have no bytes; `Router.rules()` makes them.")
        return self._learnt.to_bytes()

    @property
    def card(self) -> Card | None:
        """What it was trained on; None for the rules."""
        return self._learnt.card if self._learnt else None

    def classify(self, question: Question) -> Classification:
        """Never raises, whatever the text; reads at most its two ends."""
        by_rules = router_rules.classify(question)
        if self._learnt is None:
            return by_rules
        seen = see(question)
        opinions = self._learnt.opinions(seen.row, seen.words, seen.chars)
        confidence, gain = self._learnt.judge(opinions, float(seen.row[LENGTH]))
        return msgspec.structs.replace(
            by_rules, confidence=confidence, gain=gain, version=self.version
        )
