"""The gate's report: one plain record with every figure, and one HTML file for people.

Owns what is shown and how figures are put together; `gate.plots` draws. The record alone is enough
to draw the page again, and nothing in it is trusted: commit messages and paths are escaped. The
page loads nothing from anywhere, so it can be mailed and opened without a network.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from twin.config import FitConfig
from twin.gate.metrics import (
    PRIMARY,
    Breakdown,
    breakdown,
    by_repository,
    chance_curve,
    mean_recall,
    recall_curve,
    scores,
)
from twin.gate.promote import BASELINE
from twin.gate.verdict import GUARDED, difference, pair
from twin.records import Decision, Interval, RankedTask, Verdict

CURVE_DEPTH = 20
NUM_EXAMPLES = 8
MIN_ROLLING_TASKS = 20
"""Fewer tasks make a moving mean of noise."""
# Control characters, and the marks that make a text read as another one.
_STEERING = (*range(9), 11, 12, *range(14, 32), *range(127, 160), *range(0x202A, 0x202F))
_CLEAN = dict.fromkeys((*_STEERING, *range(0x2066, 0x206A)), "\N{REPLACEMENT CHARACTER}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranker:
    """One line of the plots and one column of the tables."""

    name: str
    role: str
    """`candidate`, `in service`, `baseline` or `chance`: decides the colour."""
    curve: tuple[float, ...]
    """Recall@1, @2 ..."""
    rolling: tuple[tuple[int, float], ...]
    """(Unix time, moving mean of the primary metric); empty where there are too few tasks."""
    figures: Breakdown | None
    """None for chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One row of the forest plot: candidate minus opponent."""

    opponent: str
    label: str
    interval: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One held-out task where candidate and opponent differ most."""

    commit_id: str
    query: str
    ranks: tuple[int, ...]
    opponent: str
    opponent_ranks: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Any further table, such as what mining dropped and why."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything the page shows."""

    repository: str
    generated_at: float
    decision: Decision
    headline: str
    in_service: str
    promoted: bool
    num_tasks: int
    first_task: int | None
    last_task: int | None
    verdicts: tuple[Verdict, ...]
    rankers: tuple[Ranker, ...]
    differences: tuple[Difference, ...]
    won: tuple[Example, ...]
    lost: tuple[Example, ...]
    sections: tuple[Section, ...]


def build_report(
    *,
    repository: str,
    ranked: Mapping[str, Sequence[RankedTask]],
    verdicts: Sequence[Verdict],
    in_service: str,
    promoted: bool,
    fit: FitConfig,
    generated_at: float,
    queries: Mapping[str, str] | None = None,
    sections: Sequence[Section] = (),
) -> Report:
    """Puts the figures together.

    `ranked` maps each ranker's name to its results on the same tasks; the first is the one under
    judgement. `queries` maps commit ids to messages, for the examples. No tasks at all is fine:
    the page then says that there is not enough data.
    """
    names = list(ranked)
    judged = sorted(ranked[names[0]], key=lambda task: task.time) if names else []
    against = next((name for name in names[1:] if name == BASELINE), None)
    won, lost = ((), ()) if against is None else _examples(ranked, names[0], against, queries or {})
    return Report(
        repository=repository,
        generated_at=generated_at,
        decision=overall(verdicts),
        headline=_headline(names[0] if names else in_service, in_service, verdicts, promoted),
        in_service=in_service,
        promoted=promoted,
        num_tasks=len(judged),
        first_task=judged[0].time if judged else None,
        last_task=judged[-1].time if judged else None,
        verdicts=tuple(verdicts),
        rankers=_rankers(ranked, judged),
        differences=_differences(ranked, fit) if judged else (),
        won=won,
        lost=lost,
        sections=tuple(sections),
    )


def render_html(report: Report) -> str:
    """The page, as one self-contained document."""
    from twin.gate import plots  # matplotlib takes a second to load; not every reader draws

    rows: dict[str, list[Difference]] = {}
    for row in report.differences:
        rows.setdefault(row.opponent, []).append(row)
    page = _environment().get_template("report.html.j2")
    return page.render(
        report=report,
        primary=PRIMARY,
        plots={
            "recall": Markup(plots.recall_by_k(report.rankers)),
            "rolling": Markup(plots.over_time(report.rankers)),
        },
        forests=[(name, Markup(plots.forest(own))) for name, own in rows.items()],
    )


def write_report(report: Report, path: Path) -> None:
    """Writes the page whole or not at all."""
    page = render_html(report).encode("utf-8", errors="replace")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(page)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def overall(verdicts: Sequence[Verdict]) -> Decision:
    """The one word over all opponents: better only if better than each of them."""
    decisions = {verdict.decision for verdict in verdicts}
    if "worse" in decisions:
        return "worse"
    return "better" if decisions == {"better"} else "not enough data"


