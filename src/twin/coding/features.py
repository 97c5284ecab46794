"""From a task and a moment to one row of numbers per file: what the relevance model reads.

Five families, each its own function: what the files say (lexical), what the past says about this
task (messages), what was worked on lately (activity), how the files hang together (structure), and
what kind of task it is. Every score is scaled within its task, because a ranker compares files of
one task. Nothing here sees the task's own commit: the scene is the tree before it, and the timeline
is cut at it. Owns no model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from twin.coding.corpus import PathText, Scene
from twin.coding.lexical import Floats, Ints, View, scaled, weighted_counts
from twin.coding.text import WORD, count_terms, hash_of, is_compound, split_word, whole
from twin.coding.timeline import Timeline

FEATURES_VERSION: Final = 1
"""Raise with every change of the list or the meaning: older models then no longer fit."""

UNTOUCHED: Final = 5_000.0
"""Age in commits of a file that was never touched."""

RECENT: Final = 60
"""How many commits back a chain of related commits is followed."""

Matrix = NDArray[np.float32]


class Question:
    """A task's words as terms: the subject line, all of it, and the names it mentions."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.subject = text.partition("\n")[0]
        everything, subject = count_terms(text), count_terms(self.subject)
        self.terms: Ints = np.fromiter(everything, np.int64, len(everything))
        counts = np.fromiter(everything.values(), np.float64, len(everything))
        self.full: Floats = 1.0 + np.log(counts)
        self.in_subject: Floats = np.array([float(term in subject) for term in everything])
        self.words = set(WORD.findall(text))
        self.plain_words = {word.lower().strip("_") for word in self.words}
        self.subject_words = {word.lower().strip("_") for word in WORD.findall(self.subject)}

    @cached_property
    def names(self) -> tuple[Ints, Floats]:
        """(terms, weights) of the words that could be defined names; code-like ones count twice."""
        weights = {
            hash_of(word.lower()): 2.0 if is_compound(word) else 1.0
            for word in sorted(self.words)
            if len(word) > 2
        }
        return _arrays(weights)

    @cached_property
    def compounds(self) -> tuple[Ints, Floats]:
        """(terms, weights) of neighbouring words taken as one name, and of names written out."""
        weights: dict[int, float] = {}
        for line in self.text.split("\n")[:3]:
            words = [word for word in WORD.findall(line) if len(word) > 1]
            for first, second in pairwise(words):
                weights[whole(first + second)] = 1.0
        for word in sorted(self.words):
            if is_compound(word):
                weights[whole(word)] = 2.0
        return _arrays(weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """When a task is asked: how much of the past is there, what the clock says and who asks."""

    position: int
    """The number of commits in the timeline that the task may see."""
    time: int
    author: int = -1


def _arrays(weights: dict[int, float]) -> tuple[Ints, Floats]:
    return (
        np.fromiter(weights, np.int64, len(weights)),
        np.fromiter(weights.values(), np.float64, len(weights)),
    )


class _Task:
    """One task at one moment, with what several families share."""

    def __init__(self, question: Question, scene: Scene, timeline: Timeline, moment: Moment):
        self.question, self.scene, self.timeline, self.moment = question, scene, timeline, moment
        self.lines = timeline.lines_at(scene.paths, moment.position)
        self.rare = self._rarity() ** 1.5 * (question.full + 1.5 * question.in_subject)
        self.values: dict[str, Floats] = {}

    def _rarity(self) -> Floats:
        """How seldom the repository's own messages use each term, in [0, 1]: a phrase that opens
        every message says nothing about this one."""
        past = self.moment.position
        seen = self.timeline.messages.frequency_before(self.question.terms, past)
        rarity: Floats = np.log((past + 20) / (seen + 1)) / np.log(past + 20)
        return np.maximum(rarity, 0.0)

    @property
    def weightings(self) -> dict[str, Floats]:
        question = self.question
        return {"": question.full, "_subject": question.in_subject, "_rare": self.rare}

    def constant(self, value: float) -> Floats:
        return np.full(self.scene.size, value)

    def per_line(self, by_line: Floats) -> Floats:
        """Values by line, given to the files; a file without a past gets the last entry."""
        return by_line[self.lines]

    def rank(self, values: Floats) -> Floats:
        """log(1 + rank from 0) among the sources; the rest come after them."""
        order = np.argsort(-np.where(self.scene.is_source, values, -np.inf), kind="stable")
        ranks = np.empty(len(order))
        ranks[order] = np.arange(len(order))
        return np.log1p(ranks)


def _lexical(task: _Task) -> None:
    """What the files say: BM25 over whole texts, windows, names, prose, calls and paths."""
    question, scene, values = task.question, task.scene, task.values
    length = np.sqrt(len(question.terms) + 1)
    rare_mass = float(task.rare.sum()) + 1.0
    hits = scene.match("text", question.terms)
    for name, weights in task.weightings.items():
        raw = scene.by_file(hits.scores(weights))
        values[f"text{name}"] = scaled(raw)
        if name == "":
            values["text_raw"] = raw / length
        if name == "_rare":
            values["text_rare_raw"] = raw / rare_mass
    values["cover"] = scene.by_file(hits.coverage())
    hits = scene.match_windows(question.terms)
    for name, weights in task.weightings.items():
        raw = scene.best_window(hits.scores(weights))
        values[f"window{name}"] = scaled(raw)
        if name == "_rare":
            values["window_rare_raw"] = raw / rare_mass
    hits = scene.match("symbols", question.terms)
    for name, weights in task.weightings.items():
        values[f"symbols{name}"] = scaled(scene.by_file(hits.scores(weights)))
    hits = scene.match("prose", question.terms)
    for name in ("", "_subject"):
        values[f"prose{name}"] = scaled(scene.by_file(hits.scores(task.weightings[name])))
    values["calls"] = scaled(
        scene.by_file(scene.match("calls", question.terms).scores(question.full))
    )
    terms, weights = question.names
    names = scene.match("names", terms, b=0.0)
    values["names"] = scaled(scene.by_file(names.scores(weights)))
    values["names_compound"] = scaled(scene.by_file(names.scores(weights * (weights > 1))))
    terms, weights = question.compounds
    for field in ("text", "symbols"):
        found = scene.match(field, terms, b=0.3).scores(weights)
        values[f"compound_{field}"] = scaled(scene.by_file(found))
    _paths(task)


SHORTEST_PART: Final = 3
PREFIX: Final = 4


def path_parts(question: Question) -> dict[str, float]:
    """The parts of the task's words that a path may hold, with what each counts."""
    parts: dict[str, float] = {}
    for text, weight in ((question.text, 1.0), (question.subject, 2.5)):
        for word in WORD.findall(text):
            for part in split_word(word):
                if len(part) >= SHORTEST_PART:
                    parts[part] = max(parts.get(part, 0.0), weight)
    return parts


def held_in_paths(parts: dict[str, float], paths: PathText, size: int) -> dict[str, Floats]:
    """How much of the task stands letter by letter in each path, in its last name, and how much
    of it only by the beginnings of longer words. Rarer parts count more."""
    held, in_name, by_prefix = np.zeros(size), np.zeros(size), np.zeros(size)
    for part, weight in parts.items():
        files, own = paths.holding(part)
        worth = weight * np.log1p((size - len(files) + 0.5) / (len(files) + 0.5))
        held[files] += worth
        in_name[files[own]] += worth
        if len(part) > PREFIX + 1:
            begun, own = paths.holding(part[:PREFIX])
            worth = weight * np.log1p((size - len(begun) + 0.5) / (len(begun) + 0.5))
            by_prefix[begun[own]] += worth
    return {
        "path_letters": scaled(held),
        "stem_letters": scaled(in_name),
        "stem_prefixes": scaled(by_prefix),
    }


def _paths(task: _Task) -> None:
    question, scene, values = task.question, task.scene, task.values
    everything = View(np.arange(scene.size), scene.size)
    hits = scene.path_postings.match(question.terms, everything, b=0.0)
    values["path"] = scaled(hits.scores(np.minimum(question.full, 1.0)))
    found = scene.stem_postings.match(question.terms, everything).document
    lengths = np.maximum(scene.stem_postings.lengths, 1.0)
    values["stem_share"] = np.bincount(found, minlength=scene.size) / lengths
    plain = scene.plain_stems
    values["stem_named"] = np.array([float(stem in question.plain_words) for stem in plain])
    values["stem_in_subject"] = np.array([float(stem in question.subject_words) for stem in plain])
    values |= held_in_paths(path_parts(question), scene.path_text, scene.size)


def _messages(task: _Task) -> None:
    """What the past says: which files changed when messages like this one were written."""
    question, timeline, values = task.question, task.timeline, task.values
    past = task.moment.position

    def neighbours(weights: Floats, half_life: float, dilution: float = 0.5) -> Floats:
        faded = weights * timeline.fading(half_life, dilution, past)
        return scaled(task.per_line(timeline.spread(faded, past)))

    of_messages = timeline.similar(timeline.messages, question.terms, past)
    of_subjects = timeline.similar(timeline.subjects, question.terms, past)
    touches = timeline.touches(np.inf, past)
    for name, raw in (
        ("message", of_messages.scores(question.full)),
        ("subject", of_subjects.scores(question.in_subject)),
    ):
        closeness = scaled(raw)
        squared = closeness * closeness
        values[f"{name}_recent"] = neighbours(closeness, 100)
        values[f"{name}_near"] = neighbours(squared, 400)
        values[f"{name}_nearest"] = neighbours(squared * squared, 1000)
        values[f"{name}_best"] = task.per_line(_best_neighbour(timeline, closeness))
        mean = timeline.spread(closeness, past) / (touches + 2)
        values[f"{name}_mean"] = scaled(task.per_line(mean))
    closeness = scaled(of_messages.scores(task.rare))
    squared = closeness * closeness
    values["rare_recent"] = neighbours(closeness, 60)
    values["rare_near"] = neighbours(squared, 400)
    values["rare_focused"] = neighbours(squared * closeness, 5000, 1.0)
    values["rare_nearest"] = neighbours(squared * squared, 1000)
    _chains(task, scaled(of_subjects.scores(task.rare * question.in_subject)))


def _best_neighbour(timeline: Timeline, closeness: Floats, most: int = 20) -> Floats:
    """Per line, the closest single message among the `most` closest, less for wide commits."""
    best = np.zeros(timeline.num_lines + 1)
    for commit in np.argsort(-closeness, kind="stable")[:most]:
        lines = list(timeline.changed[commit])
        worth = closeness[commit] / timeline.num_files[commit] ** 0.3
        best[lines] = np.maximum(best[lines], worth)
    return best


def _chains(task: _Task, closeness: Floats) -> None:
    """Work that goes on over several commits with nearly the same subject."""
    timeline, values = task.timeline, task.values
    short, long, best = (np.zeros(timeline.num_lines + 1) for _ in range(3))
    seen, going_on = 0, 0.0
    past = task.moment.position
    for commit in range(past - 1, max(past - RECENT, 0) - 1, -1):
        lines = list(timeline.changed[commit])
        if not lines:
            continue
        close = float(closeness[commit])
        going_on = max(going_on, close) if seen < 3 else going_on
        short[lines] += close * 0.5 ** (seen / 3)
        long[lines] += close * close * 0.5 ** (seen / 15)
        best[lines] = np.maximum(best[lines], close * 0.9**seen)
        seen += 1
    values["chain_short"] = task.per_line(short)
    values["chain_long"] = task.per_line(long)
    values["chain_best"] = task.per_line(best)
    values["task_chain"] = task.constant(going_on)


def _activity(task: _Task) -> None:
    """What was worked on lately, by anyone and by the one who asks."""
    timeline, values, moment = task.timeline, task.values, task.moment
    past = moment.position
    for name, half_life in (("5", 5), ("30", 30), ("200", 200)):
        decayed = task.per_line(timeline.touches(half_life, past))
        values[f"touched_{name}"] = decayed if name == "5" else scaled(decayed)
    values["touched"] = scaled(task.per_line(timeline.touches(np.inf, past)))
    own = (timeline.authors[:past] == moment.author) * timeline.decay(60, past)
    values["touched_by_author"] = scaled(task.per_line(timeline.spread(own, past)))
    last = task.per_line(timeline.last_touch(past).astype(np.float64)).astype(np.int64)
    known = last >= 0
    since = np.where(known, past - last, UNTOUCHED)
    values["since_touch"] = np.log1p(since)
    values["since_touch_inverse"] = np.where(known, 1.0 / (1.0 + since), 0.0)
    hours = np.full(len(last), 1e5)
    hours[known] = np.maximum(moment.time - timeline.times[last[known]], 0) / 3600
    values["hours_since_touch"] = np.log1p(hours)
    unknown = task.lines == timeline.num_lines
    values["age"] = np.log1p(np.where(unknown, UNTOUCHED, past - timeline.created[task.lines]))


def _structure(task: _Task) -> None:
    """How the files hang together: size, imports, tests, folders."""
    scene, values = task.scene, task.values
    source = scene.is_source.astype(np.float64)
    rest = 1.0 - source
    num_lines = scene.corpus.num_lines[scene.rows]
    values["is_source"] = source
    values["is_package"] = np.array([float("/__init__." in f"/{path}") for path in scene.paths])
    values["num_lines"] = np.log1p(num_lines)
    values["num_symbols"] = np.log1p(scene.corpus.num_symbols[scene.rows])
    values["share_of_longest"] = scaled(num_lines * source)
    importers = scene.over_imports(np.ones(scene.size), backwards=True)
    imported = scene.over_imports(np.ones(scene.size))
    values["importers"] = np.log1p(scene.over_imports(source, backwards=True))
    values["importing_tests"] = np.log1p(scene.over_imports(rest, backwards=True))
    values["imported"] = np.log1p(imported)
    promise = source * (values["text"] + values["message_near"] + values["window"])
    values["promise_of_imports"] = scaled(
        scene.over_imports(promise) / np.sqrt(np.maximum(imported, 1))
    )
    share = np.sqrt(np.maximum(importers, 1))
    values["promise_of_importers"] = scaled(scene.over_imports(promise, backwards=True) / share)
    of_tests = scene.over_imports(rest * values["text"], backwards=True)
    values["promise_of_tests"] = scaled(of_tests / share)
    mirror = np.zeros(scene.size)
    for test, mirrored in scene.mirrors:
        mirror[mirrored] = max(mirror[mirrored], values["text"][test])
    values["mirrored_test"] = mirror
    folder, num_folders = scene.folders
    best = np.zeros(num_folders)
    np.maximum.at(best, folder, source * values["window"])
    busy = weighted_counts(folder, source * values["touched_30"], num_folders)
    values["folder_best"] = best[folder]
    values["folder_touched"] = scaled(busy[folder])
    values["folder_size"] = np.log1p(np.bincount(folder, minlength=num_folders))[folder]


_RANKED: Final = (
    "text", "text_rare", "window", "window_rare", "symbols", "path", "stem_letters",
    "message_near", "rare_near", "chain_long", "touched_30", "since_touch_inverse",
)  # fmt: skip
"""Signals whose rank among the sources is a feature too: trees cannot sort."""


def _task_kind(task: _Task) -> None:
    """What is the same for every file of a task; trees use it to weigh the rest."""
    question, values = task.question, task.values
    for name in _RANKED:
        values[f"rank_{name}"] = task.rank(values[name])
    best = np.sort(np.where(task.scene.is_source, values["text"], 0.0))[::-1][:2]
    gap = float(best[0] - best[1]) if len(best) > 1 else 1.0
    values["task_gap"] = task.constant(gap)
    values["task_files"] = task.constant(np.log1p(task.scene.num_source_files))
    values["task_terms"] = task.constant(np.log1p(len(question.terms)))
    values["task_subject_terms"] = task.constant(np.log1p(question.in_subject.sum()))
    values["task_past"] = task.constant(np.log1p(task.moment.position))


_FAMILIES: Final[tuple[Callable[[_Task], None], ...]] = (
    _lexical, _messages, _activity, _structure, _task_kind,
)  # fmt: skip


def features(
    question: Question, scene: Scene, timeline: Timeline, moment: Moment
) -> tuple[tuple[str, ...], Matrix]:
    """(names, values): one row per file of the scene, one column per name."""
    task = _Task(question, scene, timeline, moment)
    for family in _FAMILIES:
        family(task)
    names = tuple(task.values)
    return names, np.stack([task.values[name] for name in names], axis=1).astype(np.float32)
