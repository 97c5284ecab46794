"""The log of answers: what `locate` was asked, which files it ranked and why. Append-only."""

import time
from itertools import groupby

from sqlalchemy import insert, select

from twin.records import RankedFile, RetrievalDecision
from twin.store.engine import Database
from twin.store.schema import raw_decision, raw_decision_file


class DecisionLog:
    """Retrieval decisions, a row per ranked file."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, decision: RetrievalDecision) -> int:
        """Appends one decision; returns its number. Its time is now unless it has one."""
        with self._database.writing() as connection:
            added = connection.execute(
                insert(raw_decision).values(
                    repository=decision.repository,
                    commit_id=decision.commit_id,
                    task_id=decision.task_id,
                    query=decision.query,
                    version=decision.version,
                    seconds=decision.seconds,
                    at=decision.at or time.time(),
                )
            )
            assert added.inserted_primary_key is not None
            number = int(added.inserted_primary_key[0])
            files = [
                {
                    "decision_id": number,
                    "rank": rank,
                    "path": file.path,
                    "score": file.score,
                    "reason": file.reason,
                }
                for rank, file in enumerate(decision.ranked, 1)
            ]
            if files:
                connection.execute(insert(raw_decision_file), files)
        return number

    def recent(self, limit: int = 20) -> list[RetrievalDecision]:
        """The newest decisions first."""
        newest = select(raw_decision).order_by(raw_decision.c.id.desc()).limit(limit)
        file = raw_decision_file.c
        with self._database.reading() as connection:
            rows = connection.execute(newest).all()
            ranked = connection.execute(
                select(raw_decision_file)
                .where(file.decision_id.in_([row.id for row in rows]))
                .order_by(file.decision_id, file.rank)
            )
            files = {
                number: tuple(
                    RankedFile(path=row.path, score=row.score, reason=row.reason) for row in group
                )
                for number, group in groupby(ranked, key=lambda row: row.decision_id)
            }
        return [
            RetrievalDecision(
                repository=row.repository,
                commit_id=row.commit_id,
                query=row.query,
                version=row.version,
                ranked=files.get(row.id, ()),
                seconds=row.seconds,
                task_id=row.task_id,
                at=row.at,
            )
            for row in rows
        ]
