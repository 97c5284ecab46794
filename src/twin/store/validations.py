"""What running commits' tests showed, one answer for each question. Raw: only appended.

Two campaigns on one store may find the same answer at once; the first to come stays.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence

import msgspec
from sqlalchemy import select

from twin.records import Validation
from twin.store.engine import Database
from twin.store.schema import raw_validation as table

_AT_ONCE = 500


class ValidationLog:
    """Validations by what was asked."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, pack: str, lookup: str, validation: Validation) -> None:
        """Appends one, unless there is one; durable on return."""
        with self._database.writing() as connection:
            connection.execute(
                self._database.insert_new(table),
                {
                    "lookup": lookup,
                    "pack": pack,
                    "commit_id": validation.commit_id,
                    "why": validation.why,
                    "level": validation.level,
                    "seconds": validation.seconds,
                    "result": msgspec.to_builtins(validation),
                    "at": time.time(),
                },
            )

    def known(self, lookups: Iterable[str]) -> dict[str, Validation]:
        """Those of the questions that were answered before."""
        wanted = list(lookups)
        found: dict[str, Validation] = {}
        with self._database.reading() as connection:
            for part in _parts(wanted):
                query = select(table.c.lookup, table.c.result).where(table.c.lookup.in_(part))
                found.update((row.lookup, _read(row.result)) for row in connection.execute(query))
        return found


def lookup_of(*parts: object) -> str:
    """A short name for a question."""
    told = json.dumps(parts, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(told.encode("ascii")).hexdigest()


def _read(result: object) -> Validation:
    return msgspec.convert(result, Validation)


def _parts(wanted: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(wanted), _AT_ONCE):
        yield wanted[start : start + _AT_ONCE]
