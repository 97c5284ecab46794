"""What is known of one commit, brought together for `curate.pairs`: the repository before and after
it, what was retrieved at its parent, the trials. Reads the store and the repository; makes no
pairs."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

import msgspec

from twin.coding.changed import plan_of
from twin.coding.context import ContextPackage
from twin.coding.git import GitRepository
from twin.coding.index import build_snapshot
from twin.coding.languages import language_of
from twin.coding.paths import role_of
from twin.coding.plan import Plan
from twin.config import Config
from twin.curate.pairs.facts import Facts, PlantedFault, TriedPlan
from twin.curate.pairs.making import CODE_VERSION
from twin.curate.tasks import clean_query
from twin.cycle.answers import context_before
from twin.cycle.harness import all_sides_of
from twin.errors import RepositoryError, StoreCorrupt, UsageError
from twin.records import Commit, Mutant, Validation
from twin.store.database import Store
from twin.store.trials import Steps


class FactFinder:
    """Facts of one repository's commits."""

    def __init__(self, repository: GitRepository, store: Store, config: Config) -> None:
        self._repository = repository
        self._store = store
        self._config = config

    def of(
        self,
        commit: Commit,
        validation: Validation | None,
        trials: Sequence[Steps],
        mutants: Sequence[Mutant],
    ) -> Facts | str:
        """What is known of a commit, or why it is no task."""
        (parent_id,) = commit.parent_ids
        task = clean_query(commit.subject, commit.body)
        if not any(char.isalpha() for char in task):
            return "no_task"
        if not any(language_of(path) for path in self._repository.tree(parent_id)):
            return "nothing_to_retrieve"
        try:
            context_id, context, candidates = self._retrieved(commit, trials)
        except RepositoryError:
            raise
        except UsageError:
            return "no_task"
        sides = all_sides_of(self._repository, commit)
        code = [side for side in sides if role_of(side.change.path) != "test"]
        solved, mute = self._tried(trials)
        return Facts(
            repository=self._repository.name,
            commit=commit,
            task=task,
            validation=validation,
            sides=code,
            test_sides=[side for side in sides if role_of(side.change.path) == "test"],
            parent=build_snapshot(self._repository, self._store.blobs, parent_id),
            after=build_snapshot(self._repository, self._store.blobs, commit.commit_id),
            plan=plan_of(code),
            context=context,
            context_id=context_id,
            candidates=candidates,
            trials=solved,
            mute_trials=mute,
            faults=list(self._faults(commit, mutants)),
            code_version=CODE_VERSION,
        )

    def _retrieved(
        self, commit: Commit, trials: Sequence[Steps]
    ) -> tuple[str, ContextPackage, list[str]]:
        """What most trials were shown at the parent; without trials, what one would be shown."""
        steps = [trial.results["retrieve"] for trial in trials if "retrieve" in trial.results]
        for context_id, _ in Counter(step["context"] for step in steps).most_common():
            try:
                context = msgspec.json.decode(
                    self._store.artifacts.get(context_id), type=ContextPackage
                )
            except StoreCorrupt:
                continue
            if context.commit_id == commit.parent_ids[0]:
                files = next(step["files"] for step in steps if step["context"] == context_id)
                return context_id, context, files
        context, files = context_before(self._repository, self._store, self._config, commit)
        return self._store.artifacts.put(msgspec.json.encode(context)), context, files

    def _tried(
        self, trials: Sequence[Steps]
    ) -> tuple[list[TriedPlan], Counter[str]]:  # fmt: skip
        """The finished trials with a plan, and why the others say nothing."""
        found: list[TriedPlan] = []
        mute: Counter[str] = Counter()
        for trial in trials:
            if "validate" not in trial.results:
                continue  # it is still under way, or was killed
            why = trial.results["validate"]["why"]
            if why not in ("", "tests_fail"):
                mute[why] += 1
                continue
            found.append(
                TriedPlan(
                    campaign=trial.campaign,
                    number=trial.number,
                    context_id=trial.results["retrieve"]["context"],
                    is_solved=not why,
                    alignment=trial.results["plan"]["alignment"],
                    plan=msgspec.convert(trial.results["plan"]["plan"], Plan),
                    edits=partial(self._edits, trial.results["execute"]["edits"]),
                )
            )
        return found, mute

    def _faults(self, commit: Commit, mutants: Sequence[Mutant]) -> Iterator[PlantedFault]:
        """Those whose files can be read."""
        if not mutants:
            return
        tree = self._repository.tree(commit.commit_id)
        blobs = {mutant.path: tree[mutant.path] for mutant in mutants if mutant.path in tree}
        contents = dict(self._repository.blobs(sorted({*blobs.values()})))
        for mutant in mutants:
            whole = contents.get(blobs.get(mutant.path, ""))
            with contextlib.suppress(StoreCorrupt):
                if whole is not None:
                    faulty = self._store.artifacts.get(mutant.artifact)
                    yield PlantedFault(mutant=mutant, faulty=faulty, whole=whole)

    def _edits(self, artifact: str) -> dict[str, bytes | None]:
        stored = self._store.artifacts.get(artifact)
        return msgspec.msgpack.decode(stored, type=dict[str, bytes | None])
