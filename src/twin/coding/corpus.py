"""The contents of many files, searchable as they were at any commit.

A corpus holds the digests of every blob that some moments need; a scene is one of those moments:
the files that were there, what they held and how they hung together. Owns the per-scene arrays that
features are made of. Does not know the past (`timeline`) nor the task (`features`).
"""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from twin.coding.digest import FIELDS, Digest, Packed
from twin.coding.graph import mirrored_tests, resolve_imports
from twin.coding.languages import language_of
from twin.coding.lexical import B, Bag, Floats, Hits, Ints, Postings, View, ranges, weighted_counts
from twin.coding.paths import role_of
from twin.coding.text import count_terms, terms_of
from twin.records import Import


class Corpus:
    """Digests by blob id, with one inverted index per field."""

    def __init__(self, digests: Mapping[str, Digest]) -> None:
        self.blobs = list(digests)
        self.row = {blob: row for row, blob in enumerate(self.blobs)}
        self.digests = [digests[blob] for blob in self.blobs]
        self.fields: dict[str, Postings] = {}
        for field in FIELDS:
            packed: list[Packed] = [getattr(digest, field) for digest in self.digests]
            self.fields[field] = Postings([item.bag() for item in packed])
        self.windows = Postings(
            [window.bag() for digest in self.digests for window in digest.windows]
        )
        counts = np.array([len(digest.windows) for digest in self.digests], np.int64)
        self.window_starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.num_lines = np.array([digest.num_lines for digest in self.digests], np.float64)
        self.num_symbols = np.array([digest.num_symbols for digest in self.digests], np.float64)
        self._edges: tuple[frozenset[str], dict[tuple[str, str], frozenset[str]]] = (
            frozenset(),
            {},
        )

    def imports(self, files: Mapping[str, str]) -> dict[str, frozenset[str]]:
        """Who imports whom among `files` (path to blob id).

        While the set of paths stays the same, only files with new contents are resolved again:
        neighbouring commits seldom add a file.
        """
        paths, known = self._edges
        if paths != files.keys():
            paths, known = frozenset(files), {}
            self._edges = paths, known
        fresh = [path for path, blob in files.items() if (path, blob) not in known]
        if len(fresh) * 4 > len(files) or not known:
            fresh = list(files)
        if fresh:
            # Every path takes part in resolving, but only the fresh ones carry their imports.
            carried = set(fresh)
            resolved = resolve_imports(
                {
                    path: _importing(path, self.digests[self.row[blob]].imports)
                    if path in carried
                    else _importing(path)
                    for path, blob in files.items()
                }
            )
            for path in fresh:
                known[path, files[path]] = resolved[path]
        return {path: known[path, blob] for path, blob in files.items()}


def _importing(path: str, imports: tuple[Import, ...] = ()) -> Digest:
    """A file as the resolver sees it. The language is the path's: one content, such as the empty
    one, may stand in files of several languages, and a blob has but one digest."""
    return Digest(language=language_of(path) or "", imports=imports)


