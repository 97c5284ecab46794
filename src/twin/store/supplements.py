"""Generated tests and planted faults, one answer for each question. Raw: only appended.

The files themselves are artefacts; put them before the record that names them. Two campaigns on one
store may find the same answer at once; the first to come stays.
"""

import time
from collections.abc import Iterable
from typing import Generic, TypeVar

import msgspec
from sqlalchemy import Table, select

from twin.records import Mutant, Supplement
from twin.store.engine import Database
from twin.store.schema import raw_mutant, raw_supplement

_AT_ONCE = 500

Found = TypeVar("Found", bound=Supplement | Mutant)


class FoundLog(Generic[Found]):
    """Records of one kind by what was asked."""

    def __init__(self, database: Database, table: Table, kind: type[Found]) -> None:
        self._database = database
        self._table = table
        self._kind = kind

    def add(self, pack: str, lookup: str, found: Found) -> None:
        """Appends one, unless there is one; durable on return."""
        with self._database.writing() as connection:
            connection.execute(
                self._database.insert_new(self._table),
                {
                    "lookup": lookup,
                    "pack": pack,
                    "commit_id": found.commit_id,
                    "why": found.why,
                    "seconds": found.seconds,
                    "result": msgspec.to_builtins(found),
                    "at": time.time(),
                },
            )

    def of_pack(self, pack: str) -> dict[str, Found]:
        """Every record of a pack by what was asked, the oldest first."""
        columns = self._table.c
        query = (
            select(columns.lookup, columns.result).where(columns.pack == pack).order_by(columns.id)
        )
        with self._database.reading() as connection:
            return {
                row.lookup: msgspec.convert(row.result, self._kind)
                for row in connection.execute(query)
            }

    def known(self, lookups: Iterable[str]) -> dict[str, Found]:
        """Those of the questions that were answered before."""
        wanted = list(lookups)
        columns = self._table.c
        found: dict[str, Found] = {}
        with self._database.reading() as connection:
            for start in range(0, len(wanted), _AT_ONCE):
                part = wanted[start : start + _AT_ONCE]
                query = select(columns.lookup, columns.result).where(columns.lookup.in_(part))
                for row in connection.execute(query):
                    found[row.lookup] = msgspec.convert(row.result, self._kind)
        return found


def supplement_log(database: Database) -> FoundLog[Supplement]:
    """What was found to prove commits beyond their own tests."""
    return FoundLog(database, raw_supplement, Supplement)


def mutant_log(database: Database) -> FoundLog[Mutant]:
    """Faults that were put into code, and what the tests said."""
    return FoundLog(database, raw_mutant, Mutant)
