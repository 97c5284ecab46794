"""What the sandbox showed of commits, one answer for each question. Raw: only appended.

Validations, generated tests and planted faults. Files that a record names are artefacts; put them
before it. Two campaigns on one store may find the same answer at once; the first to come stays.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar, overload

import msgspec
from sqlalchemy import Select, Table, select

from twin.records import Mutant, Supplement, Validation
from twin.store.engine import Database
from twin.store.schema import raw_mutant, raw_supplement, raw_validation

_AT_ONCE = 500
_PAGE = 20
"""A validation of a whole suite can name ten thousand tests."""

Found = TypeVar("Found", bound=Validation | Supplement | Mutant)


class AnswerLog(Generic[Found]):
    """Answers of one kind by what was asked."""

    def __init__(self, database: Database, table: Table, kind: type[Found]) -> None:
        self._database = database
        self._table = table
        self._kind = kind

    def add(self, pack: str, lookup: str, found: Found) -> None:
        """Appends one, unless there is one; durable on return."""
        told = {
            "lookup": lookup,
            "pack": pack,
            "commit_id": found.commit_id,
            "why": found.why,
            "seconds": found.seconds,
            "result": msgspec.to_builtins(found),
            "at": time.time(),
        }
        if isinstance(found, Validation):
            told["level"] = found.level
        with self._database.writing() as connection:
            connection.execute(self._database.insert_new(self._table), told)

    def known(self, lookups: Iterable[str]) -> dict[str, Found]:
        """The answers to those of the questions that were answered before."""
        columns = self._table.c
        rows = self._matching(select(columns.lookup, columns.result), lookups)
        return {row.lookup: self._read(row.result) for row in rows}

    def answered(self, lookups: Iterable[str]) -> set[str]:
        """Those of the questions that have an answer."""
        return {row.lookup for row in self._matching(select(self._table.c.lookup), lookups)}

    def all_of(self, lookups: Sequence[str]) -> "Answers[Found]":
        """The answers to questions that have one, in this order, read as they are needed: those
        of a thousand commits name a million tests."""
        return Answers(self, lookups)

    def of_pack(self, pack: str) -> dict[str, Found]:
        """Every answer about a pack by what was asked, the oldest first."""
        columns = self._table.c
        query = (
            select(columns.lookup, columns.result).where(columns.pack == pack).order_by(columns.id)
        )
        with self._database.reading() as connection:
            return {row.lookup: self._read(row.result) for row in connection.execute(query)}

    def _matching(self, query: Select[Any], lookups: Iterable[str]) -> Iterator[Any]:
        wanted = list(lookups)
        with self._database.reading() as connection:
            for part in _parts(wanted, _AT_ONCE):
                yield from connection.execute(query.where(self._table.c.lookup.in_(part)))

    def _read(self, result: object) -> Found:
        return msgspec.convert(result, self._kind)


class Answers(Sequence[Found]):
    """Answers that stay in the store. Good as long as the store is open."""

    def __init__(self, log: AnswerLog[Found], lookups: Sequence[str]) -> None:
        self._log = log
        self._lookups = tuple(lookups)

    def __len__(self) -> int:
        return len(self._lookups)

    @overload
    def __getitem__(self, at: int) -> Found: ...
    @overload
    def __getitem__(self, at: slice) -> "Answers[Found]": ...
    def __getitem__(self, at: int | slice) -> "Found | Answers[Found]":
        if isinstance(at, slice):
            return Answers(self._log, self._lookups[at])
        lookup = self._lookups[at]
        return self._log.known([lookup])[lookup]

    def __iter__(self) -> Iterator[Found]:
        return (found for _, found in self.items())

    def items(self) -> Iterator[tuple[str, Found]]:
        """Each with its question."""
        for part in _parts(self._lookups, _PAGE):
            found = self._log.known(part)
            yield from ((lookup, found[lookup]) for lookup in part)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


def validation_log(database: Database) -> AnswerLog[Validation]:
    """What running commits' tests showed."""
    return AnswerLog(database, raw_validation, Validation)


def supplement_log(database: Database) -> AnswerLog[Supplement]:
    """What was found to prove commits beyond their own tests."""
    return AnswerLog(database, raw_supplement, Supplement)


def mutant_log(database: Database) -> AnswerLog[Mutant]:
    """Faults that were put into code, and what the tests said."""
    return AnswerLog(database, raw_mutant, Mutant)


def lookup_of(*parts: object) -> str:
    """A short name for a question."""
    told = json.dumps(parts, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(told.encode("ascii")).hexdigest()


def _parts(wanted: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(wanted), size):
        yield wanted[start : start + size]
