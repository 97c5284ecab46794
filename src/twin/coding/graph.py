"""How the files of a repository hang together: who imports whom, which test mirrors which source,
which files change together.

Works on paths, parsed files and lists of changed paths; reads no repository and no store. How one
language finds the file behind an import is in `imports`.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

from twin.coding.imports import FAMILIES, RESOLVERS, Importing
from twin.coding.imports.paths import nearness
from twin.coding.languages import language_of
from twin.coding.paths import role_of

__all__ = ["CoChange", "cochange", "mirrored_tests", "resolve_imports"]

File = TypeVar("File", bound=Importing)


def resolve_imports(files: Mapping[str, File]) -> dict[str, frozenset[str]]:
    """From each path to the paths it imports, within `files`; never to itself.

    `files` maps paths to parsed files (or to anything with their `language` and `imports`). Every
    path of `files` is a key of the result, in the same order.
    """
    families: dict[str, dict[str, File]] = {}
    for path, file in files.items():
        families.setdefault(FAMILIES.get(file.language, ""), {})[path] = file
    resolvers = {
        family: RESOLVERS[family](members)
        for family, members in families.items()
        if family in RESOLVERS
    }
    edges: dict[str, frozenset[str]] = {}
    for path, file in files.items():
        resolve = resolvers.get(FAMILIES.get(file.language, ""))
        found: set[str] = set()
        if resolve is not None:
            for item in file.imports:
                found.update(resolve(path, item))
            found.discard(path)
        edges[path] = frozenset(found)
    return edges


_TEST_NAME: Final = re.compile(
    r"""
      tests?_(?P<prefix>.+)
    | (?P<suffix>.+?)(?:_tests?|_unittest|[._-](?:test|spec|cy|e2e))
    | (?P<camel>.+?)(?:TestCase|Tests?|IT)
    | Test(?P<java>[A-Z].*)
    """,
    re.VERBOSE,
)
_NEUTRAL: Final = frozenset(
    {"src", "lib", "main", "test", "tests", "unit", "units", "spec", "specs", "__tests__", "java"}
)
"""Folders that say nothing about which part of the program a file belongs to."""
_MAX_MIRRORS: Final = 3
"""More sources of one name that fit equally well are a guess, so none is given."""


def mirrored_tests(paths: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """From each test file to the source files that its name says it tests.

    `tests/pkg/test_foo.py`, `foo_test.go`, `foo.spec.ts` and `FooTest.java` test `foo`. Where
    several sources have that name, those whose folders are most like the test's win. Where none
    has it, trailing words are dropped: `test_foo_errors.py` tests `foo.py`.
    """
    tests: list[tuple[str, str, str]] = []
    sources: dict[tuple[str, str], list[str]] = {}
    for path in sorted(paths):
        language = language_of(path)
        if language is None:
            continue
        family, role = FAMILIES[language], role_of(path)
        folder, _, name = path.rpartition("/")
        stem = name.rpartition(".")[0].removesuffix(".d")
        if role == "test":
            if tested := _tested(stem):
                tests.append((path, family, tested))
        elif role == "source":
            if stem in ("__init__", "index", "mod"):
                stem = folder.rpartition("/")[2]
            sources.setdefault((family, _plain(stem)), []).append(path)
            # `test_pkg_foo.py` for `pkg/foo.py`
            inner = f"{folder.rpartition('/')[2]}_{stem}"
            sources.setdefault((family, _plain(inner)), []).append(path)
    mirrors = {}
    for path, family, tested in tests:
        if found := _mirrors(path, family, tested, sources):
            mirrors[path] = found
    return mirrors


def _tested(stem: str) -> str | None:
    found = _TEST_NAME.fullmatch(stem)
    return next((name for name in found.groups() if name), None) if found else None


def _plain(stem: str) -> str:
    return stem.strip("_").replace("-", "_").lower()


def _mirrors(
    test: str, family: str, tested: str, sources: Mapping[tuple[str, str], list[str]]
) -> tuple[str, ...]:
    words = _plain(tested)
    while words:
        candidates = sources.get((family, words))
        if candidates:
            scored = [(_likeness(test, source), source) for source in candidates]
            best = max(score for score, _ in scored)
            winners = tuple(dict.fromkeys(source for score, source in scored if score == best))
            return winners if len(winners) <= _MAX_MIRRORS else ()
        words = words.rpartition("_")[0]
    return ()


def _likeness(test: str, source: str) -> tuple[int, int, int]:
    """How well two folders fit: equal folders counted from the file up, then in any place, then
    from the top (which part of a larger repository)."""
    mine = [part for part in test.split("/")[:-1] if part not in _NEUTRAL]
    theirs = [part for part in source.split("/")[:-1] if part not in _NEUTRAL]
    tail = 0
    for left, right in zip(reversed(mine), reversed(theirs), strict=False):
        if left != right:
            break
        tail += 1
    return tail, len(set(mine) & set(theirs)), nearness(test, source)


MAX_FILES: Final = 30
"""A commit that changes more files says nothing about any two of them."""
HALF_LIFE: Final = 500.0
"""Commits after which a shared change counts half: code that was split apart is forgotten."""
MAX_PAIRS: Final = 400_000
"""About 60 MB. Beyond it the weakest half is dropped; they are the ones seen once, long ago."""
_RESCALE: Final = 1e100


class CoChange:
    """Which files change together: decayed counts, one `add` per commit, oldest first."""

    def __init__(self, half_life: float = HALF_LIFE, max_pairs: int = MAX_PAIRS) -> None:
        self._growth = 2.0 ** (1.0 / half_life)
        self._weight = 1.0
        self._max_pairs = max_pairs
        self._num_pairs = 0
        self._changes: dict[str, float] = {}
        self._pairs: dict[str, dict[str, float]] = {}

    def add(self, files: Iterable[str]) -> None:
        """Counts one commit. Instead of making old counts smaller, new ones weigh more."""
        paths = sorted(set(files))
        if len(paths) > MAX_FILES:
            return
        self._weight *= self._growth
        weight = self._weight
        for path in paths:
            self._changes[path] = self._changes.get(path, 0.0) + weight
            if len(paths) > 1:
                others = self._pairs.setdefault(path, {})
                before = len(others)
                for other in paths:
                    if other != path:
                        others[other] = others.get(other, 0.0) + weight
                self._num_pairs += len(others) - before
        if weight > _RESCALE:
            self._rescale()
        if self._num_pairs > self._max_pairs:
            self._prune()

    def given(self, path: str) -> dict[str, float]:
        """The probability that each other file changes when `path` does, the likeliest first."""
        total = self._changes.get(path)
        if not total:
            return {}
        shares = ((other, count / total) for other, count in self._pairs.get(path, {}).items())
        return dict(sorted(shares, key=lambda share: (-share[1], share[0])))

    def changes(self, path: str) -> float:
        """How often `path` changed, in commits of today's weight: what `given` rests on."""
        return self._changes.get(path, 0.0) / self._weight

    def __len__(self) -> int:
        """Ordered pairs in memory."""
        return self._num_pairs

    def _rescale(self) -> None:
        scale = 1.0 / self._weight
        self._weight = 1.0
        self._changes = {path: count * scale for path, count in self._changes.items()}
        for others in self._pairs.values():
            for other in others:
                others[other] *= scale

    def _prune(self) -> None:
        """Drops the weakest half of the pairs. A pair weighs the same seen from both its files, so
        both directions go together unless their weights are the ones at the border."""
        weights = sorted(count for others in self._pairs.values() for count in others.values())
        border = weights[len(weights) // 2]
        kept = {
            path: {other: count for other, count in others.items() if count > border}
            for path, others in self._pairs.items()
        }
        self._pairs = {path: others for path, others in kept.items() if others}
        self._num_pairs = sum(len(others) for others in self._pairs.values())


def cochange(commits: Iterable[Iterable[str]], half_life: float = HALF_LIFE) -> CoChange:
    """Counts commits, given as their changed paths, oldest first."""
    counts = CoChange(half_life)
    for files in commits:
        counts.add(files)
    return counts
