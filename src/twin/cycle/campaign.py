"""A campaign: tasks from proved commits, solved by a planner and an executor, graded by the proof.

For every valid commit of a pack, as often as there are temperatures: index the parent and retrieve
with the message as the task, plan, carry out, validate. The pipeline is the one that answers users
(`coding.retrieve`, `coding.context`). Each finished step is in the store before the next begins, by
the process that did it, so a campaign that was killed goes on at the exact step. Knows the seams,
not who is behind them.
"""

import itertools
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from twin.coding.alignment import alignment
from twin.coding.changed import Sides, plan_of
from twin.coding.context import ContextPackage
from twin.coding.plan import Plan
from twin.coding.progress import Progress
from twin.coding.sandbox.cell import open_sandbox
from twin.coding.solve import EXECUTORS, PLANNERS, Assignment, Edits, Knowledge
from twin.coding.testing.trees import Tree
from twin.config import Config
from twin.curate.tasks import clean_query
from twin.cycle.answers import context_before
from twin.cycle.harness import PackPlace, Validated, read_commit, sides_of, validate_pack
from twin.cycle.workers import spread
from twin.errors import BadPlan
from twin.observe.manifest import read_manifest
from twin.observe.validate import Breadth, Validator
from twin.records import Commit, SandboxLevel, Validation
from twin.store.answers import lookup_of
from twin.store.database import Store
from twin.store.trials import Result, Steps

