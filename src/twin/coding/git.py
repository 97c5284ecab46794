"""A git repository to learn from: opened with care, its trees and blobs read fast.

Owns finding the repository and saying in one sentence why it cannot be used, what a revision means,
trees as path -> blob id, and blobs by id. Reads only; never looks at the work tree, the index or
the network. How git is started is in `gitprocess`; the log of commits is in `history`.
"""

import re
import sys
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Self

from twin.coding.gitprocess import Answer, Batch, GitFailed, ObjectStore, ask, require_git
from twin.coding.paths import counted_attributes
from twin.errors import RepositoryError, UsageError

MAX_TREE_FILES: Final = 1_000_000
"""Above the largest projects; a few crafted trees can stand for more files than fit in memory."""

MAX_TREE_DEPTH: Final = 300
MAX_ARCHIVE_BYTES: Final = 1 << 30
"""A tree is held in memory whole while it runs; none that was met is a tenth of this."""

CACHED_ENTRIES: Final = 400_000
"""Files in all cached trees together: some 60 MB. Neighbouring commits share nearly all."""

GROUP_BYTES: Final = 16_000_000
"""Blobs are read ahead up to this size together."""

_OBJECT_ID: Final = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_FILE_MODES: Final = frozenset({b"100644", b"100755", b"100664"})


