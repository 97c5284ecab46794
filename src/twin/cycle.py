"""Runs the stages in order, each one resumable: mine, tasks, index, fit, judge, report.

Owns the order, the keys by which a stage is known to be done, and what a run says at its end. A
stage leaves its result in the store; this module alone knows more than one of them. Does no work of
its own: every stage is one call into a lower room.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import msgspec

from twin import __version__
from twin.coding.digest import DIGEST_VERSION
from twin.coding.features import FEATURES_VERSION
from twin.coding.git import GitRepository
from twin.coding.history import read_history
from twin.coding.index import build_snapshot
from twin.coding.replay import Progress, Replayed, named, replay
from twin.coding.retrieve import Answer, Locator
from twin.coding.timeline import Timeline
from twin.config import Config
from twin.curate.tasks import localisation_tasks, split_by_time
from twin.errors import StoreCorrupt, StoreTooNew, UsageError
from twin.gate.chronological import BASELINES, Scorer, rank_tasks
from twin.gate.metrics import measure
from twin.gate.promote import Judgement, in_service, judge_and_promote
from twin.gate.report import Section, build_report, write_report
from twin.gate.verdict import earlier_looks, judge
from twin.observe.mine import attrition, mine
from twin.records import (
    Lineage,
    MinedCommit,
    ModelVersion,
    RankedFile,
    RankedTask,
    RetrievalDecision,
    Task,
    Verdict,
)
from twin.specialists.relevance import MODEL, RelevanceModel, default_model
from twin.store.database import Store
from twin.train.recipes import MIN_TASKS, fit_best
from twin.train.relevance import sampled

STAGES: Final = ("mine", "tasks", "index", "fit", "judge", "report")
REPORT: Final = "report.html"

Result = TypeVar("Result")


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


class Run:
    """One run of a command: its stages, timed, skipped where done before, and recorded."""

    def __init__(self, store: Store, command: str, repository: str, config: Config) -> None:
        self._store = store
        self._repository = repository
        self.run_id = store.runs.begin(command, repository, msgspec.to_builtins(config))
        self.seconds: dict[str, float] = {}
        self.skipped: list[str] = []

    def stage(
        self, name: str, key: Sequence[object], work: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """The result of a stage: recorded before under the same key, or made now."""
        digest = key_of(key)
        done = self._store.runs.finished_stage(self._repository, name, digest)
        if done is not None:
            self.seconds[name] = 0.0
            self.skipped.append(name)
            return done
        started = time.perf_counter()
        result = work()
        self.seconds[name] = round(time.perf_counter() - started, 3)
        self._store.runs.stage_done(self.run_id, name, digest, result, self.seconds[name])
        return result


@contextmanager
def running(store: Store, command: str, repository: str, config: Config) -> Iterator[Run]:
    """A run whose end is recorded, however it ends."""
    run = Run(store, command, repository, config)
    status: Literal["done", "failed", "interrupted"] = "failed"
    try:
        yield run
        status = "done"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        store.runs.finish(run.run_id, status, {"seconds": run.seconds})


def key_of(parts: Sequence[object]) -> str:
    """A short name for what a stage was made from."""
    return hashlib.sha256(msgspec.json.encode([__version__, *parts])).hexdigest()[:32]


def mine_history(repository: GitRepository, store: Store, config: Config) -> list[MinedCommit]:
    """Every mined commit up to HEAD, oldest first, from the store where it is up to date.

    New commits on top of what is stored are mined alone; a rewritten history is mined anew.
    """
    head = repository.head()
    name = _history_name(repository, config)
    known = store.history.head(name)
    if known != head:
        if known is not None and _is_ancestor(repository, known, head):
            new = mine(read_history(repository, since=known), config.mine)
            store.history.append(name, head, new)
        else:
            store.history.replace(name, head, mine(read_history(repository), config.mine))
    return store.history.commits(name)


def _history_name(repository: GitRepository, config: Config) -> str:
    """Other rules judge commits otherwise: each set of rules has a history of its own."""
    return f"{repository.name} {key_of([msgspec.to_builtins(config.mine)])[:8]}"


def _is_ancestor(repository: GitRepository, older: str, newer: str) -> bool:
    try:
        return repository.is_ancestor(older, newer)
    except UsageError:
        return False  # the old head is gone: the history was rewritten


def newest_tasks(
    repository: GitRepository, mined: Sequence[MinedCommit], config: Config
) -> list[Task]:
    """The localisation tasks of a history, the newest `max_tasks` of them, by time."""
    tasks = localisation_tasks(mined, repository.name, repository.tree)
    return tasks[-config.fit.max_tasks :]


def improve(
    repository: GitRepository,
    store: Store,
    config: Config,
    *,
    progress: Progress | None = None,
) -> Improvement:
    """Learns from the repository's past, judges on its later part, serves the winner.

    Every stage that was done before on the same commits with the same settings is skipped. Raises
    RepositoryError, StoreError.
    """
    with running(store, "improve", repository.name, config) as run:
        return _Improve(repository, store, config, run, progress).result()


class _Improve:
    """One run of `improve`: the stages as methods, what they share as attributes."""

    def __init__(
        self,
        repository: GitRepository,
        store: Store,
        config: Config,
        run: Run,
        progress: Progress | None,
    ) -> None:
        self.repository, self.store, self.config = repository, store, config
        self.run, self.progress = run, progress
        self.head = repository.head()
        self.default = default_model()
        self.live = in_service(store.registry, MODEL)
        self._mined: list[MinedCommit] | None = None
        self._tasks: list[Task] | None = None
        self._timeline: Timeline | None = None

    def result(self) -> Improvement:
        settings = msgspec.to_builtins(self.config)
        past = [self.head, settings["mine"]]
        mined = self.run.stage("mine", past, self._mine)
        learning = [*past, settings["fit"], DIGEST_VERSION, FEATURES_VERSION]
        tasks = self.run.stage("tasks", learning, self._count_tasks)
        self.run.stage("index", [self.head, DIGEST_VERSION], self._index)
        fitted: dict[str, Any] = {"version": None, "recipe": ""}
        judged: dict[str, Any] = {}
        if tasks["train"] >= MIN_TASKS:
            default = hashlib.sha256(self.default.to_bytes()).hexdigest()
            fitted = self.run.stage("fit", [*learning, default], self._fit)
            judged = self.run.stage(
                "judge", [*learning, fitted["version"], self.live], lambda: self._judge(fitted)
            )
        else:
            judged = self.run.stage("judge", [*learning, "default"], self._too_few)
        path = str(self.store.folder / REPORT)
        self.run.stage(
            "report",
            [*learning, fitted["version"], judged["in_service"], Path(path).exists()],
            lambda: self._report(judged, mined),
        )
        return Improvement(
            repository=self.repository.name,
            head=self.head,
            decision=judged["decision"],
            reason=judged["reason"],
            promoted=judged["promoted"],
            candidate=fitted["version"],
            in_service=in_service(self.store.registry, MODEL),
            num_commits=mined["commits"],
            num_tasks=tasks["train"] + tasks["holdout"],
            num_train=tasks["train"],
            num_holdout=tasks["holdout"],
            figures=judged["figures"],
            verdicts=tuple(judged["verdicts"]),
            recipe=fitted["recipe"],
            report=path,
            seconds=self.run.seconds,
            skipped=tuple(self.run.skipped),
        )

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
        version = self.store.registry.add(
            model=MODEL,
            artifact=self.store.artifacts.put(fitted.model.to_bytes()),
            lineage=Lineage(
                code_version=__version__,
                dataset_hash=key_of([[task.commit_id, task.query, task.targets] for task in train]),
                config=msgspec.to_builtins(self.config.fit) | {"recipe": fitted.recipe},
                seed=self.config.fit.seed,
                parent_version=self.live,
            ),
            metrics={"inner": fitted.inner, "num_train": len(rows)},
        )
        return {"version": version.version_id, "recipe": fitted.recipe, "inner": fitted.inner}

    def _judge(self, fitted: dict[str, Any]) -> dict[str, Any]:
        version = self.store.registry.get(fitted["version"])
        model = RelevanceModel.from_bytes(self.store.artifacts.get(version.artifact))
        scorers: dict[str, Scorer] = {version.version_id: scorer(model), **BASELINES}
        scorers["default"] = scorer(self.default)
        if self.live != "default":
            scorers[self.live] = scorer(load_version(self.store, self.live))
        _, holdout = self.split()
        ranked = rank_tasks(self._replay(holdout), scorers, seed=self.config.fit.seed)
        verdicts = self._verdicts(version, ranked)
        outcome = judge_and_promote(self.store.registry, version, verdicts)
        return _judged(outcome, ranked)

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
            f"The history has {len(tasks)} usable tasks, {len(train)} of them to learn from; "
            f"{MIN_TASKS} are needed. Until then "
            + ("the shipped model answers." if self.live == "default" else f"{self.live} answers.")
        )
        return {
            "decision": "not enough data",
            "reason": reason,
            "promoted": False,
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
        path = self.store.folder / REPORT
        write_report(report, path)
        return {"path": str(path)}

    # What stages share; made once, when first asked for.

    def mined(self) -> list[MinedCommit]:
        if self._mined is None:
            self._mined = mine_history(self.repository, self.store, self.config)
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


def _judged(outcome: Judgement, ranked: dict[str, list[RankedTask]]) -> dict[str, Any]:
    worst = min(
        (v.decision for v in outcome.verdicts if v.opponent in ("bm25", outcome.in_service)),
        key=("worse", "not enough data", "better").index,
        default="better",
    )
    return {
        "decision": "better" if outcome.promoted else worst,
        "reason": outcome.reason,
        "promoted": outcome.promoted,
        "in_service": outcome.in_service,
        "verdicts": [asdict(verdict) for verdict in outcome.verdicts],
        "figures": {name: measure(tasks) for name, tasks in ranked.items()},
        "ranked": {name: [asdict(task) for task in tasks] for name, tasks in ranked.items()},
    }


def scorer(model: RelevanceModel) -> Scorer:
    """A model as the gate asks it."""
    return lambda task: model.scores(task.names, task.values)


def load_version(store: Store, version_id: str) -> RelevanceModel:
    """The model behind a version id. Raises UnknownVersion, StoreCorrupt, StoreTooNew."""
    version = store.registry.get(version_id)
    return RelevanceModel.from_bytes(store.artifacts.get(version.artifact))


def model_in_service(store: Store) -> tuple[str, RelevanceModel, str]:
    """(version id or `default`, the model, a notice or nothing).

    Where the live version cannot be read by this program the shipped model answers, and the notice
    says so: an answer from the wrong features would be worse than a plain one.
    """
    serving = in_service(store.registry, MODEL)
    if serving == "default":
        return serving, default_model(), ""
    try:
        model = load_version(store, serving)
    except (StoreCorrupt, StoreTooNew) as error:
        return "default", default_model(), f"{serving} cannot be used: {error}"
    if model.features_version != FEATURES_VERSION:
        notice = (
            f"{serving} was made by another version of this program, so the shipped model "
            "answers. Run `twin improve` to learn again."
        )
        return "default", default_model(), notice
    return serving, model, ""


def ready_locator(
    repository: GitRepository,
    store: Store,
    config: Config,
    *,
    progress: Progress | None = None,
) -> Locator:
    """A locator for HEAD, after reading whatever is new since the last time."""
    mined = mine_history(repository, store, config)
    head = repository.head()
    return Locator.at(
        repository,
        repository.tree(head),
        store.blobs,
        [one.commit for one in mined],
        head,
        progress,
    )


def record_answer(store: Store, repository: str, version: str, answer: Answer) -> None:
    """Writes down what was asked and answered: the next round's evidence."""
    store.decisions.add(
        RetrievalDecision(
            repository=repository,
            commit_id=answer.commit_id,
            query=answer.task,
            version=version,
            ranked=tuple(
                RankedFile(
                    path=file.path,
                    score=file.score,
                    reason="; ".join(reason.text for reason in file.reasons),
                )
                for file in answer.files
            ),
            seconds=answer.seconds,
        )
    )
