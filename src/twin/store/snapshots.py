"""Which files an indexed commit holds, and as which blobs: what `index` compares the next one with.

Owns only the list; what is in a blob is in `blobs`. Rebuildable from the repository.
"""

import time
import zlib

from sqlalchemy import delete, select

from twin.store.engine import Database
from twin.store.schema import curated_snapshot as table

_KEPT = 16
"""Per repository. The newest answers queries; a few more serve branches switched back and forth."""


class Snapshots:
    """Path -> blob id, per repository and commit."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, repository: str, commit_id: str, files: dict[str, str]) -> None:
        """Stores the snapshot as this repository's newest; older ones beyond a few are dropped."""
        ours = table.c.repository == repository
        row = {
            "repository": repository,
            "commit_id": commit_id,
            "num_files": len(files),
            "files": _pack(files),
            "at": time.time(),
        }
        newest = select(table.c.id).where(ours).order_by(table.c.id.desc()).limit(_KEPT)
        with self._database.writing(durable=False) as connection:
            self._database.one_at_a_time(connection, f"snapshots {repository}")
            connection.execute(delete(table).where(ours, table.c.commit_id == commit_id))
            connection.execute(table.insert(), row)
            kept = connection.execute(newest).scalars().all()
            connection.execute(delete(table).where(ours, table.c.id.not_in(kept)))

    def get(self, repository: str, commit_id: str) -> dict[str, str] | None:
        """The files of that commit, None where it was not indexed (or long ago)."""
        query = select(table.c.files).where(
            table.c.repository == repository, table.c.commit_id == commit_id
        )
        with self._database.reading() as connection:
            packed = connection.execute(query).scalar()
        return None if packed is None else _unpack(packed)

    def newest(self, repository: str) -> tuple[str, dict[str, str]] | None:
        """The commit that was indexed last and its files, None where there is none yet."""
        query = (
            select(table.c.commit_id, table.c.files)
            .where(table.c.repository == repository)
            .order_by(table.c.id.desc())
            .limit(1)
        )
        with self._database.reading() as connection:
            row = connection.execute(query).first()
        return None if row is None else (row.commit_id, _unpack(row.files))


def _pack(files: dict[str, str]) -> bytes:
    """As `git ls-tree -z` writes it: a path may hold anything but NUL, a blob id no tab."""
    listing = "\0".join(f"{blob_id}\t{path}" for path, blob_id in files.items())
    return zlib.compress(listing.encode("utf-8", "surrogateescape"), 1)


def _unpack(packed: bytes) -> dict[str, str]:
    listing = zlib.decompress(packed).decode("utf-8", "surrogateescape")
    if not listing:
        return {}
    entries = (entry.partition("\t") for entry in listing.split("\0"))
    return {path: blob_id for blob_id, _, path in entries}
