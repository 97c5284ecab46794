"""The outcomes of packs and campaigns as tables: every figure, in the order in which one asks."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from twin.cycle.outcomes import Outcomes, RepositoryOutcome, Yield
from twin.lm.report import Table

NO_PACK: Final = "its pack is not at hand: nobody knows here how many commits qualified"
NOT_COUNTED: Final = "its pack has format 1, which did not count what each rule removed"


def headline(found: Outcomes) -> str:
    """The outcome in a sentence."""
    pooled = found.pooled
    if not pooled.num_commits:
        return "No commit has been validated yet: `twin harness validate PACK` does it."
    rate = "" if pooled.commits_per_hour is None else f", {pooled.commits_per_hour:,.0f} an hour"
    return (
        f"{pooled.num_valid:,} of {pooled.num_commits:,} commits are proved by their own tests "
        f"({_share(pooled.num_valid, pooled.num_commits)}){rate} on one worker."
    )


def tables(found: Outcomes) -> list[Table]:
    """Every figure, in the order in which one asks."""
    made = [
        _repositories(found),
        _attrition(found),
        _attrition_of_each(found),
        _reasons(found),
        _environments(found),
        _classes(found),
        _campaigns(found),
    ]
    return [table for table in made if table.rows]


def _repositories(found: Outcomes) -> Table:
    rows = [_row(one.name, one, one.found) for one in found.repositories]
    if len(rows) > 1:
        rows.append(_row("all", None, found.pooled))
    notes = {
        NO_PACK: [one.name for one in found.repositories if not one.folder],
        NOT_COUNTED: [one.name for one in found.repositories if one.folder and not one.attrition],
    }
    return Table(
        title="Repositories",
        columns=("repository", "history", "qualify", "packed", "answered", "valid", "yield",
                 "median s", "p90 s", "s a run", "commits an hour"),
        rows=tuple(rows),
        note=" ".join(f"{', '.join(names)}: {note}." for note, names in notes.items() if names),
    )  # fmt: skip


def _row(name: str, one: RepositoryOutcome | None, found: Yield) -> tuple[object, ...]:
    return (
        name,
        one.attrition[0].remaining if one and one.attrition else None,
        one.num_qualifying if one and one.attrition else None,
        one.num_packed if one and one.folder else None,
        found.num_commits,
        found.num_valid,
        _share(found.num_valid, found.num_commits),
        _rounded(found.median_s, 1),
        _rounded(found.p90_s, 1),
        _rounded(found.median_run_s, 2),
        _rounded(found.commits_per_hour, 0),
    )


def _attrition(found: Outcomes) -> Table:
    rows = [
        (
            words(row.rule),
            row.removed,
            row.remaining,
            _share(row.remaining, found.attrition[0].remaining),
        )
        for row in found.attrition
    ]
    return Table(
        title="Attrition: what each rule removed",
        columns=("rule", "removed", "left", "share"),
        rows=tuple(rows),
    )


def _attrition_of_each(found: Outcomes) -> Table:
    counted = [one for one in found.repositories if one.attrition]
    rules = [row.rule for row in found.attrition]
    left = [{row.rule: row.remaining for row in one.attrition} for one in counted]
    rows = [
        (one.name, *(of_it.get(rule) for rule in rules))
        for one, of_it in zip(counted, left, strict=True)
    ]
    return Table(
        title="Commits left after each rule",
        columns=("repository", *map(words, rules)),
        rows=tuple(rows) if len(rows) > 1 else (),
    )


def _reasons(found: Outcomes) -> Table:
    return _counts(found, "Why commits are not valid", lambda one: one.why)


def _environments(found: Outcomes) -> Table:
    rows = [
        (
            repository.name,
            one.key[:8],
            one.python,
            one.until or "the day it was made",
            one.num_commits,
            one.num_tests,
            _share(one.num_passing, one.num_tests),
            ", ".join(one.left_out) or "-",
            one.fault or (f"its build: {one.built}" if one.built else "-"),
        )
        for repository in found.repositories
        for one in repository.environments
    ]
    lacking = sum(one.num_unresolved for one in found.repositories)
    return Table(
        title="Environments",
        columns=("repository", "environment", "Python", "as of", "commits", "tests", "passing",
                 "left out", "fault"),
        rows=tuple(rows),
        note=f"{lacking:,} commits have needs that cannot be met." if lacking else "",
    )  # fmt: skip


def _classes(found: Outcomes) -> Table:
    return _counts(found, "Tests by class", lambda one: one.classes)


def _counts(found: Outcomes, title: str, of: Callable[[Yield], Mapping[str, int]]) -> Table:
    names = list(of(found.pooled))
    rows = [(name, *(of(one).get(key, 0) for key in names)) for name, one in _each_and_all(found)]
    return Table(
        title=title,
        columns=("repository", *map(words, names)),
        rows=tuple(rows) if names else (),
    )


def _each_and_all(found: Outcomes) -> Iterator[tuple[str, Yield]]:
    for one in found.repositories:
        yield one.name, one.found
    if len(found.repositories) > 1:
        yield "all", found.pooled


def _campaigns(found: Outcomes) -> Table:
    rows = [
        (
            one.planner,
            one.executor,
            ", ".join(one.repositories),
            one.num_trials,
            one.num_solved,
            _share(one.num_solved, one.num_trials - one.num_unfinished),
            _rounded(one.mean_alignment, 3),
            _counted(one.why | ({"unfinished": one.num_unfinished} if one.num_unfinished else {})),
            ", ".join(f"{step} {value:.1f}" for step, value in one.median_s.items()),
        )
        for one in found.campaigns
    ]
    return Table(
        title="Campaigns",
        columns=("planner", "executor", "repositories", "trials", "solved", "share", "alignment",
                 "not solved", "median s"),
        rows=tuple(rows),
    )  # fmt: skip


def words(name: str) -> str:
    """A rule, a reason or a class as people write it."""
    return name.replace("_", " ")


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {words(why)}" for why, count in counts.items()) or "-"
