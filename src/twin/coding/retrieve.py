"""Answers "which files and symbols does this task touch?" for one commit of a repository.

Task analysis, scope, then precision: the words of the task and a row of features per file, a
model's ranking with its reasons, and inside the chosen files the symbols by tier. Owns the answer;
the model comes from the caller, contents from `corpus`, the past from `timeline`. Writes nothing.
"""

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from twin.coding.corpus import Corpus, Scene
from twin.coding.digest import digests
from twin.coding.evidence import Words, evidence, rarity, relevance
from twin.coding.features import FEATURES_VERSION, Matrix, Moment, Question, features
from twin.coding.index import Blobs, Cache, parsed_blobs
from twin.coding.languages import language_of
from twin.coding.lexical import Floats, Ints, View
from twin.coding.precision import LocatedSymbol, WordPlaces, located_symbols
from twin.coding.progress import Progress, named
from twin.coding.reasons import Reason, reasons_for
from twin.coding.timeline import Timeline
from twin.errors import RepositoryError, UsageError
from twin.records import Commit, ParsedFile

MAX_QUESTION: Final = 20_000
"""Characters of a task that are read; longer ones are pasted logs."""

SYMBOL_FILES: Final = 5
"""In how many of the best files symbols are looked for."""

SHORTLIST: Final = 200
"""Files that are scored in full; the rest cannot come near the top (`RelevanceModel.shortlist`)."""

KEPT_FILES: Final = 256
"""Files whose words are kept between questions: some 100 MB at most in a large repository."""


