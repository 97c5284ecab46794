"""Figures for Prometheus: plain numbers while calls run, put into its format when it asks.

Names follow its conventions (base units, `_total`). Knows no HTTP.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from twin.records import AttemptOutcome, CallOutcome, DialectName, Usage

if TYPE_CHECKING:
    from twin.serve.exchange import Exchange

BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
MAX_NOTED = 100
"""Calls noted before they are counted."""
_Ended = tuple[str, AttemptOutcome, Usage | None, float]
_Noted = tuple[str, DialectName, CallOutcome, int, float, float | None, list[_Ended]]
Gauges = Callable[[], Iterable[tuple[str, str, dict[str, str], float]]]
"""Gives (name, help, labels, value) of what is measured only when somebody looks."""


class Histogram:
    """Counts per bucket, and the sum. `observe` is a bisection and two additions."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.total += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as Prometheus has them."""
        found: list[tuple[str, float]] = []
        running = 0
        for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), self.counts, strict=True):
            running += count
            found.append((bound, running))
        return found


class Metrics(Collector):
    """Everything that is counted in this process."""

    def __init__(self) -> None:
        self.num_active = 0
        self.num_escalated = 0
        self._noted: list[_Noted] = []
        self.calls: dict[tuple[str, str, str, int], int] = defaultdict(int)
        self.attempts: dict[tuple[str, str], int] = defaultdict(int)
        self.tokens: dict[tuple[str, str], int] = defaultdict(int)
        self.cost_usd: dict[str, float] = defaultdict(float)
        self.latency: dict[str, Histogram] = defaultdict(Histogram)
        self.first_byte: dict[str, Histogram] = defaultdict(Histogram)
        self.gauges: list[Gauges] = []
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def began(self) -> None:
        self.num_active += 1

    def escalated(self) -> None:
        self.num_escalated += 1

    def ended(
        self, exchange: "Exchange", outcome: CallOutcome, status: int, latency_ms: float
    ) -> None:
        """Notes a call that is over; counted later, many at once, which costs a third."""
        self.num_active -= 1
        # Not the attempts themselves: they hold whole answers.
        attempts = [(a.model, a.outcome, a.usage, a.cost_usd) for a in exchange.attempts]
        self._noted.append(
            (
                exchange.model,
                exchange.dialect,
                outcome,
                status,
                latency_ms,
                exchange.first_byte_ms,
                attempts,
            )
        )
        if len(self._noted) >= MAX_NOTED:
            self._count()

    def _count(self) -> None:
        noted, self._noted = self._noted, []
        for model, dialect, outcome, status, latency_ms, first_byte_ms, attempts in noted:
            self.calls[model, dialect, outcome, status] += 1
            self.latency[model].observe(latency_ms / 1000.0)
            if first_byte_ms is not None:
                self.first_byte[model].observe(first_byte_ms / 1000.0)
            for name, ended, usage, cost_usd in attempts:
                self.attempts[name, ended] += 1
                if usage is not None:
                    self.tokens[name, "prompt"] += usage.num_prompt_tokens
                    self.tokens[name, "completion"] += usage.num_completion_tokens
                    self.cost_usd[name] += cost_usd

    def exposition(self) -> bytes:
        """The text that Prometheus reads."""
        self._count()
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        calls = CounterMetricFamily(
            "twin_calls", "Calls that are over.", labels=("model", "dialect", "outcome", "status")
        )
        for (*names, status), count in self.calls.items():
            calls.add_metric((*map(str, names), str(status)), count)
        attempts = CounterMetricFamily(
            "twin_attempts", "Questions put to models.", labels=("model", "outcome")
        )
        for pair, count in self.attempts.items():
            attempts.add_metric(pair, count)
        tokens = CounterMetricFamily("twin_tokens", "Tokens used.", labels=("model", "kind"))
        for pair, count in self.tokens.items():
            tokens.add_metric(pair, count)
        cost = CounterMetricFamily("twin_cost_usd", "Cost by price list.", labels=("model",))
        for model, amount in self.cost_usd.items():
            cost.add_metric((model,), amount)
        escalated = CounterMetricFamily("twin_escalations", "Answers judged not good enough.")
        escalated.add_metric((), self.num_escalated)
        active = GaugeMetricFamily("twin_calls_active", "Calls under way.")
        active.add_metric((), self.num_active)
        yield from (calls, attempts, tokens, cost, escalated, active)
        yield _histogram("twin_call_seconds", "From first byte in to last byte out.", self.latency)
        yield _histogram("twin_first_byte_seconds", "Until the answer begins.", self.first_byte)
        yield from self._gauges()

    def _gauges(self) -> Iterator[Metric]:
        families: dict[str, GaugeMetricFamily] = {}
        for source in self.gauges:
            for name, text, labels, value in source():
                if name not in families:
                    families[name] = GaugeMetricFamily(name, text, labels=tuple(labels))
                families[name].add_metric(tuple(labels.values()), value)
        yield from families.values()


def _histogram(name: str, text: str, by_model: dict[str, Histogram]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, text, labels=("model",))
    for model, histogram in by_model.items():
        family.add_metric((model,), histogram.buckets(), histogram.total)
    return family
