"""Everything that was found about packs so far, read row by row for those who count.

Reads what `validations` and `trials` wrote, in the order it came, a page at a time: the answers to
a thousand commits name a million tests.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from sqlalchemy import Row, Table, select

from twin.records import Validation
from twin.store.engine import Database
from twin.store.schema import raw_trial_step, raw_validation

_PAGE: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialStep:
    """A finished step of one attempt at one commit."""

    campaign: str
    pack: str
    commit_id: str
    number: int
    step: str
    seconds: float
    result: dict[str, Any]


class Outcomes:
    """Validations and steps of trials, the oldest first."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def validations(self) -> Iterator[tuple[str, Validation]]:
        """Pack and answer."""
        for row in self._rows(raw_validation):
            yield row.pack, msgspec.convert(row.result, Validation)

    def steps(self) -> Iterator[TrialStep]:
        """The steps of all campaigns."""
        names = TrialStep.__slots__
        for row in self._rows(raw_trial_step):
            yield TrialStep(**{name: getattr(row, name) for name in names})

    def _rows(self, table: Table) -> Iterator[Row[Any]]:
        last = -1
        while True:
            query = select(table).where(table.c.id > last).order_by(table.c.id).limit(_PAGE)
            with self._database.reading() as connection:
                rows = connection.execute(query).all()
            yield from rows
            if len(rows) < _PAGE:
                return
            last = rows[-1].id
