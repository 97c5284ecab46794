"""What running commits' tests showed, one answer for each question. Raw: only appended.

Two campaigns on one store may find the same answer at once; the first to come stays.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import msgspec
from sqlalchemy import select

from twin.records import Validation
from twin.store.engine import Database
from twin.store.schema import raw_validation as table

_AT_ONCE = 500
_PAGE = 20
"""A validation of a whole suite can name ten thousand tests."""


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
            for part in _parts(wanted, _AT_ONCE):
                query = select(table.c.lookup, table.c.result).where(table.c.lookup.in_(part))
                found.update((row.lookup, _read(row.result)) for row in connection.execute(query))
        return found

    def answered(self, lookups: Iterable[str]) -> set[str]:
        """Those of the questions that have an answer."""
        found: set[str] = set()
        with self._database.reading() as connection:
            for part in _parts(list(lookups), _AT_ONCE):
                query = select(table.c.lookup).where(table.c.lookup.in_(part))
                found.update(connection.execute(query).scalars())
        return found

    def all_of(self, lookups: Sequence[str]) -> "Answers":
        """The answers to questions that have one, in this order, read as they are needed: those
        of a thousand commits name a million tests."""
        return Answers(self, lookups)


class Answers(Sequence[Validation]):
    """Validations that stay in the store. Good as long as the store is open."""

    def __init__(self, log: ValidationLog, lookups: Sequence[str]) -> None:
        self._log = log
        self._lookups = tuple(lookups)

    def __len__(self) -> int:
        return len(self._lookups)

    @overload
    def __getitem__(self, at: int) -> Validation: ...
    @overload
    def __getitem__(self, at: slice) -> "Answers": ...
    def __getitem__(self, at: int | slice) -> "Validation | Answers":
        if isinstance(at, slice):
            return Answers(self._log, self._lookups[at])
        lookup = self._lookups[at]
        return self._log.known([lookup])[lookup]

    def __iter__(self) -> Iterator[Validation]:
        return (validation for _, validation in self.items())

    def items(self) -> Iterator[tuple[str, Validation]]:
        """Each with its question."""
        for part in _parts(self._lookups, _PAGE):
            found = self._log.known(part)
            yield from ((lookup, found[lookup]) for lookup in part)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


def lookup_of(*parts: object) -> str:
    """A short name for a question."""
    told = json.dumps(parts, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(told.encode("ascii")).hexdigest()


def _read(result: object) -> Validation:
    return msgspec.convert(result, Validation)


def _parts(wanted: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(wanted), size):
        yield wanted[start : start + size]
