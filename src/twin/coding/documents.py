"""A repository's notes and documents, searched by section: what globs name, kept up to date.

Owns which files may be read at all (regular text inside the root, not too large, none that by its
name keeps secrets) and the ranking of their sections by BM25. Reads the work tree, not git: notes
that nobody committed count. How a file is cut is `sections`' business.
"""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

import numpy as np

from twin.coding.evidence import FLOOR, Words, evidence, rarity, relevance
from twin.coding.index import BINARY_PROBE
from twin.coding.lexical import Postings, View
from twin.coding.sections import Section, split

MAX_BYTES: Final = 1_000_000
"""Of one document; a larger one is data."""
MAX_DOCUMENTS: Final = 500
MAX_TOTAL_BYTES: Final = 10_000_000
"""Of all documents together: reading so much takes two or three seconds, once."""
MAX_ENTRIES: Final = 50_000
"""Names that are looked at when globs are followed: `**` at the top of something huge must end."""
MAX_DEPTH: Final = 30

_NEVER_ENTERED: Final = frozenset(
    {".git", ".hg", ".svn", ".twin", ".tox", ".venv", "venv", "node_modules", "__pycache__"}
)
_SECRET: Final = (
    ".env", ".env.*", "*.env", ".envrc", "*.pem", "*.key", "*.p8", "*.p12", "*.pfx", "*.jks",
    "*.keystore", "*.kdbx", "*.ppk", "*.asc", "*.gpg", "id_rsa*", "id_dsa*", "id_ecdsa*",
    "id_ed25519*", ".netrc", "_netrc", ".npmrc", ".pypirc", ".pgpass", ".htpasswd",
    ".git-credentials", ".dockercfg", "credentials", "credentials.*", "*credentials.json",
    "secret", "secret.*", "secrets", "secrets.*", "*.tfstate", "*.tfvars", "kubeconfig",
)  # fmt: skip
"""Names, in lower case, of files that keep secrets. Never read, whatever the globs say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSection:
    """A section that is about the request."""

    section: Section
    relevance: float
    """In [0, 1]; see `evidence`."""


class Documents:
    """The sections of all documents that the globs name."""

    def __init__(self, root: Path, globs: Sequence[str]) -> None:
        """`globs` from the root, with `*`, `?`, `[...]` within a name and `**` for any folders."""
        self._root = root.resolve()
        self._globs = tuple(globs)
        self._known: dict[str, tuple[_Stamp, list[Section]]] = {}
        self._sections: list[Section] = []
        self._postings = Postings([])

    @property
    def num_sections(self) -> int:
        return len(self._sections)

    def refresh(self) -> bool:
        """Reads what is new or changed since the last time; says whether anything was."""
        fresh: dict[str, tuple[_Stamp, list[Section]]] = {}
        is_changed = False
        for path, stamp in _named(self._root, self._globs).items():
            known = self._known.get(path)
            if known is None or known[0] != stamp:
                known = stamp, split(path, _text(self._root / path))
                is_changed = True
            fresh[path] = known
        if not is_changed and fresh.keys() == self._known.keys():
            return False
        self._known = fresh
        self._sections = [section for _, sections in fresh.values() for section in sections]
        self._postings = Postings([section.bag for section in self._sections])
        return True

    def search(self, words: Words) -> list[FoundSection]:
        """The sections that are about the request, by BM25, best first. None is as good as a
        rule."""
        size = len(self._sections)
        if not size or not len(words):
            return []
        hits = self._postings.match(words.terms, View(np.arange(size), size))
        rare = rarity(hits)
        relevant = relevance(evidence(hits, rare))
        scores = hits.scores(rare)
        return [
            FoundSection(section=self._sections[at], relevance=float(relevant[at]))
            for at in np.argsort(-scores, kind="stable")
            if relevant[at] >= FLOOR
        ]


def is_secret(path: str) -> bool:
    """Whether the name says that the file keeps secrets."""
    name = path.rpartition("/")[2].lower()
    return any(fnmatchcase(name, pattern) for pattern in _SECRET)


_Stamp = tuple[int, int, int]
"""Inode, size and time of change: different whenever the content is."""


def _stamp(path: Path) -> _Stamp | None:
    """None for what is no regular file of a sensible size."""
    try:
        found = path.stat(follow_symlinks=False)
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(found.st_mode) or not 0 < found.st_size <= MAX_BYTES:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _text(path: Path) -> str:
    """The text of a document; empty where it is none or cannot be read."""
    try:
        # The file may be another by now: a link is not followed, and a pipe does not block.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return ""
        try:
            data = file.read(MAX_BYTES + 1)
        except OSError:
            return ""
    if len(data) > MAX_BYTES or b"\0" in data[:BINARY_PROBE]:
        return ""
    return data.decode("utf-8-sig", "replace")


def _named(root: Path, globs: Iterable[str]) -> dict[str, _Stamp]:
    """Paths from the root of the files that the globs name, each once, none outside the root.

    A link counts as the file that it points to (`CLAUDE.md` is often a link to `AGENTS.md`).
    """
    found: dict[str, _Stamp] = {}
    allowance = _Allowance(MAX_ENTRIES)
    left = MAX_TOTAL_BYTES
    for glob in globs:
        parts = [part for part in glob.split("/") if part not in ("", ".")]
        if not parts or ".." in parts or glob.startswith("/"):
            continue  # it points out of the repository
        for path in _expanded(root, parts, allowance, 0):
            name = _inside(path, root)
            stamp = _stamp(root / name) if name else None
            if stamp is not None and name not in found and stamp[1] <= left:
                found[name] = stamp
                left -= stamp[1]
            if len(found) >= MAX_DOCUMENTS:
                return found
    return found


def _inside(path: Path, root: Path) -> str:
    """The path from the root of the file behind it; empty where that may not be read."""
    try:
        inside = path.resolve(strict=True).relative_to(root)
    except (OSError, ValueError, RuntimeError):
        return ""
    if not _NEVER_ENTERED.isdisjoint(inside.parts):
        return ""
    return "" if is_secret(path.name) or is_secret(inside.name) else inside.as_posix()


class _Allowance:
    """How many names may still be looked at."""

    def __init__(self, left: int) -> None:
        self.left = left


def _expanded(
    folder: Path, parts: Sequence[str], allowance: _Allowance, depth: int
) -> Iterator[Path]:
    """What the glob's parts name under a folder. Only `**` walks, and never through a link."""
    part, rest = parts[0], parts[1:]
    if depth > MAX_DEPTH:
        return
    if part == "**":
        yield from _expanded(folder, rest or ["*"], allowance, depth)
        for entry in _entries(folder, allowance):
            if entry.is_dir(follow_symlinks=False):
                yield from _expanded(Path(entry.path), parts, allowance, depth + 1)
    elif not any(mark in part for mark in "*?["):
        path = folder / part
        if rest:
            yield from _expanded(path, rest, allowance, depth + 1)
        else:
            yield path
    else:
        for entry in _entries(folder, allowance):
            if not fnmatchcase(entry.name, part):
                continue
            if rest:
                yield from _expanded(Path(entry.path), rest, allowance, depth + 1)
            else:
                yield Path(entry.path)


def _entries(folder: Path, allowance: _Allowance) -> list[os.DirEntry[str]]:
    """What is in a folder, by name, as far as the allowance goes."""
    found: list[os.DirEntry[str]] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if allowance.left <= 0:
                    break
                allowance.left -= 1
                if entry.name not in _NEVER_ENTERED:
                    found.append(entry)
    except (OSError, ValueError):
        return []
    return sorted(found, key=lambda entry: entry.name)