class Scene:
    """The code files of one commit, in the order of their paths: the candidates of a task."""

    def __init__(self, corpus: Corpus, files: Mapping[str, str]) -> None:
        """`files`: path to blob id; only those whose blob is in the corpus take part."""
        self.corpus = corpus
        self.paths = sorted(path for path, blob in files.items() if blob in corpus.row)
        self.files = {path: files[path] for path in self.paths}
        rows = np.array([corpus.row[files[path]] for path in self.paths], np.int64)
        self.rows = rows
        distinct, self._document = np.unique(rows, return_inverse=True)
        self.view = View(distinct, len(corpus.blobs))
        self._matched: dict[tuple[str, float], tuple[Ints, Hits]] = {}
        starts, ends = corpus.window_starts[distinct], corpus.window_starts[distinct + 1]
        self._window_sizes = ends - starts
        self._window_view = View(ranges(starts, ends), int(corpus.window_starts[-1]))
        roles = [role_of(path) for path in self.paths]
        self.is_source = np.array([role == "source" for role in roles], bool)
        self.is_test = np.array([role == "test" for role in roles], bool)

    @property
    def size(self) -> int:
        return len(self.paths)

    @property
    def num_source_files(self) -> int:
        return int(self.is_source.sum())

    def match(self, field: str, terms: Ints, b: float = B) -> Hits:
        """Where `terms` occur in a field. Asked again with the same array, it remembers: an answer
        and its reasons ask the same."""
        known = self._matched.get((field, b))
        if known is None or known[0] is not terms:
            known = terms, self.corpus.fields[field].match(terms, self.view, b)
            self._matched[field, b] = known
        return known[1]

    def match_windows(self, terms: Ints) -> Hits:
        return self.corpus.windows.match(terms, self._window_view)

    def by_file(self, by_document: Floats) -> Floats:
        """Values of distinct contents, given to every file that holds them."""
        return by_document[self._document]

    def best_window(self, by_window: Floats) -> Floats:
        """The best window of each file."""
        best = np.zeros(self.view.size)
        held = np.flatnonzero(self._window_sizes)
        if len(held):
            starts = np.concatenate([[0], np.cumsum(self._window_sizes[held])[:-1]])
            best[held] = np.maximum.reduceat(by_window, starts)
        return self.by_file(best)

    @cached_property
    def edges(self) -> tuple[Ints, Ints]:
        """(importing, imported) as indices into `paths`."""
        at = {path: index for index, path in enumerate(self.paths)}
        pairs = [
            (at[path], at[other])
            for path, others in self.corpus.imports(self.files).items()
            for other in sorted(others)
        ]
        table = np.array(pairs, np.int64).reshape(-1, 2)
        return table[:, 0], table[:, 1]

    def over_imports(self, values: Floats, *, backwards: bool = False) -> Floats:
        """Per file, the sum of `values` over what it imports (backwards: over its importers)."""
        importing, imported = self.edges
        if backwards:
            return weighted_counts(imported, values[importing], self.size)
        return weighted_counts(importing, values[imported], self.size)

    @cached_property
    def mirrors(self) -> list[tuple[int, int]]:
        """(test, source) pairs by their names."""
        at = {path: index for index, path in enumerate(self.paths)}
        return [
            (at[test], at[source])
            for test, sources in mirrored_tests(self.paths).items()
            for source in sources
        ]

    @cached_property
    def folders(self) -> tuple[Ints, int]:
        """(number of its folder per file, number of folders)."""
        numbers: dict[str, int] = {}
        at = [numbers.setdefault(path.rpartition("/")[0], len(numbers)) for path in self.paths]
        return np.array(at, np.int64), len(numbers)

    @cached_property
    def path_postings(self) -> Postings:
        """The words of each path, extension left out."""
        return Postings([path_bag(path) for path in self.paths])

    @cached_property
    def stems(self) -> list[str]:
        """The name that people call each module by."""
        return [_stem(path) for path in self.paths]

    @cached_property
    def plain_stems(self) -> list[str]:
        """The stems as a person would write them in a sentence."""
        return [stem.lower().strip("_") for stem in self.stems]

    @cached_property
    def stem_postings(self) -> Postings:
        """The words of each stem."""
        return Postings([Bag.of(dict.fromkeys(terms_of(stem), 1)) for stem in self.stems])

    @cached_property
    def path_text(self) -> "PathText":
        return PathText(self.paths)


class PathText:
    """The paths of a scene as one text, so that a part is looked for in all of them at once.

    Many names run words together (`utilpep695`, `errcause`) or cut them (`decor`): no splitting
    finds those, but "PEP 695" and "decorator" still stand in them letter by letter.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        paths = [path.lower() for path in paths]
        self._text = "\n".join(paths) + "\n"
        sizes = np.array([len(path) + 1 for path in paths], np.int64)
        self._ends = np.cumsum(sizes)
        names = [path.rpartition("/")[0] for path in paths]
        self._names = self._ends - sizes + np.array([len(folder) for folder in names], np.int64)
        self._size = len(paths)

    def holding(self, part: str) -> tuple[Ints, NDArray[np.bool_]]:
        """(files whose path holds `part`, whether their own name does)."""
        pieces = self._text.split(part)
        sizes = np.fromiter(map(len, pieces), np.int64, len(pieces))[:-1] + len(part)
        places = np.cumsum(sizes) - len(part)
        files = np.searchsorted(self._ends, places, side="right")
        in_name = np.zeros(self._size, bool)
        in_name[files[places >= self._names[files]]] = True
        files = np.unique(files)
        return files, in_name[files]


def _stem(path: str) -> str:
    """A module's own name; for `__init__`, `mod` or `index` its folder's."""
    folder, _, name = path.rpartition("/")
    stem = name.partition(".")[0]
    return folder.rpartition("/")[2] if stem in {"__init__", "index", "mod"} and folder else stem


_PATH_BAGS: dict[str, Bag] = {}


def path_bag(path: str) -> Bag:
    """The words of a path; kept, since neighbouring commits share nearly all paths."""
    bag = _PATH_BAGS.get(path)
    if bag is None:
        if len(_PATH_BAGS) > 200_000:
            _PATH_BAGS.clear()
        words = path.rpartition(".")[0].replace("/", " ")
        bag = _PATH_BAGS[path] = Bag.of(dict.fromkeys(count_terms(words), 1))
    return bag