class Model(Protocol):
    """What ranks: `specialists.RelevanceModel` is one."""

    def fits(self, features_version: int, names: tuple[str, ...]) -> bool: ...
    def scores(self, names: tuple[str, ...], values: Matrix) -> Floats: ...
    def shortlist(self, names: tuple[str, ...], values: Matrix, size: int) -> Ints: ...
    def contributions(self, names: tuple[str, ...], values: Matrix) -> list[dict[str, float]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LocatedFile:
    """One file of an answer; the list's order is the rank."""

    path: str
    score: float
    share: float
    """Softmax of the scores over all candidates: how the model splits its belief; uncalibrated."""
    reasons: tuple[Reason, ...]
    symbols: tuple[LocatedSymbol, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one task was answered."""

    task: str
    """What was read of it: at most `MAX_QUESTION` characters."""
    commit_id: str
    num_candidates: int
    num_source_files: int
    files: tuple[LocatedFile, ...]
    seconds: float


class Locator:
    """One commit of one repository, ready to answer. Build once, ask often."""

    def __init__(
        self,
        *,
        repository: Blobs,
        commit_id: str,
        corpus: Corpus,
        files: Mapping[str, str],
        parsed: Mapping[str, ParsedFile],
        timeline: Timeline,
    ) -> None:
        """`files`: path to blob id; `parsed`: blob id to what the parser found in it."""
        self._repository = repository
        self._parsed = parsed
        self.commit_id = commit_id
        self._timeline = timeline
        self._scene = Scene(corpus, files)
        self._words: OrderedDict[str, WordPlaces] = OrderedDict()

    @classmethod
    def at(
        cls,
        repository: Blobs,
        tree: Mapping[str, str],
        cache: Cache,
        commits: Sequence[Commit],
        commit_id: str,
        progress: Progress | None = None,
    ) -> "Locator":
        """The locator for `commit_id`, whose files are `tree` and whose past is `commits`.

        Raises RepositoryError where no file is in a language that the index reads.
        """
        files = {path: blob for path, blob in tree.items() if language_of(path) is not None}
        if not files:
            raise RepositoryError(
                "There is no source file in a language that the index reads (Python, JavaScript, "
                "TypeScript, Go, Rust, Java, C, C++). Point twin at a repository with one."
            )
        wanted = {blob: language_of(path) or "" for path, blob in files.items()}
        corpus = Corpus(digests(repository, cache, wanted, named(progress, "reading files")))
        return cls(
            repository=repository,
            commit_id=commit_id,
            corpus=corpus,
            files=files,
            parsed=parsed_blobs(repository, cache, wanted),
            timeline=Timeline(commits),
        )

    def locate(
        self,
        task: str,
        model: Model,
        *,
        limit: int = 10,
        author: str = "",
        now: int | None = None,
        explain: bool = True,
        with_symbols: bool = True,
    ) -> Answer:
        """The most relevant files for `task`, best first.

        `author`: the e-mail of the one who asks, whose recent files count more. `now`: Unix time.
        Raises UsageError for a task without a word, ValueError for a model with other features.
        """
        started = time.perf_counter()
        task = task.lstrip()[:MAX_QUESTION]
        question = Question(task.rstrip())
        if not len(question.terms):
            raise UsageError("The task has no word to search for. Describe it in a sentence.")
        moment = Moment(
            position=self._timeline.num_commits,
            time=int(time.time()) if now is None else now,
            author=self._timeline.author_number(author) if author else -1,
        )
        names, values = features(question, self._scene, self._timeline, moment)
        if not model.fits(FEATURES_VERSION, names):
            raise ValueError("The model reads other features than this version makes.")
        listed = model.shortlist(names, values, max(SHORTLIST, 2 * limit))
        scores = np.full(len(values), -np.inf)
        scores[listed] = model.scores(names, values[listed])
        best = np.argsort(-scores, kind="stable")[:limit]
        odds = np.exp(scores - scores.max())
        reasons: list[tuple[Reason, ...]] = [()] * len(best)
        if explain:
            reasons = self._reasons(question, model, names, values, best)
        symbols: Mapping[str, tuple[LocatedSymbol, ...]] = {}
        if with_symbols:
            symbols = self._symbols(question, best[:SYMBOL_FILES])
        files = tuple(
            LocatedFile(
                path=self._scene.paths[file],
                score=float(scores[file]),
                share=float(odds[file] / odds.sum()),
                reasons=reasons[place],
                symbols=symbols.get(self._scene.paths[file], ()),
            )
            for place, file in enumerate(best)
        )
        return Answer(
            task=task,
            commit_id=self.commit_id,
            num_candidates=self._scene.size,
            num_source_files=self._scene.num_source_files,
            files=files,
            seconds=time.perf_counter() - started,
        )

    def relevance(self, words: Words) -> dict[str, float]:
        """How much each file is about a request, in [0, 1], by its best window or by its path;
        files that hold none of the words left out. Comparable between requests, unlike scores."""
        if not len(words):
            return {}
        scene = self._scene
        windows = scene.match_windows(words.terms)
        amount = scene.best_window(evidence(windows, rarity(windows)))
        everything = View(np.arange(scene.size), scene.size)
        paths = scene.path_postings.match(words.terms, everything)
        relevant = relevance(np.maximum(amount, evidence(paths, rarity(paths))))
        return {scene.paths[at]: float(relevant[at]) for at in np.flatnonzero(relevant)}

    def _reasons(
        self,
        question: Question,
        model: Model,
        names: tuple[str, ...],
        values: Matrix,
        best: Ints,
    ) -> list[tuple[Reason, ...]]:
        given = model.contributions(names, values[best])
        return [
            reasons_for(
                question,
                self._scene,
                int(file),
                shares,
                dict(zip(names, values[file].tolist(), strict=True)),
            )
            for file, shares in zip(best, given, strict=True)
        ]

    def _symbols(self, question: Question, best: Ints) -> dict[str, tuple[LocatedSymbol, ...]]:
        blobs = {path: self._scene.files[path] for path in (self._scene.paths[at] for at in best)}
        parsed = {path: self._parsed[blob] for path, blob in blobs.items() if blob in self._parsed}
        return located_symbols(question, self._words_of(blobs), parsed)

    def texts(self, paths: Sequence[str]) -> dict[str, str]:
        """The text of each path that can be read, as it is at this commit."""
        blobs = {path: self._scene.files[path] for path in paths}
        found = dict(self._repository.blobs(sorted(set(blobs.values()))))
        return {
            path: data.decode("utf-8", "surrogateescape")
            for path, blob in blobs.items()
            if (data := found.get(blob)) is not None
        }

    def _words_of(self, blobs: Mapping[str, str]) -> dict[str, WordPlaces]:
        """Where the words stand in each file; the files asked for lately are kept."""
        fresh = [path for path, blob in blobs.items() if blob not in self._words]
        for path, text in self.texts(fresh).items():
            self._words[blobs[path]] = WordPlaces(text)
        for blob in blobs.values():
            if blob in self._words:
                self._words.move_to_end(blob)
        while len(self._words) > KEPT_FILES:
            self._words.popitem(last=False)
        return {path: self._words[blob] for path, blob in blobs.items() if blob in self._words}
