"""Training pairs: made again from the repository and from raw at any time.

All pairs of a commit are written together, with a digest of what they were made from, so that a
build which was killed goes on at the next commit. Knows neither how pairs are made nor what makes
two of them the same; keeps the answer to both.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Row, Select, bindparam, delete, func, select, update

from twin.records import Message, Pair, PairKind, PairOrigin
from twin.store.engine import Database
from twin.store.schema import curated_pair as table
from twin.store.schema import curated_pair_commit as commits

_AT_ONCE = 200

_OF_ORIGIN = (
    commits.c.repository, commits.c.commit_id, commits.c.parent_id, commits.c.commit_time,
)  # fmt: skip
_IN_TIME = (commits.c.commit_time, commits.c.repository, commits.c.commit_id, table.c.ordinal)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """What duplicates of a pair are found by."""

    pair_id: int
    group: int
    """Pairs of one commit share it."""
    kind: PairKind
    content_hash: str
    signature: bytes
    dropped_by: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedPair:
    """As much of a pair as choosing needs."""

    pair_id: int
    repository: str
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PairCount:
    """How many pairs are alike."""

    repository: str
    kind: PairKind
    stage: str
    validity: str
    dropped_by: str | None
    num_pairs: int
    num_tokens: int


class PairTable:
    """Pairs by the commit that they come from."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def made_from(self, repository: str) -> dict[str, str]:
        """Commit -> the digest of what its pairs were made from."""
        query = select(commits.c.commit_id, commits.c.made_from).where(
            commits.c.repository == repository
        )
        with self._database.reading() as connection:
            return {row.commit_id: row.made_from for row in connection.execute(query)}

    def replace(
        self,
        *,
        repository: str,
        commit_id: str,
        parent_id: str,
        commit_time: int,
        made_from: str,
        pairs: Sequence[tuple[Pair, bytes]],
        left_out: Mapping[str, int],
    ) -> None:
        """Puts the pairs of a commit, each with its signature, in the place of those it had."""
        here = (commits.c.repository == repository, commits.c.commit_id == commit_id)
        with self._database.writing(durable=False) as connection:
            self._database.one_at_a_time(connection, "pairs")
            known = connection.execute(select(commits.c.id).where(*here)).scalar()
            if known is not None:
                connection.execute(delete(table).where(table.c.made_id == known))
                connection.execute(delete(commits).where(commits.c.id == known))
            made = connection.execute(
                commits.insert().values(
                    repository=repository,
                    commit_id=commit_id,
                    parent_id=parent_id,
                    commit_time=commit_time,
                    made_from=made_from,
                    left_out=dict(left_out),
                    at=time.time(),
                )
            ).inserted_primary_key
            assert made is not None
            rows = [_row(made[0], at, *one) for at, one in enumerate(pairs)]
            if rows:
                connection.execute(table.insert(), rows)

    def fingerprints(self) -> Iterator[Fingerprint]:
        """Of every pair, in the order of time."""
        query = (
            select(
                table.c.id, table.c.made_id, table.c.kind, table.c.content_hash,
                table.c.signature, table.c.dropped_by,
            )
            .join(commits)
            .order_by(*_IN_TIME)
        )  # fmt: skip
        for row in self._streamed(query):
            yield Fingerprint(
                pair_id=row.id,
                group=row.made_id,
                kind=row.kind,
                content_hash=row.content_hash,
                signature=row.signature,
                dropped_by=row.dropped_by,
            )

    def mark(self, dropped_by: Mapping[int, str | None]) -> None:
        """Says of pairs why they are left out, or with None that they are not."""
        if dropped_by:
            changed = update(table).where(table.c.id == bindparam("pair"))
            rows = [{"pair": pair, "dropped_by": why} for pair, why in sorted(dropped_by.items())]
            with self._database.writing(durable=False) as connection:
                connection.execute(changed, rows)

    def listed(
        self,
        kind: PairKind,
        *,
        stage: str = "",
        after: float | None = None,
        before: float | None = None,
        only_valid: bool = False,
        max_tokens: int | None = None,
    ) -> list[ListedPair]:
        """Pairs of one kind that are not dropped, in the order of time. Commits at `after` are in,
        those at `before` are not."""
        wanted = [table.c.kind == kind, table.c.dropped_by.is_(None)]
        if stage:
            wanted.append(table.c.stage == stage)
        if after is not None:
            wanted.append(commits.c.commit_time >= after)
        if before is not None:
            wanted.append(commits.c.commit_time < before)
        if only_valid:
            wanted.append(table.c.validity == "valid")
        if max_tokens is not None:
            wanted.append(table.c.num_tokens <= max_tokens)
        query = (
            select(table.c.id, commits.c.repository, table.c.num_tokens)
            .join(commits)
            .where(*wanted)
            .order_by(*_IN_TIME)
        )
        return [
            ListedPair(pair_id=row.id, repository=row.repository, num_tokens=row.num_tokens)
            for row in self._streamed(query)
        ]

    def read(self, pair_ids: Iterable[int]) -> Iterator[Pair]:
        """The pairs of these ids, in their order."""
        wanted = list(pair_ids)
        for start in range(0, len(wanted), _AT_ONCE):
            some = wanted[start : start + _AT_ONCE]
            query = select(table, *_OF_ORIGIN).join(commits).where(table.c.id.in_(some))
            with self._database.reading() as connection:
                found = {row.id: _pair(row) for row in connection.execute(query)}
            yield from (found[pair_id] for pair_id in some)

    def counts(self) -> list[PairCount]:
        """Pairs by repository, kind, stage, validity and what became of them."""
        by = (
            commits.c.repository, table.c.kind, table.c.stage, table.c.validity, table.c.dropped_by
        )  # fmt: skip
        query = (
            select(*by, func.count(), func.sum(table.c.num_tokens))
            .join(commits)
            .group_by(*by)
            .order_by(*by)
        )
        with self._database.reading() as connection:
            return [
                PairCount(
                    repository=repository, kind=kind, stage=stage, validity=validity,
                    dropped_by=dropped_by, num_pairs=num_pairs, num_tokens=int(num_tokens),
                )
                for repository, kind, stage, validity, dropped_by, num_pairs, num_tokens
                in connection.execute(query)
            ]  # fmt: skip

    def left_out(self) -> Iterator[tuple[str, dict[str, int]]]:
        """(repository, reason -> how often no pair came of it), for each commit."""
        query = select(commits.c.repository, commits.c.left_out).order_by(commits.c.id)
        for row in self._streamed(query):
            yield row.repository, dict(row.left_out)

    def _streamed(self, query: Select[Any]) -> Iterator[Row[Any]]:
        with self._database.reading() as connection:
            yield from connection.execution_options(yield_per=_AT_ONCE).execute(query)


def _row(made_id: int, ordinal: int, pair: Pair, signature: bytes) -> dict[str, object]:
    origin = pair.origin
    return {
        "made_id": made_id,
        "ordinal": ordinal,
        "kind": pair.kind,
        "stage": pair.stage,
        "content_hash": pair.content_hash,
        "source": origin.source,
        "campaign": origin.campaign,
        "trial": origin.trial,
        "validity": origin.validity,
        "context_id": origin.context_id,
        "code_version": origin.code_version,
        "num_tokens": pair.num_tokens,
        "task": pair.task,
        "prompt": [[message.role, message.content] for message in pair.prompt],
        "completion": pair.completion,
        "rejected": pair.rejected,
        "signature": signature,
    }


def _pair(row: Row[Any]) -> Pair:
    return Pair(
        kind=row.kind,
        stage=row.stage,
        task=row.task,
        prompt=tuple(Message(role=role, content=content) for role, content in row.prompt),
        completion=row.completion,
        rejected=row.rejected,
        num_tokens=row.num_tokens,
        origin=msgspec.convert(
            {name: getattr(row, name) for name in PairOrigin.__struct_fields__}, PairOrigin
        ),
    )
