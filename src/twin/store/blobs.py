"""What was derived from one git blob, kept under the blob's name: parse a file once, ever.

A cache: everything here can be made again from the repository. Does not know what a payload means;
`kind` and `version` say who can read it.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from sqlalchemy import bindparam, delete, func, select

from twin.store.engine import Database
from twin.store.schema import curated_blob as table

_AT_ONCE = 500
"""Names per SELECT. Above a few hundred the time per name stays the same; databases cap it."""


class BlobCache:
    """Payloads by (kind, version, blob id)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get_many(self, kind: str, version: int, blob_ids: Iterable[str]) -> dict[str, bytes]:
        """The payloads that are there; a missing blob is simply not in the result."""
        found: dict[str, bytes] = {}
        query = select(table.c.blob_id, table.c.payload).where(
            table.c.kind == kind,
            table.c.version == version,
            table.c.blob_id.in_(bindparam("wanted", expanding=True)),
        )
        wanted = iter(dict.fromkeys(blob_ids))
        with self._database.reading() as connection:
            while some := list(islice(wanted, _AT_ONCE)):
                rows = connection.execute(query, {"wanted": some})
                found.update({blob_id: payload for blob_id, payload in rows})
        return found

    def put_many(self, kind: str, version: int, payloads: Mapping[str, bytes]) -> None:
        """Stores all or none. A blob that is there already keeps its payload: it is the same."""
        if not payloads:
            return
        with self._database.writing(durable=False) as connection:
            # In one order for all writers, so that two of them cannot wait for each other.
            for rows in _batches(kind, version, sorted(payloads.items())):
                connection.execute(self._database.insert_new(table), rows)

    def prune(self) -> int:
        """Deletes the payloads of each kind's older versions; returns how many."""
        with self._database.writing(durable=False) as connection:
            newest = connection.execute(
                select(table.c.kind, func.max(table.c.version)).group_by(table.c.kind)
            ).all()
            return sum(
                connection.execute(
                    delete(table).where(table.c.kind == kind, table.c.version < version)
                ).rowcount
                for kind, version in newest
            )


def _batches(
    kind: str, version: int, payloads: list[tuple[str, bytes]]
) -> Iterator[list[dict[str, object]]]:
    for start in range(0, len(payloads), _AT_ONCE):
        yield [
            {"kind": kind, "version": version, "blob_id": blob_id, "payload": payload}
            for blob_id, payload in payloads[start : start + _AT_ONCE]
        ]