class GitRepository:
    """A repository on this machine. Close it, or use it in a `with` statement, to end its git."""

    root: Path
    """The top level of the work tree; of a bare repository, its folder."""
    name: str
    """`owner/name` from the origin's address, else the folder's name."""

    def __init__(self, root: Path, name: str, objects: ObjectStore) -> None:
        self.root = root
        self.name = name
        self.objects = objects
        sizes, contents = Batch(objects, "--batch-check"), Batch(objects, "--batch")
        self._sizes = sizes
        self._trees = _Trees(contents)
        self._contents = contents

        def end() -> None:
            sizes.close()
            contents.close()
            objects.close()

        self._end = weakref.finalize(self, end)

    @classmethod
    def open(cls, path: Path) -> Self:
        """The repository around `path`, from any folder inside its work tree.

        Raises RepositoryError for no such path, a file, no repository, a bare, shallow or empty
        one, and one that git cannot or may not read; MissingRequirement without a recent git.
        """
        _require_folder(path)
        require_git()
        facts = _Facts(path)
        if facts.bare:
            raise RepositoryError(
                f"{path} is a bare repository, without a work tree. "
                f"Clone it (`git clone {path} FOLDER`) and give that folder."
            )
        if facts.inside_git_dir:
            raise RepositoryError(
                f"{path} is git's own folder. Give the folder of the work tree, the one above it."
            )
        root = Path(_told(path, "--show-toplevel"))
        if not path.resolve().is_relative_to(root.resolve()):
            raise RepositoryError(
                f"{path} says that its work tree is elsewhere, in {root}. "
                "Give that folder, or remove core.worktree from its configuration."
            )
        return cls._ready(root, _name(root), facts)

    @classmethod
    def bare(cls, path: Path, name: str = "") -> Self:
        """A bare repository, for benchmarks on mirrors; `name` overrides what it is called."""
        _require_folder(path)
        require_git()
        facts = _Facts(path)
        if not facts.bare:
            raise RepositoryError(f"{path} is not a bare repository. Give a work tree to `open`.")
        return cls._ready(path.resolve(), name or _name(path), facts)

    @classmethod
    def _ready(cls, root: Path, name: str, facts: "_Facts") -> Self:
        if facts.shallow:
            raise RepositoryError(
                f"{root} is a shallow clone: its history is cut off. "
                f"Run `git -C {root} fetch --unshallow`."
            )
        objects = ObjectStore(facts.objects, facts.object_format, counted_attributes())
        repository = cls(root, name, objects)
        try:
            repository.head()
        except UsageError:
            repository.close()
            raise
        return repository

    def head(self) -> str:
        """The commit that is checked out, on a branch or detached."""
        try:
            return self.resolve("HEAD")
        except RepositoryError:
            if ask(self.root, "rev-parse", "--verify", "--quiet", "HEAD").stdout:
                raise
            raise RepositoryError(
                f"{self.root} has no commits on its current branch. "
                "Commit something, or check out a branch that has commits."
            ) from None

    def resolve(self, revision: str) -> str:
        """The commit that a branch, tag, id or other revision names."""
        wanted = f"{revision}^{{commit}}"
        answer = ask(self.root, "rev-parse", "--verify", "--end-of-options", wanted)
        commit_id = answer.text
        if answer.returncode == 0 and _OBJECT_ID.fullmatch(commit_id):
            return commit_id
        if "corrupt" in answer.stderr or "error:" in answer.stderr:
            raise self.damaged(_failed(answer))
        raise RepositoryError(
            f"{self.root} has no commit named {revision!r}. `git -C {self.root} log` lists them."
        )

    def is_ancestor(self, older: str, newer: str) -> bool:
        """Whether the history of `newer` contains `older`; False for a commit that is gone."""
        for commit_id in (older, newer):
            if not _OBJECT_ID.fullmatch(commit_id):
                raise ValueError(f"not a commit id: {commit_id!r}")
        return ask(self.root, "merge-base", "--is-ancestor", older, newer).returncode == 0

    def tree(self, commit_id: str) -> dict[str, str]:
        """Path -> blob id of every regular file in a commit; no symbolic links, no submodules."""
        try:
            (info,) = self._sizes.infos([f"{_checked(commit_id)}^{{tree}}"])
            if info is None:
                raise GitFailed(0, f"commit {commit_id} or its tree is missing")
            return self._trees.files(info.object_id)
        except GitFailed as failure:
            raise self.damaged(failure) from failure

    def archive(self, commit_id: str, paths: Iterable[str] = ()) -> bytes:
        """A tar archive of a commit's tree, links and executable files included; of `paths` alone
        where there are any (each must exist). Text is as it is stored, and what a release would
        leave out is there."""
        named = [f":(literal,top){path}" for path in paths]
        tree = f"{_checked(commit_id)}^{{tree}}"
        try:
            with self.objects.stream(
                "-c", "tar.umask=0022", "archive", "--format=tar", tree, "--", *named
            ) as child:
                whole = child.stdout.read(MAX_ARCHIVE_BYTES + 1)
                if len(whole) > MAX_ARCHIVE_BYTES:
                    raise RepositoryError(
                        f"Commit {commit_id} of {self.root} holds more than "
                        f"{MAX_ARCHIVE_BYTES >> 20} MiB. It is too large to be run."
                    )
                child.finish()
                return whole
        except GitFailed as failure:
            raise self.damaged(failure) from failure

    def blobs(
        self, blob_ids: Iterable[str], max_bytes: int = 1_000_000
    ) -> Iterator[tuple[str, bytes | None]]:
        """Each id with its bytes, in the order given; reads ahead a little, never everything.

        None where a partial clone lacks the blob and where it is larger than `max_bytes` (such a
        blob is never read).
        """
        pending: list[str] = []
        for blob_id in blob_ids:
            pending.append(_checked(blob_id))
            if len(pending) == 1000:
                yield from self._read(pending, max_bytes)
                pending = []
        yield from self._read(pending, max_bytes)

    def missing(self, object_ids: Iterable[str]) -> set[str]:
        """Those of the objects that the repository lacks, as partial clones do."""
        return {name for name, size in self.sizes(object_ids).items() if size is None}

    def sizes(self, object_ids: Iterable[str]) -> dict[str, int | None]:
        """How many bytes each object has; None where a partial clone lacks it."""
        wanted = [_checked(object_id) for object_id in object_ids]
        try:
            infos = self._sizes.infos(wanted)
        except GitFailed as failure:
            raise self.damaged(failure) from failure
        sizes = (None if info is None else info.size for info in infos)
        return dict(zip(wanted, sizes, strict=True))

    def _read(self, blob_ids: list[str], max_bytes: int) -> Iterator[tuple[str, bytes | None]]:
        try:
            infos = self._sizes.infos(blob_ids)
            group: list[tuple[str, bool]] = []
            size = 0
            for blob_id, info in zip(blob_ids, infos, strict=True):
                small = info is not None and info.kind == "blob" and info.size <= max_bytes
                group.append((blob_id, small))
                size += info.size if info is not None and small else 0
                if size >= GROUP_BYTES:
                    yield from self._read_group(group)
                    group, size = [], 0
            yield from self._read_group(group)
        except GitFailed as failure:
            raise self.damaged(failure) from failure

    def _read_group(self, group: list[tuple[str, bool]]) -> list[tuple[str, bytes | None]]:
        # Complete before the first is handed out: the caller may ask for a tree in between.
        found = iter(self._contents.contents([blob_id for blob_id, small in group if small]))
        return [(blob_id, next(found) if small else None) for blob_id, small in group]

    def damaged(self, failure: GitFailed) -> RepositoryError:
        """The sentence for an object that git cannot read."""
        return RepositoryError(
            f"git cannot read the repository {self.root}: {failure.reason()}. "
            f"`git -C {self.root} fsck` names what is damaged; a fresh full clone repairs it."
        )

    def close(self) -> None:
        """Ends git. Harmless when repeated."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Trees:
    """Flat trees, put together from cached subtrees: commits that follow each other share them."""

    def __init__(self, contents: Batch) -> None:
        self._contents = contents
        self._cache: OrderedDict[tuple[str, str], dict[str, str]] = OrderedDict()
        self._entries = 0

    def files(self, tree_id: str) -> dict[str, str]:
        return dict(self._flat(tree_id, "", 0))

    def _flat(self, tree_id: str, prefix: str, depth: int) -> dict[str, str]:
        key = (tree_id, prefix)
        cached = self._cache.get(key)
        if cached is not None:
            self._cache.move_to_end(key)
            return cached
        if depth > MAX_TREE_DEPTH:
            raise GitFailed(0, f"its folders are nested deeper than {MAX_TREE_DEPTH}")
        (data,) = self._contents.contents([tree_id])
        if data is None:
            raise GitFailed(0, f"tree {tree_id} is missing")
        files: dict[str, str] = {}
        for mode, name, object_id in _entries(data, len(tree_id) // 2):
            # Interned, because the same path and blob stand in many trees.
            path = prefix + name.decode("utf-8", "surrogateescape")
            if mode in _FILE_MODES:
                files[sys.intern(path)] = sys.intern(object_id.hex())
            elif mode == b"40000":
                files.update(self._flat(object_id.hex(), path + "/", depth + 1))
            if len(files) > MAX_TREE_FILES:
                raise GitFailed(0, f"one commit has more than {MAX_TREE_FILES:,} files")
        self._keep(key, files)
        return files

    def _keep(self, key: tuple[str, str], files: dict[str, str]) -> None:
        self._cache[key] = files
        self._entries += len(files) + 1
        while self._entries > CACHED_ENTRIES and len(self._cache) > 1:
            _, dropped = self._cache.popitem(last=False)
            self._entries -= len(dropped) + 1


_ENTRY: Final = {
    width: re.compile(rb"([0-7]+) ([^\0]+)\0(.{%d})" % width, re.DOTALL) for width in (20, 32)
}


def _entries(data: bytes, width: int) -> list[tuple[bytes, bytes, bytes]]:
    """A tree object's entries: mode, name, binary id."""
    found = _ENTRY[width].findall(data)
    if sum(len(mode) + len(name) + width + 2 for mode, name, _ in found) != len(data):
        raise GitFailed(0, "a tree object is malformed")
    return found


