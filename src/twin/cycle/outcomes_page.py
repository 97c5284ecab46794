"""The outcomes of packs and campaigns as one HTML page: the tables, and plots of them.

Owns what is drawn. The page is made as all pages with plots are (`lm.report`, `lm.plots`): whole,
self-contained, and deaf to what a name says.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from twin.cycle.outcomes import Outcomes
from twin.cycle.outcomes_tables import headline, tables, words
from twin.lm.report import Plot, Table, environment, write_whole

MAX_LINES: Final = 8
"""Repositories in one plot of lines; with more of them only all together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What the page shows; `lm.report`'s template takes it."""

    title: str
    made: str
    headline: str
    facts: tuple[tuple[str, str], ...]
    plots: tuple[Plot, ...]
    tables: tuple[Table, ...]


def write_page(found: Outcomes, path: Path, made: str) -> None:
    """Writes the page whole or not at all."""
    page = Page(
        title="Commits proved by their own tests",
        made=made,
        headline=headline(found),
        facts=tuple(_facts(found)),
        plots=tuple(plot for plot in _plots(found) if plot.svg),
        tables=tuple(tables(found)),
    )
    text = environment("twin.cycle").get_template("outcomes.html.j2").render(report=page)
    write_whole(path, text.encode("utf-8", errors="replace"))


def _facts(found: Outcomes) -> Iterator[tuple[str, str]]:
    pooled = found.pooled
    at_hand = [one for one in found.repositories if one.folder]
    yield "repositories", f"{len(found.repositories):,}, of {len(at_hand):,} the pack is at hand"
    if at_hand:
        waiting = sum(one.num_packed - one.found.num_commits for one in at_hand)
        packed = sum(one.num_packed for one in at_hand)
        yield "commits in these packs", f"{packed:,}, of which {waiting:,} have no answer yet"
    if pooled.median_s is not None and pooled.p90_s is not None:
        yield "seconds a commit", f"{pooled.median_s:.1f} in the median, {pooled.p90_s:.1f} at 90 %"
    if found.num_others:
        yield "not shown", f"{found.num_others:,} other repositories in this store"


def _plots(found: Outcomes) -> Iterator[Plot]:
    from twin.lm import plots  # matplotlib takes a second to load; not every reader draws

    left = [row.remaining for row in found.attrition]
    yield Plot(
        title="From a history to commits worth running",
        svg=plots.stacked(
            "Commits left after each rule",
            [words(row.rule) for row in found.attrition],
            {"left": left},
            x="commits left",
        ),
        note="Each row is a rule; its bar is what was left after it.",
    )
    names = [one.name for one in found.repositories]
    founds = [one.found for one in found.repositories]
    reasons = {
        words(reason): [one.why.get(reason, 0) for one in founds] for reason in found.pooled.why
    }
    valid = {"valid": [one.num_valid for one in founds]}
    yield Plot(
        title="What validating came to",
        svg=plots.stacked("Commits by outcome", names, valid | reasons, x="commits"),
    )
    yield Plot(
        title="What their tests are",
        svg=plots.stacked("Tests by class, in percent", names, _shares(found), x="tests, %"),
    )
    lines = [*zip(names, founds, strict=True)] if len(names) <= MAX_LINES else []
    yield Plot(
        title="How long a commit takes",
        svg=plots.lines(
            "Share of the commits done within a time",
            {name: _curve(one.seconds) for name, one in lines or [("all", found.pooled)]},
            x="seconds",
            y="commits, %",
            log_x=True,
        ),
        note="On one worker, all runs of a commit together.",
    )
    whys = dict.fromkeys(why for one in found.campaigns for why in one.why)
    yield Plot(
        title="What campaigns came to",
        svg=plots.stacked(
            "Trials by outcome",
            [f"{one.planner} + {one.executor}" for one in found.campaigns],
            {"solved": [one.num_solved for one in found.campaigns]}
            | {words(why): [one.why.get(why, 0) for one in found.campaigns] for why in whys}
            | {"unfinished": [one.num_unfinished for one in found.campaigns]},
            x="trials",
        ),
    )


def _shares(found: Outcomes) -> dict[str, list[float]]:
    totals = [max(sum(one.found.classes.values()), 1) for one in found.repositories]
    return {
        words(name): [
            100 * one.found.classes.get(name, 0) / total
            for one, total in zip(found.repositories, totals, strict=True)
        ]
        for name in found.pooled.classes
    }


def _curve(seconds: Sequence[float]) -> list[tuple[float, float]]:
    return [(value, 100 * at / len(seconds)) for at, value in enumerate(seconds, start=1)]
