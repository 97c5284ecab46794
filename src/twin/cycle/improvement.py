"""Runs the stages in order, each one resumable: mine, tasks, index, fit, judge, report.

Owns the order, the keys by which a stage is known to be done, and what a run says at its end. A
stage leaves its result in the store; this module alone knows more than one of them. Does no work of
its own: every stage is one call into a lower room.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from twin import __version__
from twin.coding.digest import DIGEST_VERSION
from twin.coding.features import FEATURES_VERSION
from twin.coding.git import GitRepository
from twin.coding.index import build_snapshot
from twin.coding.parse import PARSER_VERSION
from twin.coding.progress import Progress, named
from twin.coding.replay import Replayed, replay
from twin.coding.timeline import Timeline
from twin.config import Config
from twin.curate.tasks import split_by_time
from twin.cycle.answers import load_version, usable_in_service
from twin.cycle.past import mine_history, newest_tasks, require_sources
from twin.errors import StoreCorrupt
from twin.gate.chronological import BASELINES, Scorer, rank_tasks
from twin.gate.metrics import measure
from twin.gate.promote import Judgement, in_service, judge_and_promote
from twin.gate.report import Section, build_report, write_report
from twin.gate.verdict import earlier_looks, judge
from twin.observe.mine import attrition
from twin.records import Lineage, MinedCommit, ModelVersion, RankedTask, Task, Verdict
from twin.specialists.relevance import MODEL, RelevanceModel, default_model
from twin.store.database import Store
from twin.store.stages import Stages, key_of, running
from twin.train.recipes import MIN_TASKS, fit_best
from twin.train.relevance import sampled

STAGES: Final = ("mine", "tasks", "index", "fit", "judge", "report")
REPORT: Final = "report.html"
FORM: Final = 2
"""Raised when what stages record changes its form, so that no older record is taken for theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Improvement:
    """What `twin improve` found, for people and programs."""

    repository: str
    head: str
    decision: str
    """`better`, `worse` or `not enough data`, of the candidate against its harder opponent."""
    reason: str
    promoted: bool
    candidate: str | None
    in_service: str
    """A version id, or `default` for the model in the package."""
    num_commits: int
    num_tasks: int
    num_train: int
    num_holdout: int
    figures: dict[str, dict[str, float]]
    """Per ranker: recall@k, MRR, all@k on the held-out tasks, in [0, 1]."""
    verdicts: tuple[dict[str, Any], ...] = ()
    recipe: str = ""
    report: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    """Per stage; a stage that was done before takes 0."""
    skipped: tuple[str, ...] = ()

    @property
    def refused(self) -> bool:
        """The gate said no. "Not enough data" is no refusal: nobody can know yet."""
        return self.decision == "worse"


def improve(
    repository: GitRepository,
    store: Store,
    config: Config,
    *,
    redo: bool = False,
    progress: Progress | None = None,
) -> Improvement:
    """Learns from the repository's past, judges on its later part, serves the winner.

    Every stage that was done before on the same commits with the same settings is skipped, unless
    `redo`. Raises RepositoryError, StoreError.
    """
    require_sources(repository)
    name = repository.name
    with running(store, "improve", name, config, redo=redo, progress=progress) as run:
        found = _Improve(repository, store, config, run, progress).result()
        run.status = "refused" if found.refused else "done"
        return found


