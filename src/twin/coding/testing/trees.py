"""Trees to run tests on: a commit's files, with some of them taken from another commit.

Tar archives in memory, as `GitRepository.archive` makes them, read once. Nothing is checked out, so
nothing of git, and no answer, lies beside the files.
"""

import io
import tarfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

BLOCK: Final = 512
END: Final = bytes(2 * BLOCK)


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where one file or link stands in the archive."""

    start: int
    content: int
    size: int
    is_file: bool

    @classmethod
    def of(cls, entry: tarfile.TarInfo) -> "_Entry":
        is_file = entry.isreg()
        return cls(entry.offset, entry.offset_data, entry.size if is_file else 0, is_file)

    @property
    def end(self) -> int:
        return self.content + -(-self.size // BLOCK) * BLOCK


class Tree:
    """An archive and what is in it. Folders that hold nothing are left out, as git does."""

    def __init__(self, archive: bytes) -> None:
        self.archive = archive

    @cached_property
    def _entries(self) -> dict[str, _Entry]:
        if not self.archive:
            return {}
        with tarfile.open(fileobj=io.BytesIO(self.archive)) as tar:
            return {entry.name: _Entry.of(entry) for entry in tar if not entry.isdir()}

    @property
    def names(self) -> Collection[str]:
        """The paths of its files and links."""
        return self._entries.keys()

    def texts(self, paths: Collection[str]) -> dict[str, str]:
        """Those of the paths that are files, as text; what is no UTF-8 is replaced."""
        found: dict[str, str] = {}
        for path in paths:
            entry = self._entries.get(path)
            if entry is not None and entry.is_file:
                content = self.archive[entry.content : entry.content + entry.size]
                found[path] = content.decode("utf-8", "replace")
        return found

    def with_those_of(self, other: "Tree", without: Collection[str] = ()) -> "Tree":
        """This tree with the files of the other in place of its own, and without some."""
        gone = {*without, *other.names}
        parts = [
            tree.archive[entry.start : entry.end]
            for tree, left_out in ((self, gone), (other, ()))
            for path, entry in tree._entries.items()
            if path not in left_out
        ]
        return Tree(b"".join([*parts, END]))

    def with_files(self, files: Mapping[str, bytes]) -> "Tree":
        """This tree with these contents at these paths."""
        added = io.BytesIO()
        with tarfile.open(fileobj=added, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for path, content in files.items():
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode = len(content), 0o644
                tar.addfile(entry, io.BytesIO(content))
        return self.with_those_of(Tree(added.getvalue()))

    def with_edits(self, edits: Mapping[str, bytes | None]) -> "Tree":
        """This tree with these contents; None removes a path."""
        removed = {path for path, content in edits.items() if content is None}
        written = {path: content for path, content in edits.items() if content is not None}
        return self.with_files(written).with_those_of(Tree(b""), removed)

    @property
    def roots(self) -> tuple[str, ...]:
        """Where it imports from: `src` where packages or modules lie in it."""
        has_src = any(name.startswith("src/") and name.endswith(".py") for name in self.names)
        return ("src",) if has_src else (".",)