def _checked(object_id: str) -> str:
    if not _OBJECT_ID.fullmatch(object_id):
        raise ValueError(f"not a full object id: {object_id!r}")
    return object_id


def _require_folder(path: Path) -> None:
    try:
        if not path.exists():
            raise RepositoryError(f"There is no folder {path}. Check the path.")
        if not path.is_dir():
            raise RepositoryError(f"{path} is a file. Give the folder of a git repository.")
    except (OSError, ValueError) as error:
        raise RepositoryError(
            f"{str(path)!r} cannot be opened: {error}. Check the path."
        ) from error


class _Facts:
    """What one `git rev-parse` says of a place; each git that need not start saves milliseconds."""

    def __init__(self, path: Path) -> None:
        told = _told(
            path, "--is-bare-repository", "--is-inside-git-dir", "--is-shallow-repository",
            "--show-object-format", "--git-path", "objects",
        )  # fmt: skip
        # The path comes last, since it may contain anything, even a line's end.
        bare, inside, shallow, self.object_format, objects = told.split("\n", 4)
        self.bare, self.inside_git_dir, self.shallow = (
            word == "true" for word in (bare, inside, shallow)
        )
        self.objects = (path / objects).resolve()


def _told(path: Path, *question: str) -> str:
    """The answer of `git rev-parse`; a RepositoryError that explains why there is none."""
    answer = ask(path, "rev-parse", *question)
    if answer.returncode == 0:
        return answer.text
    if "dubious ownership" in answer.stderr:
        raise RepositoryError(
            f"{path} belongs to another user, so git refuses to read it. If you trust it, run "
            f"`git config --global --add safe.directory {path.resolve()}`."
        )
    if "not a git repository" in answer.stderr:
        raise RepositoryError(
            f"{path} is not a git repository. Give a folder that `git clone` or `git init` made."
        )
    raise RepositoryError(
        f"git cannot open {path}: {_failed(answer).reason()}. "
        f"Mend what `git -C {path} status` complains about."
    )


def _failed(answer: Answer) -> GitFailed:
    return GitFailed(answer.returncode, answer.stderr)


def _name(root: Path) -> str:
    """`owner/name` of a remote address, without its user, password or host."""
    address = ask(root, "config", "--get", "remote.origin.url").text.strip()
    remote = re.fullmatch(r"(?!file:)[a-z+]+://[^/]+/(.+)", address) or re.fullmatch(
        r"[^/\s]+?:(?!//)(.+)", address
    )
    folder = root.resolve().name.removesuffix(".git") or "repository"
    if remote is None:
        return folder
    parts = [part for part in remote[1].rstrip("/").removesuffix(".git").split("/") if part]
    if not all(re.fullmatch(r"[\w.~-]+", part) for part in parts):
        return folder
    return "/".join(parts[-2:]) or folder