STEPS: Final = ("retrieve", "plan", "execute", "validate")
VERSION: Final = 2
"""Of what a step's result means; a new one does everything again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One attempt at one commit."""

    commit_id: str
    number: int
    temperature: float
    is_solved: bool
    """Every test of the commit's proof passes."""
    why: str
    """Why not, in a word: `bad_plan`, `tests_fail`, `error`; empty where it is solved."""
    detail: str
    alignment: float
    """Of its plan with the true change; 0 without a plan."""
    num_failed: int
    seconds: dict[str, float]
    """By step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """What a campaign came to."""

    campaign: str
    pack: str
    planner: str
    executor: str
    num_commits: int
    """Commits of the pack that were looked at; trials are of the valid ones."""
    num_valid: int
    num_won: int
    """Valid only by generated tests."""
    num_solved: int
    why: dict[str, int]
    mean_alignment: float | None
    seconds: float
    refused: dict[str, str]
    """Machines of a cluster that could not take part, and why."""
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class _Asked:
    """What a worker is told once."""

    campaign: str
    pack: PackPlace
    config: Config
    planner: str
    executor: str
    script: Path | None
    breadth: Breadth
    level: SandboxLevel | None


@dataclass(frozen=True)
class _Item:
    proof: Validation
    number: int
    temperature: float


def run_campaign(
    folder: Path,
    store: Store,
    config: Config,
    *,
    planner: str,
    executor: str,
    temperatures: Sequence[float] = (0.0,),
    script: Path | None = None,
    workers: int | None = 1,
    ray: str = "",
    newest: int | None = None,
    breadth: Breadth = "targeted",
    supplemented: bool = False,
    level: SandboxLevel | None = None,
    progress: Progress | None = None,
) -> Campaign:
    """Solves the valid commits of a pack; commits not validated yet are validated first.

    `supplemented`: also those that only generated tests prove, as far as they were looked for.
    Raises KeyError for an unknown planner or executor, UsageError for a script that cannot be read.
    """
    started = time.monotonic()
    # Before anything takes time: are they there, and can they begin?
    for made in (PLANNERS[planner], EXECUTORS[executor]):
        made(Knowledge(truth=lambda task_id: [], script=script))
    place = store.folder / "environments"
    found = validate_pack(
        folder, store, place, workers=workers, ray=ray, newest=newest, breadth=breadth,
        level=level, progress=progress,
    )  # fmt: skip
    won = _won(found, store) if supplemented else {}
    told = script.read_text(errors="replace") if script else ""
    # Another proof is another question: what was graded by the one says nothing of the other.
    tests = sorted(digest for proof in won.values() for digest in proof.generated.values())
    campaign = lookup_of(
        VERSION, found.pack, planner, executor, told, breadth, *temperatures, *tests
    )[:32]
    asked = _Asked(
        campaign=campaign,
        pack=PackPlace.of(folder, place, read_manifest(folder).checksum),
        config=config,
        planner=planner,
        executor=executor,
        script=script,
        breadth=breadth,
        level=level,
    )
    own = ((lookup, one) for lookup, one in found.validations.items() if one.is_valid)
    wanted = {
        (proof.commit_id, number): (lookup, temperature)
        for lookup, proof in itertools.chain(own, won.items())
        for number, temperature in enumerate(temperatures)
    }
    known = {(one.commit_id, one.number) for one in store.trials.every(campaign) if _is_over(one)}
    tell = progress or (lambda what, done, total: None)
    refused = spread(
        store,
        partial(_Solving, asked),
        (
            (lookup_of(campaign, *key), {"proof": proof, "number": key[1], "temperature": warmth})
            for key, (proof, warmth) in wanted.items()
            if key not in known
        ),
        workers,
        tell=lambda left: tell("solving", len(wanted) - left, len(wanted)),
        ray=ray,
    )
    ended = {
        (one.commit_id, one.number): _trial(one, wanted[one.commit_id, one.number][1])
        for one in store.trials.every(campaign)
        if (one.commit_id, one.number) in wanted
    }
    everything = tuple(ended[key] for key in wanted)
    return Campaign(
        campaign=campaign,
        pack=found.pack,
        planner=planner,
        executor=executor,
        num_commits=found.num_commits,
        num_valid=found.num_valid,
        num_won=len(won),
        num_solved=sum(trial.is_solved for trial in everything),
        why=dict(Counter(trial.why for trial in everything if trial.why).most_common()),
        mean_alignment=statistics.fmean(t.alignment for t in everything) if everything else None,
        seconds=time.monotonic() - started,
        refused=found.refused | refused,
        trials=everything,
    )


def _won(found: Validated, store: Store) -> dict[str, Validation]:
    """Proofs by generated tests of commits that have none of their own, by the question that they
    answer; the newest of each."""
    wanted = {one.commit_id: one.environment for one in found.validations if not one.is_valid}
    newest = {
        one.commit_id: (lookup, one.proof)
        for lookup, one in store.supplements.of_pack(found.pack).items()
        if one.proof and wanted.get(one.commit_id) == one.environment
    }
    return dict(newest.values())


class _Solving:
    """Solves tasks of one pack, in one process."""

    def __init__(self, asked: _Asked, store: Store) -> None:
        self._asked = asked
        self._store = store
        self._packed = asked.pack.opened()
        self._repository = self._packed.repository()
        self._sandbox = open_sandbox(asked.level)
        knowledge = Knowledge(truth=self._truth, script=asked.script)
        self._planner = PLANNERS[asked.planner](knowledge)
        self._executor = EXECUTORS[asked.executor](knowledge)

    def answer(self, told: Any) -> None:
        item = self._item(told)
        commit = read_commit(self._repository, item.proof.commit_id)
        done = self._store.trials.finished(self._asked.campaign, item.proof.commit_id, item.number)
        work: dict[str, Callable[[], Result]] = {
            "retrieve": lambda: self._retrieve(item, commit),
            "plan": lambda: self._plan(item, commit, done["retrieve"]),
            "execute": lambda: self._execute(item, commit, done),
            "validate": lambda: self._validate(item, commit, done["execute"]),
        }
        for step in STEPS:
            if step not in done:
                started = time.monotonic()
                done[step] = work[step]()
                self._keep(item, step, done[step], time.monotonic() - started)

    def failure(self, told: Any, reason: str) -> None:
        self._keep(self._item(told), "validate", {"why": "error", "detail": reason}, 0.0)

    def close(self) -> None:
        self._repository.close()

    def _item(self, told: Any) -> _Item:
        lookup = told["proof"]
        proof = self._store.validations.known([lookup]).get(lookup)
        if proof is None:
            proof = self._store.supplements.known([lookup])[lookup].proof
            assert proof is not None
        return _Item(proof, told["number"], told["temperature"])

    def _keep(self, item: _Item, step: str, result: Result, seconds: float) -> None:
        self._store.trials.add(
            campaign=self._asked.campaign,
            pack=self._repository.name,
            commit_id=item.proof.commit_id,
            number=item.number,
            step=step,
            result=result,
            seconds=seconds,
        )

    def _retrieve(self, item: _Item, commit: Commit) -> Result:
        """What a user would have been shown; and, as the first step of a trial, who tries."""
        package, files = context_before(self._repository, self._store, self._asked.config, commit)
        return {
            "context": self._store.artifacts.put(msgspec.json.encode(package)),
            "num_tokens": package.num_tokens,
            "files": files,
            "planner": self._asked.planner,
            "executor": self._asked.executor,
            "temperature": item.temperature,
        }

    def _assignment(self, item: _Item, commit: Commit, retrieved: Result) -> Assignment:
        stored = self._store.artifacts.get(retrieved["context"])
        return Assignment(
            task_id=commit.commit_id,
            query=_query(commit),
            parent_id=commit.parent_ids[0],
            context=msgspec.json.decode(stored, type=ContextPackage),
            temperature=item.temperature,
        )

    def _plan(self, item: _Item, commit: Commit, retrieved: Result) -> Result:
        try:
            plan = self._planner.plan(self._assignment(item, commit, retrieved))
        except BadPlan as error:
            return {"plan": None, "detail": str(error), "alignment": 0.0}
        fit = alignment(plan, plan_of(self._truth(commit.commit_id)))
        return {
            "plan": msgspec.to_builtins(plan),
            "alignment": fit.score,
            "files": fit.files,
            "symbols": fit.symbols,
            "order": fit.order,
        }

    def _execute(self, item: _Item, commit: Commit, done: dict[str, Result]) -> Result:
        if done["plan"]["plan"] is None:
            return {"edits": None}
        plan = msgspec.convert(done["plan"]["plan"], Plan)
        made = self._executor.execute(plan, self._assignment(item, commit, done["retrieve"]))
        return {"edits": self._store.artifacts.put(msgspec.msgpack.encode(dict(made)))}

    def _validate(self, item: _Item, commit: Commit, executed: Result) -> Result:
        if executed["edits"] is None:
            return {"why": "bad_plan"}
        stored = self._store.artifacts.get(executed["edits"])
        edits: Edits = msgspec.msgpack.decode(stored, type=dict[str, bytes | None])
        code = Tree(self._repository.archive(commit.parent_ids[0])).with_edits(edits)
        validator = Validator(
            self._repository,
            self._sandbox,
            self._packed.environment(item.proof.environment),
            breadth=self._asked.breadth,
        )
        added = {
            path: self._store.artifacts.get(digest) for path, digest in item.proof.generated.items()
        }
        failed = validator.grade(commit, item.proof, code, added)
        return {"why": "tests_fail" if failed else "", "failed": failed}

    def _truth(self, task_id: str) -> Sequence[Sides]:
        return sides_of(self._repository, read_commit(self._repository, task_id))


def _query(commit: Commit) -> str:
    return clean_query(commit.subject, commit.body)


def _is_over(steps: Steps) -> bool:
    return STEPS[-1] in steps.results


def _trial(steps: Steps, temperature: float) -> Trial:
    plan, last = steps.results.get("plan", {}), steps.results["validate"]
    return Trial(
        commit_id=steps.commit_id,
        number=steps.number,
        temperature=temperature,
        is_solved=not last["why"],
        why=last["why"],
        detail=last.get("detail") or plan.get("detail") or "",
        alignment=plan.get("alignment", 0.0),
        num_failed=len(last.get("failed", ())),
        seconds=steps.seconds,
    )
