"""The finished steps of trials: what lets a campaign that was killed go on at the exact step.

Raw: only appended, and the first answer to a question stays. Knows no step's meaning.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import select

from twin.store.answers import lookup_of
from twin.store.engine import Database
from twin.store.schema import raw_trial_step as table

Result = dict[str, Any]
_PAGE = 100
_COLUMNS = (
    table.c.campaign, table.c.commit_id, table.c.number, table.c.step, table.c.result,
    table.c.seconds,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What one trial has come to so far, by step."""

    campaign: str
    commit_id: str
    number: int
    results: dict[str, Result]
    seconds: dict[str, float]


class TrialLog:
    """Steps by campaign, commit, trial and name."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def finished(self, campaign: str, commit_id: str, number: int) -> dict[str, Result]:
        """Step -> result, of one trial."""
        query = select(table.c.step, table.c.result).where(
            table.c.campaign == campaign,
            table.c.commit_id == commit_id,
            table.c.number == number,
        )
        with self._database.reading() as connection:
            return {row.step: dict(row.result) for row in connection.execute(query)}

    def of_commit(self, pack: str, commit_id: str) -> list[Steps]:
        """Every trial at one commit, of whichever campaign, in the order in which they began."""
        query = (
            select(*_COLUMNS)
            .where(table.c.pack == pack, table.c.commit_id == commit_id)
            .order_by(table.c.id)
        )
        found: dict[tuple[str, int], list[Any]] = {}
        with self._database.reading() as connection:
            for row in connection.execute(query):
                found.setdefault((row.campaign, row.number), []).append(row)
        return [_steps(rows) for rows in found.values()]

    def every(self, campaign: str) -> Iterator[Steps]:
        """All trials of a campaign, read as they are needed."""
        query = (
            select(*_COLUMNS)
            .where(table.c.campaign == campaign)
            .order_by(table.c.commit_id, table.c.number, table.c.id)
            .execution_options(yield_per=_PAGE)
        )
        with self._database.reading() as connection:
            rows = connection.execute(query)
            for _, steps in groupby(rows, key=lambda row: (row.commit_id, row.number)):
                yield _steps(list(steps))

    def add(
        self,
        *,
        campaign: str,
        pack: str,
        commit_id: str,
        number: int,
        step: str,
        result: Result,
        seconds: float,
    ) -> None:
        """Appends one, unless there is one; durable on return."""
        with self._database.writing() as connection:
            connection.execute(
                self._database.insert_new(table),
                {
                    "lookup": lookup_of(campaign, commit_id, number, step),
                    "campaign": campaign,
                    "pack": pack,
                    "commit_id": commit_id,
                    "number": number,
                    "step": step,
                    "seconds": seconds,
                    "result": result,
                    "at": time.time(),
                },
            )


def _steps(rows: Sequence[Any]) -> Steps:
    """One trial's."""
    return Steps(
        campaign=rows[0].campaign,
        commit_id=rows[0].commit_id,
        number=rows[0].number,
        results={row.step: dict(row.result) for row in rows},
        seconds={row.step: row.seconds for row in rows},
    )
