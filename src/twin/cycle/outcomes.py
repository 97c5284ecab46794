"""What packs and campaigns came to so far: attrition, environments, yield, test classes, seconds.

Counts what the store and the packs' manifests hold; runs nothing. Of a commit that was asked about
more than once the newest answer counts. A repository whose pack is not at hand has answers, but
nobody knows here how many commits it had or which environments.
"""

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from twin.observe.manifest import Manifest, PackedEnvironment
from twin.observe.mine import AttritionRow
from twin.records import Validation
from twin.store.database import Store
from twin.store.outcomes import TrialStep

NOT_RECORDED = "not recorded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Yield:
    """What validating commits came to."""

    num_commits: int
    """Those that have an answer."""
    num_valid: int
    why: dict[str, int]
    """Reasons of those that are not valid, most frequent first."""
    classes: dict[str, int]
    """Tests by class, most frequent first."""
    seconds: tuple[float, ...]
    """Of each commit that was run, ascending, on one worker."""
    median_s: float | None
    p90_s: float | None
    median_run_s: float | None
    """Of one of a commit's runs: a side, or its repeat."""
    commits_per_hour: float | None
    """On one worker; None where nothing ran."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryOutcome:
    """One repository's way from its history to proved commits."""

    name: str
    folder: str
    """Of its pack; empty where that is not at hand, and then only `found` is known."""
    num_packed: int
    num_unresolved: int
    """Commits whose needs could not be met."""
    attrition: tuple[AttritionRow, ...]
    """Empty where the pack's format did not count it yet."""
    environments: tuple[PackedEnvironment, ...]
    found: Yield

    @property
    def num_qualifying(self) -> int:
        """Commits that could have been packed; where that was counted."""
        return self.attrition[-1].remaining + self.attrition[-1].removed


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignOutcome:
    """What one planner with one executor came to, over all campaigns."""

    planner: str
    executor: str
    repositories: tuple[str, ...]
    num_trials: int
    num_unfinished: int
    """Trials that were begun and have no verdict yet."""
    num_solved: int
    why: dict[str, int]
    mean_alignment: float | None
    median_s: dict[str, float]
    """By step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """Everything the report shows."""

    repositories: tuple[RepositoryOutcome, ...]
    attrition: tuple[AttritionRow, ...]
    """Of all repositories that counted it, together."""
    pooled: Yield
    campaigns: tuple[CampaignOutcome, ...]
    num_others: int
    """Repositories with answers in the store that were not asked for."""


def outcomes_of(
    store: Store, packs: Sequence[tuple[Path, Manifest]], *, others: bool = True
) -> Outcomes:
    """What is known of these packs and, with `others`, of every repository in the store."""
    answers = _newest(store.outcomes.validations())
    counted: list[list[_Fact]] = []
    repositories: list[RepositoryOutcome] = []
    for folder, told in packs:
        known = answers.get(told.name, {})
        asked = ((one.commit_id, one.environment) for one in told.commits)
        counted.append([known[key] for key in asked if key in known])
        repositories.append(_of_pack(folder, told, counted[-1]))
    rest = sorted(answers.keys() - {told.name for _, told in packs})
    for name in rest if others else ():
        newest = {commit: fact for (commit, _), fact in answers[name].items()}
        counted.append(list(newest.values()))
        repositories.append(_without_pack(name, counted[-1]))
    return Outcomes(
        repositories=tuple(repositories),
        attrition=_pooled([one.attrition for one in repositories if one.attrition]),
        pooled=_yield_of([fact for facts in counted for fact in facts]),
        campaigns=tuple(_campaigns(store.outcomes.steps(), {one.name for one in repositories})),
        num_others=0 if others else len(rest),
    )


@dataclass(frozen=True, slots=True)
class _Fact:
    """What is kept of a validation: its tests are counted, not named."""

    why: str
    classes: Counter[str]
    seconds: float
    num_runs: int


def _newest(
    validations: Iterable[tuple[str, Validation]],
) -> dict[str, dict[tuple[str, str], _Fact]]:
    """Pack -> commit and environment -> its newest answer, the newest last."""
    found: dict[str, dict[tuple[str, str], _Fact]] = {}
    for pack, one in validations:
        facts = found.setdefault(pack, {})
        key = (one.commit_id, one.environment)
        facts.pop(key, None)
        classes: Counter[str] = Counter(one.classes.values())
        facts[key] = _Fact(one.why, classes, one.seconds, one.num_runs)
    return found


def _of_pack(folder: Path, told: Manifest, facts: list[_Fact]) -> RepositoryOutcome:
    return RepositoryOutcome(
        name=told.name,
        folder=str(folder),
        num_packed=len(told.commits),
        num_unresolved=len(told.failed),
        attrition=tuple(told.attrition),
        environments=tuple(told.environments),
        found=_yield_of(facts),
    )


def _without_pack(name: str, facts: list[_Fact]) -> RepositoryOutcome:
    return RepositoryOutcome(
        name=name,
        folder="",
        num_packed=0,
        num_unresolved=0,
        attrition=(),
        environments=(),
        found=_yield_of(facts),
    )


def _yield_of(facts: Sequence[_Fact]) -> Yield:
    ran = [fact for fact in facts if fact.num_runs]
    seconds = sorted(fact.seconds for fact in ran)
    classes: Counter[str] = Counter()
    for fact in facts:
        classes.update(fact.classes)
    runs = [fact.seconds / fact.num_runs for fact in ran]
    return Yield(
        num_commits=len(facts),
        num_valid=sum(not fact.why for fact in facts),
        why=dict(Counter(fact.why for fact in facts if fact.why).most_common()),
        classes=dict(classes.most_common()),
        seconds=tuple(seconds),
        median_s=statistics.median(seconds) if seconds else None,
        p90_s=seconds[-(-9 * len(seconds) // 10) - 1] if seconds else None,
        median_run_s=statistics.median(runs) if runs else None,
        commits_per_hour=3600 * len(seconds) / sum(seconds) if sum(seconds) else None,
    )


def _pooled(tables: Sequence[Sequence[AttritionRow]]) -> tuple[AttritionRow, ...]:
    """The tables added up. A rule that a repository was not judged by removed nothing there, so
    what was left before it is left after it."""
    removed: Counter[str] = Counter()
    names: dict[str, None] = {}
    total = 0
    for table in tables:
        total += table[0].remaining
        for row in table:
            names.setdefault(row.rule)
            removed[row.rule] += row.removed
    rows = []
    for name in names:
        total -= removed[name]
        rows.append(AttritionRow(rule=name, removed=removed[name], remaining=total))
    return tuple(rows)


@dataclass
class _Trial:
    """What is known of one trial."""

    pack: str
    planner: str = NOT_RECORDED
    executor: str = NOT_RECORDED
    alignment: float = 0.0
    why: str | None = None
    """None until it is validated."""
    seconds: dict[str, float] = field(default_factory=dict)

    def take(self, one: TrialStep) -> None:
        self.seconds[one.step] = one.seconds
        if one.step == "retrieve":
            self.planner = str(one.result.get("planner", NOT_RECORDED))
            self.executor = str(one.result.get("executor", NOT_RECORDED))
        elif one.step == "plan":
            self.alignment = float(one.result.get("alignment", 0.0))
        elif one.step == "validate":
            self.why = str(one.result.get("why", ""))


def _campaigns(steps: Iterable[TrialStep], wanted: set[str]) -> Iterator[CampaignOutcome]:
    trials: dict[tuple[str, str, int], _Trial] = {}
    for one in steps:
        if one.pack in wanted:
            key = (one.campaign, one.commit_id, one.number)
            trials.setdefault(key, _Trial(one.pack)).take(one)
    groups: dict[tuple[str, str], list[_Trial]] = {}
    for trial in trials.values():
        groups.setdefault((trial.planner, trial.executor), []).append(trial)
    for (planner, executor), group in sorted(groups.items()):
        done = [trial for trial in group if trial.why is not None]
        seconds: dict[str, list[float]] = {}
        for trial in group:
            for step, value in trial.seconds.items():
                seconds.setdefault(step, []).append(value)
        yield CampaignOutcome(
            planner=planner,
            executor=executor,
            repositories=tuple(sorted({trial.pack for trial in group})),
            num_trials=len(group),
            num_unfinished=len(group) - len(done),
            num_solved=sum(trial.why == "" for trial in done),
            why=dict(Counter(trial.why for trial in done if trial.why).most_common()),
            mean_alignment=statistics.fmean(trial.alignment for trial in done) if done else None,
            median_s={step: statistics.median(values) for step, values in seconds.items()},
        )
