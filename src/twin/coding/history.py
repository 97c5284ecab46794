"""The history of a repository as `Commit` records, from one streaming `git log`.

Owns the log's format and what happens where git cannot produce it (blobs that a partial clone
lacks). Keeps one commit in memory at a time. Does not judge commits: `observe.mine` does.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from twin.coding.git import GitRepository
from twin.coding.gitprocess import Child, GitFailed
from twin.records import ChangeStatus, Commit, FileChange

MAX_MESSAGE: Final = 100_000
"""Characters kept of a subject or body. Some commits carry whole logs; nobody reads that far."""

_MARK: Final = b"commit "
_FORMAT: Final = "tformat:commit %H%x00%P%x00%an%x00%ae%x00%at%x00%ct%x00%s%x00%b"
_LOG: Final = ("log", "-z", f"--format={_FORMAT}", "--encoding=UTF-8", "--no-abbrev", "--raw")
_COUNTED: Final = (*_LOG, "--numstat", "-M", "-l1000")
"""Renames are looked for among at most 1,000 files a side: git's own limit, said aloud because
the time grows with its square."""
_UNCOUNTED: Final = (*_LOG, "-M100%")
"""Needs no blob: only exact renames, no line counts."""

_READ: Final = 1 << 18
_CHUNK: Final = 500
"""Commits asked for at a time where blobs are missing."""

_STATUSES: Final[dict[bytes, ChangeStatus]] = {
    b"A": "A", b"C": "C", b"D": "D", b"M": "M", b"R": "R", b"T": "T",
}  # fmt: skip


def read_history(
    repository: GitRepository, *, revision: str = "HEAD", since: str | None = None
) -> Iterator[Commit]:
    """Every commit that `revision` contains and `since` does not, parents before children.

    Only source has line counts. Where a partial clone lacks a blob, the commits that need it have
    none at all and only exact renames. Raises RepositoryError for an unknown revision or a damaged
    repository.
    """
    span = [repository.resolve(revision)]
    if since is not None:
        span.append(f"^{repository.resolve(since)}")
    order = ("--topo-order", "--reverse", *span)
    seen = 0
    try:
        with repository.objects.stream(*_COUNTED, *order) as log:
            for commit in _commits(log):
                yield commit
                seen += 1
        return
    except GitFailed as failure:
        if "unable to read" not in failure.stderr:
            raise repository.damaged(failure) from failure
    # The stream broke at the first commit with a missing blob: go on from there, more slowly.
    try:
        with repository.objects.stream("rev-list", *order) as listing:
            ids = (line.strip().decode() for line in islice(listing.stdout, seen, None))
            while chunk := list(islice(ids, _CHUNK)):
                yield from _without_missing(repository, chunk)
            listing.finish()
    except GitFailed as failure:
        raise repository.damaged(failure) from failure


def read_commits(repository: GitRepository, commit_ids: Sequence[str]) -> Iterator[Commit]:
    """These commits, in this order, without line counts, so that no blob is read.

    Raises RepositoryError where git cannot read them.
    """
    try:
        yield from _chosen(repository, _UNCOUNTED, commit_ids)
    except GitFailed as failure:
        raise repository.damaged(failure) from failure


def _without_missing(repository: GitRepository, commit_ids: list[str]) -> Iterator[Commit]:
    """These commits in this order; counted where all their blobs are there."""
    uncounted = {commit.commit_id: commit for commit in _chosen(repository, _UNCOUNTED, commit_ids)}
    needed = {blob for commit in uncounted.values() for blob in _blobs(commit)}
    missing = repository.missing(sorted(needed))
    complete = [
        commit_id for commit_id in commit_ids if missing.isdisjoint(_blobs(uncounted[commit_id]))
    ]
    counted = _chosen(repository, _COUNTED, complete)
    for commit_id in commit_ids:
        whole = missing.isdisjoint(_blobs(uncounted[commit_id]))
        yield next(counted) if whole else uncounted[commit_id]


def _chosen(
    repository: GitRepository, arguments: Iterable[str], commit_ids: Sequence[str]
) -> Iterator[Commit]:
    given = "".join(f"{commit_id}\n" for commit_id in commit_ids).encode()
    if not commit_ids:
        return
    with repository.objects.stream(*arguments, "--no-walk=unsorted", "--stdin", given=given) as log:
        yield from _commits(log)


def _blobs(commit: Commit) -> Iterator[str]:
    for change in commit.changes:
        if change.old_blob:
            yield change.old_blob
        if change.new_blob:
            yield change.new_blob


def _fields(log: Child) -> Iterator[bytes]:
    """The log cut at its NUL bytes. Raises GitFailed before the end of a log that broke off."""
    parts: list[bytes] = []
    while data := os.read(log.stdout.fileno(), _READ):
        head, nul, tail = data.partition(b"\0")
        if not nul:
            parts.append(data)  # one field larger than a read: joined once, not at every read
            continue
        yield b"".join([*parts, head])
        *whole, rest = tail.split(b"\0")
        yield from whole
        parts = [rest]
    log.finish()
    if last := b"".join(parts):
        yield last


def _commits(log: Child) -> Iterator[Commit]:
    """Parses the log. A commit is handed out when the next begins or the log has ended well."""
    fields = _fields(log)
    header: list[bytes] = []
    changes: list[_Change] = []
    counts: dict[bytes, tuple[bytes, bytes]] = {}
    for field in fields:
        if field.startswith(_MARK):
            if header:
                yield _commit(header, changes, counts)
            header = [field[len(_MARK) :], *islice(fields, 7)]
            changes, counts = [], {}
            continue
        entry = field.lstrip(b"\n")
        if entry.startswith(b":"):
            _, _, old_blob, new_blob, status = entry.split(b" ")
            path = next(fields)
            old_path = None
            if status[:1] in b"RC":
                old_path, path = path, next(fields)
            changes.append((path, old_path, status[:1], old_blob, new_blob))
        elif entry:
            added, deleted, path = entry.split(b"\t", 2)
            if not path:  # a rename: its two names follow
                next(fields)
                path = next(fields)
            counts[path] = (added, deleted)
    if header:
        yield _commit(header, changes, counts)


_Change = tuple[bytes, bytes | None, bytes, bytes, bytes]


def _commit(
    header: list[bytes], changes: list[_Change], counts: dict[bytes, tuple[bytes, bytes]]
) -> Commit:
    commit_id, parents, author, email, author_time, commit_time, subject, body = header
    return Commit(
        commit_id=commit_id.decode(),
        parent_ids=tuple(parents.decode().split()),
        author_name=_text(author),
        author_email=_text(email),
        author_time=_time(author_time),
        commit_time=_time(commit_time),
        subject=_text(subject)[:MAX_MESSAGE].rstrip(),
        body=_text(body)[:MAX_MESSAGE].rstrip(),
        changes=tuple(_file_change(change, counts) for change in changes),
    )


def _file_change(change: _Change, counts: dict[bytes, tuple[bytes, bytes]]) -> FileChange:
    path, old_path, status, old_blob, new_blob = change
    added, deleted = counts.get(path, (b"-", b"-"))
    return FileChange(
        path=path.decode("utf-8", "surrogateescape"),
        status=_STATUSES.get(status, "M"),
        old_path=None if old_path is None else old_path.decode("utf-8", "surrogateescape"),
        added=None if added == b"-" else int(added),
        deleted=None if deleted == b"-" else int(deleted),
        old_blob="" if not old_blob.strip(b"0") else old_blob.decode(),
        new_blob="" if not new_blob.strip(b"0") else new_blob.decode(),
    )


def _time(data: bytes) -> int:
    """Seconds, kept within the years 1 and 9999 so that every calendar and database takes them."""
    try:
        return max(-62_135_596_800, min(int(data), 253_402_300_799))
    except ValueError:
        return 0  # git found no date that it can read


def _text(data: bytes) -> str:
    """Words of people: UTF-8 as git promises, else Latin-1, in which every byte means something."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")