def _headline(name: str, in_service: str, verdicts: Sequence[Verdict], promoted: bool) -> str:
    if promoted:
        return f"{name} is better than everything it was compared with and is now in service."
    serving = "The shipped model" if in_service == "default" else in_service
    because = {
        "better": "this candidate was not put into service",
        "worse": "this candidate is worse than something it was compared with",
        "not enough data": "a gain could not be told from chance",
    }[overall(verdicts)]
    return f"{serving} stays in service: {because}."


def _rankers(
    ranked: Mapping[str, Sequence[RankedTask]], judged: Sequence[RankedTask]
) -> tuple[Ranker, ...]:
    rankers = [
        Ranker(
            name=name,
            role=_role(name, position),
            curve=recall_curve(tasks, CURVE_DEPTH),
            rolling=_rolling(tasks),
            figures=breakdown(tasks),
        )
        for position, (name, tasks) in enumerate(ranked.items())
    ]
    chance = Ranker(
        name="random order",
        role="chance",
        curve=chance_curve(judged, CURVE_DEPTH),
        rolling=(),
        figures=None,
    )
    return (*rankers, chance)


def _role(name: str, position: int) -> str:
    if position == 0:
        return "candidate"
    return "baseline" if name == BASELINE else "in service"


def _rolling(tasks: Sequence[RankedTask]) -> tuple[tuple[int, float], ...]:
    """The moving mean over a fifth of the tasks, at the time of each window's last one."""
    if len(tasks) < MIN_ROLLING_TASKS:
        return ()
    ordered = sorted(tasks, key=lambda task: task.time)
    window = max(MIN_ROLLING_TASKS // 2, len(ordered) // 5)
    totals = scores(ordered, PRIMARY).cumsum()
    return tuple(
        (
            ordered[last].time,
            float((totals[last] - (totals[last - window] if last >= window else 0.0)) / window),
        )
        for last in range(window - 1, len(ordered))
    )


def _differences(
    ranked: Mapping[str, Sequence[RankedTask]], fit: FitConfig
) -> tuple[Difference, ...]:
    names = list(ranked)
    rows = []
    for opponent in names[1:]:
        for metric in (PRIMARY, *GUARDED):
            pairs = pair(ranked[names[0]], ranked[opponent])
            interval = difference(pairs, metric, fit=fit)
            rows.append(Difference(opponent=opponent, label=metric, interval=interval))
        theirs, ours = by_repository(ranked[opponent]), by_repository(ranked[names[0]])
        if len(ours) > 1:
            for name, tasks in ours.items():
                interval = difference(pair(tasks, theirs[name]), PRIMARY, fit=fit)
                rows.append(Difference(opponent=opponent, label=name, interval=interval))
    return tuple(rows)


def _examples(
    ranked: Mapping[str, Sequence[RankedTask]],
    name: str,
    opponent: str,
    queries: Mapping[str, str],
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """The tasks that the candidate won and lost by most, only those whose message is known."""
    pairs = pair(ranked[name], ranked[opponent])
    gains = [
        (mean_recall(ours) - mean_recall(theirs), ours, theirs)
        for ours, theirs in zip(pairs.candidate, pairs.opponent, strict=True)
        if ours.commit_id in queries
    ]
    gains.sort(key=lambda gain: -gain[0])

    def example(ours: RankedTask, theirs: RankedTask) -> Example:
        return Example(
            commit_id=ours.commit_id,
            query=queries[ours.commit_id],
            ranks=ours.target_ranks,
            opponent=opponent,
            opponent_ranks=theirs.target_ranks,
        )

    won = tuple(example(a, b) for gain, a, b in gains[:NUM_EXAMPLES] if gain > 0)
    lost = tuple(example(a, b) for gain, a, b in reversed(gains[-NUM_EXAMPLES:]) if gain < 0)
    return won, lost


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("twin.gate", "."),
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.1f}"
    environment.filters["points"] = lambda share: f"{100 * share:+.1f}"
    environment.filters["date"] = lambda seconds: _date(seconds, "%Y-%m-%d")
    environment.filters["moment"] = lambda seconds: _date(seconds, "%Y-%m-%d %H:%M UTC")
    environment.filters["slug"] = lambda text: str(text).replace(" ", "-")
    return environment


def _date(seconds: float | None, form: str) -> str:
    return "-" if seconds is None else datetime.fromtimestamp(seconds, tz=UTC).strftime(form)


def _printable(value: object) -> object:
    """No control characters or half surrogates reach the page, whatever a commit message holds."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return value.translate(_CLEAN).encode("utf-8", "replace").decode()
    return value
