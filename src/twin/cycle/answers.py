"""Answers by the model in service: which files and symbols a task touches, and their text.

Owns which model answers and that every answer is written down. What is new in the repository is
read first (`past`); nothing is learnt here.
"""

from dataclasses import dataclass

import numpy as np

from twin.coding.context import ContextPackage, pack_context
from twin.coding.features import FEATURES_VERSION
from twin.coding.git import GitRepository
from twin.coding.gitprocess import ask
from twin.coding.history import read_history
from twin.coding.progress import Progress
from twin.coding.retrieve import Answer, Locator
from twin.config import Config
from twin.curate.tasks import clean_query
from twin.cycle.past import mine_history, require_sources
from twin.errors import StoreCorrupt, StoreTooNew, UsageError
from twin.gate.promote import in_service
from twin.records import Commit, RankedFile, RetrievalDecision
from twin.specialists.relevance import MODEL, RelevanceModel, default_model
from twin.store.database import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """What `twin locate` answers."""

    repository: str
    version: str
    """The model version that ranked, or `default` for the model in the package."""
    notice: str
    """Why another version than the live one answered; empty as a rule."""
    answer: Answer


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
        return "default", default_model(), f"The shipped model answers, not {serving}: {error}"
    if model.features_version != FEATURES_VERSION:
        notice = (
            f"{serving} was made by another version of this program, so the shipped model "
            "answers. Run `twin improve` to learn again."
        )
        return "default", default_model(), notice
    return serving, model, ""


def usable_in_service(store: Store) -> str:
    """The version in service; one that this program cannot use is retired first, since `locate`
    answers with the shipped model then, and that is what a candidate must beat."""
    usable, _, notice = model_in_service(store)
    live = in_service(store.registry, MODEL)
    if usable != live:
        store.registry.move(live, "retired", notice)
    return usable


def ready_locator(
    repository: GitRepository,
    store: Store,
    config: Config,
    *,
    progress: Progress | None = None,
) -> Locator:
    """A locator for HEAD, after reading whatever is new since the last time."""
    mined = mine_history(repository, store, config, progress)
    head = repository.head()
    return Locator.at(
        repository,
        repository.tree(head),
        store.blobs,
        [one.commit for one in mined],
        head,
        progress,
    )


def locate(
    repository: GitRepository,
    store: Store,
    config: Config,
    task: str,
    *,
    limit: int = 10,
    with_symbols: bool = True,
    progress: Progress | None = None,
) -> Located:
    """Which files and symbols of HEAD the task touches, by the model in service; written down.

    Raises UsageError for a task without a word, RepositoryError where there is no source file.
    """
    require_sources(repository)
    locator = ready_locator(repository, store, config, progress=progress)
    version, model, notice = model_in_service(store)
    # LightGBM takes a third of a second to load; the answer's time is that of ranking alone.
    model.scores(model.features, np.zeros((1, len(model.features)), np.float32))
    answer = locator.locate(
        task, model, limit=limit, author=author_of(repository), with_symbols=with_symbols
    )
    record_answer(store, repository.name, version, answer)
    return Located(repository=repository.name, version=version, notice=notice, answer=answer)


def context(
    repository: GitRepository,
    store: Store,
    config: Config,
    task: str,
    *,
    budget_tokens: int | None = None,
    progress: Progress | None = None,
) -> tuple[Located, ContextPackage]:
    """The text of what `locate` finds, within a budget: by default what the window leaves."""
    given = config.context.window_tokens - config.context.reserve_tokens
    located = locate(repository, store, config, task, progress=progress)
    texts = _texts(repository, located.answer)
    budget = given if budget_tokens is None else budget_tokens
    package = pack_context(located.answer, texts, budget_tokens=budget)
    if package.num_tokens > budget:
        raise UsageError(
            f"A budget of {budget} tokens does not even hold the task. Give at least "
            f"{package.num_tokens}."
        )
    return located, package


def context_before(
    repository: GitRepository, store: Store, config: Config, commit: Commit
) -> tuple[ContextPackage, list[str]]:
    """What a user would have been shown at a commit's parent who asked for what its message says:
    the text, and the files that were found, best first.

    Only earlier commits are read. Raises UsageError for a message without a word.
    """
    parent = commit.parent_ids[0]
    past = list(read_history(repository, revision=parent))
    locator = Locator.at(repository, repository.tree(parent), store.blobs, past, parent)
    _, model, _ = model_in_service(store)
    answer = locator.locate(
        clean_query(commit.subject, commit.body),
        model,
        author=commit.author_email,
        now=commit.commit_time,
        explain=False,
    )
    paths = [file.path for file in answer.files]
    budget = config.context.window_tokens - config.context.reserve_tokens
    return pack_context(answer, locator.texts(paths), budget_tokens=budget), paths


def _texts(repository: GitRepository, answer: Answer) -> dict[str, str]:
    """The text of the answer's files at its commit, of those that can be read."""
    tree = repository.tree(answer.commit_id)
    blobs = {file.path: tree[file.path] for file in answer.files}
    data = {blob: data for blob, data in repository.blobs(set(blobs.values())) if data is not None}
    return {
        path: data[blob].decode("utf-8", "surrogateescape")
        for path, blob in blobs.items()
        if blob in data
    }


def author_of(repository: GitRepository) -> str:
    """The e-mail that git would sign a commit with here; empty where none is set."""
    return ask(repository.root, "config", "--get", "user.email").text.strip()


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