class _Improve:
    """One run of `improve`: the stages as methods, what they share as attributes."""

    def __init__(
        self,
        repository: GitRepository,
        store: Store,
        config: Config,
        run: Stages,
        progress: Progress | None,
    ) -> None:
        self.repository, self.store, self.config = repository, store, config
        self.run, self.progress = run, progress
        self.head = repository.head()
        self.default = default_model()
        self.live = usable_in_service(store)
        self._mined: list[MinedCommit] | None = None
        self._tasks: list[Task] | None = None
        self._timeline: Timeline | None = None

    def result(self) -> Improvement:
        settings = msgspec.to_builtins(self.config)
        past = [FORM, self.head, settings["mine"]]
        mined = self.run.stage("mine", past, self._mine)
        learning = [*past, settings["fit"], DIGEST_VERSION, FEATURES_VERSION]
        tasks = self.run.stage("tasks", learning, self._count_tasks)
        self.run.stage("index", [FORM, self.head, PARSER_VERSION], self._index)
        fitted: dict[str, Any] = {"version": None, "recipe": ""}
        if tasks["train"] >= MIN_TASKS:
            default = hashlib.sha256(self.default.to_bytes()).hexdigest()
            fitted = self.run.stage(
                "fit", [*learning, default], self._fit, still_good=self._is_readable
            )
            opponent = self._opponent(fitted["version"])
            judged = self.run.stage(
                "judge",
                [*learning, fitted["version"], opponent],
                lambda: self._judge(fitted["version"], opponent),
            )
        else:
            judged = self.run.stage("judge", [*learning, "too few", self.live], self._too_few)
        report = self.run.stage(
            "report",
            [*learning, judged["candidate"], judged["in_service"], judged["reason"]],
            lambda: self._report(judged, mined),
            still_good=lambda made: _digest_of(self._report_path) == made["digest"],
        )
        serving = in_service(self.store.registry, MODEL)
        promoted, reason = judged["promoted"], judged["reason"]
        if promoted and serving != judged["in_service"]:
            promoted = False
            reason = f"{judged['in_service']} was put into service and taken out again by hand."
        return Improvement(
            repository=self.repository.name,
            head=self.head,
            decision=judged["decision"],
            reason=reason,
            promoted=promoted,
            candidate=judged["candidate"],
            in_service=serving,
            num_commits=mined["commits"],
            num_tasks=tasks["train"] + tasks["holdout"],
            num_train=tasks["train"],
            num_holdout=tasks["holdout"],
            figures=judged["figures"],
            verdicts=tuple(judged["verdicts"]),
            recipe=fitted["recipe"],
            report=report["path"],
            seconds=self.run.seconds,
            skipped=tuple(self.run.skipped),
        )

    def _is_readable(self, fitted: dict[str, Any]) -> bool:
        """Whether the model of an earlier run can still be read from the disk."""
        try:
            return bool(load_version(self.store, fitted["version"]))
        except StoreCorrupt:
            return False

    def _opponent(self, version_id: str) -> str:
        """Whom the candidate must beat besides BM25: what served when it was made, if it is the
        one that serves now. So a run that follows a promotion finds the judgement done."""
        if version_id != self.live:
            return self.live
        return self.store.registry.get(version_id).lineage.parent_version or "default"

    @property
    def _report_path(self) -> Path:
        return self.store.folder / REPORT

    # Stages. Each returns what is recorded of it; all of it is JSON.

    def _mine(self) -> dict[str, Any]:
        mined = self.mined()
        rows = [asdict(row) for row in attrition(mined, self.config.mine)]
        return {"commits": len(mined), "attrition": rows}

    def _count_tasks(self) -> dict[str, Any]:
        train, holdout = self.split()
        return {"train": len(train), "holdout": len(holdout)}

    def _index(self) -> dict[str, Any]:
        snapshot = build_snapshot(
            self.repository, self.store.blobs, self.head, named(self.progress, "indexing")
        )
        self.store.snapshots.put(self.repository.name, self.head, dict(snapshot.files))
        symbols = sum(len(snapshot.parsed[path].symbols) for path in snapshot.parsed)
        return {"files": len(snapshot.parsed), "symbols": symbols}

    def _fit(self) -> dict[str, Any]:
        train, _ = self.split()
        rows = [sampled(task, self.config.fit.seed) for task in self._replay(train)]
        fitted = fit_best(rows, self.default, seed=self.config.fit.seed, progress=self.progress)
        version = self._registered(
            self.store.artifacts.put(fitted.model.to_bytes()),
            Lineage(
                code_version=__version__,
                dataset_hash=key_of([[task.commit_id, task.query, task.targets] for task in train]),
                config=msgspec.to_builtins(self.config.fit) | {"recipe": fitted.recipe},
                seed=self.config.fit.seed,
                parent_version=self.live,
            ),
            {"inner": fitted.inner, "num_train": len(rows)},
        )
        return {"version": version.version_id, "recipe": fitted.recipe, "inner": fitted.inner}

    def _registered(
        self, artifact: str, lineage: Lineage, metrics: dict[str, object]
    ) -> ModelVersion:
        """A new version, or the one that an interrupted (or repeated) run made of the same."""
        for version in self.store.registry.versions(MODEL):
            same = version.artifact == artifact and version.lineage == lineage
            if version.status in ("candidate", "passed") and same:
                return version
            if version.version_id == self.live and version.artifact == artifact:
                return version
        return self.store.registry.add(
            model=MODEL, artifact=artifact, lineage=lineage, metrics=metrics
        )

    def _judge(self, version_id: str, opponent: str) -> dict[str, Any]:
        version = self.store.registry.get(version_id)
        if version.status in ("failed", "retired"):
            # It lost against another opponent; what became of a version is never rewritten.
            version = self._registered(version.artifact, version.lineage, version.metrics)
        model = RelevanceModel.from_bytes(self.store.artifacts.get(version.artifact))
        scorers: dict[str, Scorer] = {version.version_id: scorer(model), **BASELINES}
        scorers["default"] = scorer(self.default)
        if opponent != "default":
            scorers[opponent] = scorer(load_version(self.store, opponent))
        _, holdout = self.split()
        ranked = rank_tasks(self._replay(holdout), scorers, seed=self.config.fit.seed)
        verdicts = self._verdicts(version, ranked)
        outcome = judge_and_promote(self.store.registry, version, verdicts)
        return _judged(outcome, ranked, opponent)

    def _verdicts(
        self, version: ModelVersion, ranked: dict[str, list[RankedTask]]
    ) -> list[Verdict]:
        ours = ranked[version.version_id]
        others = [v for v in self.store.registry.versions(MODEL) if v != version]
        looks = earlier_looks(others, ours)
        return [
            judge(version.version_id, name, ours, theirs, fit=self.config.fit, earlier_looks=looks)
            for name, theirs in ranked.items()
            if name != version.version_id
        ]

    def _too_few(self) -> dict[str, Any]:
        """No candidate: the model in service is still measured, on what there is."""
        train, holdout = self.split()
        serving = self.default if self.live == "default" else load_version(self.store, self.live)
        tasks = [*train, *holdout]
        ranked = rank_tasks(
            self._replay(tasks),
            {self.live: scorer(serving), **BASELINES},
            seed=self.config.fit.seed,
        )
        reason = (
            f"The history holds {len(tasks)} usable tasks, {len(train)} of them to learn from; "
            f"at least {MIN_TASKS} of those are needed. Until then "
            + ("the shipped model answers." if self.live == "default" else f"{self.live} answers.")
        )
        return {
            "decision": "not enough data",
            "reason": reason,
            "promoted": False,
            "candidate": None,
            "in_service": self.live,
            "verdicts": [],
            "figures": {name: measure(r) for name, r in ranked.items() if r},
            "ranked": {name: [asdict(task) for task in r] for name, r in ranked.items()},
        }

    def _report(self, judged: dict[str, Any], mined: dict[str, Any]) -> dict[str, Any]:
        ranked = {
            name: [msgspec.convert(task, RankedTask) for task in tasks]
            for name, tasks in judged["ranked"].items()
        }
        queries = {task.commit_id: task.query for task in self.tasks()}
        rows = mined["attrition"]
        columns = tuple(rows[0]) if rows else ()
        section = Section(
            title="What mining kept",
            columns=columns,
            rows=tuple(tuple(row.values()) for row in rows),
        )
        report = build_report(
            repository=self.repository.name,
            ranked=ranked,
            verdicts=[msgspec.convert(verdict, Verdict) for verdict in judged["verdicts"]],
            in_service=judged["in_service"],
            promoted=judged["promoted"],
            fit=self.config.fit,
            generated_at=time.time(),
            queries=queries,
            sections=[section],
        )
        write_report(report, self._report_path)
        return {"path": str(self._report_path), "digest": _digest_of(self._report_path)}

    # What stages share; made once, when first asked for.

    def mined(self) -> list[MinedCommit]:
        if self._mined is None:
            self._mined = mine_history(self.repository, self.store, self.config, self.progress)
        return self._mined

    def tasks(self) -> list[Task]:
        if self._tasks is None:
            self._tasks = newest_tasks(self.repository, self.mined(), self.config)
        return self._tasks

    def split(self) -> tuple[list[Task], list[Task]]:
        return split_by_time(self.tasks(), self.config.fit.holdout)

    def _replay(self, tasks: Sequence[Task]) -> Iterator[Replayed]:
        if self._timeline is None:
            self._timeline = Timeline([mined.commit for mined in self.mined()])
        return replay(
            self.repository,
            self.repository.tree,
            self.store.blobs,
            self._timeline,
            tasks,
            progress=self.progress,
        )


def _judged(
    outcome: Judgement, ranked: dict[str, list[RankedTask]], opponent: str
) -> dict[str, Any]:
    worst = min(
        (v.decision for v in outcome.verdicts if v.opponent in ("bm25", opponent)),
        key=("worse", "not enough data", "better").index,
    )
    return {
        "decision": "better" if outcome.promoted else worst,
        "reason": outcome.reason,
        "promoted": outcome.promoted,
        "candidate": outcome.version.version_id,
        "in_service": outcome.in_service,
        "verdicts": [asdict(verdict) for verdict in outcome.verdicts],
        "figures": {name: measure(tasks) for name, tasks in ranked.items()},
        "ranked": {name: [asdict(task) for task in tasks] for name, tasks in ranked.items()},
    }


def _digest_of(path: Path) -> str:
    """Names a file's content; empty where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def scorer(model: RelevanceModel) -> Scorer:
    """A model as the gate asks it."""
    return lambda task: model.scores(task.names, task.values)
