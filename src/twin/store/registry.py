"""The versions of each model, which one is in service, and every move that led there.

Owns the legal moves, each in one transaction. Judges nothing: `gate` decides, this keeps the books.
Versions and moves are raw and stay for ever; the present status is curated, a replay of the moves.
"""

import time
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection, Select, delete, func, insert, select, update

from twin.errors import IllegalMove, UnknownVersion
from twin.records import Lineage, ModelVersion, Move, VersionStatus
from twin.store.engine import Database
from twin.store.schema import curated_model_status, raw_move, raw_version

LEGAL_MOVES: dict[VersionStatus, tuple[VersionStatus, ...]] = {
    "candidate": ("passed", "failed"),
    "passed": ("shadow", "live"),
    "shadow": ("canary", "live", "retired"),
    "canary": ("live", "retired"),
    "live": ("retired",),
    "failed": (),
    "retired": (),  # Back to live by `rollback` alone.
}

Cause = Literal["move", "promote", "rollback"]


class _Step(NamedTuple):
    version_id: str
    after: str
    cause: str


class Registry:
    """The books of all models. At most one version of a model is live; the database holds that."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, *, model: str, artifact: str, lineage: Lineage, metrics: dict[str, object]
    ) -> ModelVersion:
        """Enters a new candidate; ids count up per model: `relevance-1`, `relevance-2` ..."""
        with self._database.writing() as connection:
            self._database.one_at_a_time(connection, "registry")
            last = connection.execute(
                select(func.max(raw_version.c.number)).where(raw_version.c.model == model)
            ).scalar()
            number = 1 if last is None else last + 1
            version = ModelVersion(
                version_id=f"{model}-{number}",
                model=model,
                status="candidate",
                artifact=artifact,
                created_at=time.time(),
                lineage=lineage,
                metrics=dict(metrics),
            )
            connection.execute(insert(raw_version).values(_version_row(version, number)))
            connection.execute(insert(curated_model_status).values(_status_row(version)))
        return version

    def move(self, version_id: str, to: VersionStatus, reason: str) -> ModelVersion:
        """Changes a version's status; to `live` is a promotion.

        Raises IllegalMove (it says what is allowed) and UnknownVersion.
        """
        with self._database.writing() as connection:
            self._database.one_at_a_time(connection, "registry")
            version = _get(connection, version_id)
            allowed = LEGAL_MOVES[version.status]
            if to not in allowed:
                raise IllegalMove(_refusal(version, to, allowed))
            if to == "live":
                self._put_live(connection, version, "promote", reason)
            else:
                _enter(connection, version, to, "move", reason)
            return _get(connection, version_id)

    def promote(self, version_id: str, reason: str) -> ModelVersion:
        """Puts a version that passed the gate into service; the one before it retires.

        Raises IllegalMove where it has not passed, UnknownVersion where it is not known.
        """
        return self.move(version_id, "live", reason)

    def rollback(self, model: str, reason: str) -> ModelVersion:
        """Puts the version back that was in service before; the present one retires.

        Goes one further back each time: never to a version that was itself rolled back or taken
        out by hand. Raises IllegalMove where there is none before.
        """
        with self._database.writing() as connection:
            self._database.one_at_a_time(connection, "registry")
            live = _live(connection, model)
            earlier = in_service(_steps(connection, model))
            if live is not None:
                earlier.remove(live.version_id)
            if not earlier:
                raise IllegalMove(
                    f"No version of {model} was in service before "
                    f"{live.version_id if live else 'now'}. `twin models` lists what there is."
                )
            version = _get(connection, earlier[-1])
            self._put_live(connection, version, "rollback", reason)
            return _get(connection, version.version_id)

    def live(self, model: str) -> ModelVersion | None:
        """The version in service, None where the shipped default still is."""
        with self._database.reading() as connection:
            return _live(connection, model)

    def get(self, version_id: str) -> ModelVersion:
        """That version. Raises UnknownVersion."""
        with self._database.reading() as connection:
            return _get(connection, version_id)

    def versions(self, model: str | None = None) -> list[ModelVersion]:
        """All versions, or one model's, oldest first."""
        query = _versions().order_by(raw_version.c.id)
        if model is not None:
            query = query.where(raw_version.c.model == model)
        with self._database.reading() as connection:
            return [_version(row) for row in connection.execute(query)]

    def history(self, model: str) -> list[Move]:
        """Every move of every version of that model, oldest first."""
        with self._database.reading() as connection:
            return [
                Move(
                    version_id=row.version_id,
                    before=row.before,
                    after=row.after,
                    reason=row.reason,
                    at=row.at,
                )
                for row in connection.execute(_moves(model))
            ]

    def replay(self, connection: Connection) -> None:
        """Makes the present statuses again from the moves, after the curated tables were lost."""
        status = {
            row.version_id: {
                "version_id": row.version_id,
                "model": row.model,
                "status": "candidate",
            }
            for row in connection.execute(select(raw_version.c.version_id, raw_version.c.model))
        }
        for move in connection.execute(select(raw_move).order_by(raw_move.c.id)):
            status[move.version_id]["status"] = move.after
        connection.execute(delete(curated_model_status))
        if status:
            connection.execute(insert(curated_model_status), list(status.values()))

    def _put_live(
        self, connection: Connection, version: ModelVersion, cause: Cause, reason: str
    ) -> None:
        current = _live(connection, version.model)
        if current is not None:  # First, since the database allows one live version at a time.
            _enter(connection, current, "retired", cause, f"{version.version_id}: {reason}")
        _enter(connection, version, "live", cause, reason)


def in_service(steps: Iterable[_Step]) -> list[str]:
    """The versions a rollback can go through, the present one last: a stack made by replay.

    A promotion puts a version on top; a rollback takes off what is above the version it returns
    to; a version that was retired by hand is taken out wherever it is.
    """
    stack: list[str] = []
    for step in steps:
        if step.after == "live" and step.cause == "rollback":
            del stack[stack.index(step.version_id) + 1 :]
        elif step.after == "live":
            stack.append(step.version_id)
        elif step.after == "retired" and step.cause == "move" and step.version_id in stack:
            stack.remove(step.version_id)
    return stack


def _steps(connection: Connection, model: str) -> list[_Step]:
    rows = connection.execute(_moves(model))
    return [_Step(row.version_id, row.after, row.cause) for row in rows]


def _moves(model: str) -> Select[Any]:
    return (
        select(raw_move)
        .join(raw_version, raw_version.c.version_id == raw_move.c.version_id)
        .where(raw_version.c.model == model)
        .order_by(raw_move.c.id)
    )


def _enter(
    connection: Connection, version: ModelVersion, to: VersionStatus, cause: Cause, reason: str
) -> None:
    """Records one move in raw and in the present status."""
    connection.execute(
        insert(raw_move).values(
            version_id=version.version_id,
            before=version.status,
            after=to,
            cause=cause,
            reason=reason,
            at=time.time(),
        )
    )
    ours = curated_model_status.c.version_id == version.version_id
    connection.execute(update(curated_model_status).where(ours).values(status=to))


def _refusal(version: ModelVersion, to: str, allowed: tuple[VersionStatus, ...]) -> str:
    if allowed:
        cure = f"From there it can become: {', '.join(allowed)}."
    elif version.status == "retired":
        cure = "Only `twin models rollback` brings a retired version back."
    else:
        cure = "Fit a new candidate with `twin improve`."
    return f"{version.version_id} is {version.status} and cannot become {to}. {cure}"


def _versions() -> Select[Any]:
    return select(raw_version, curated_model_status.c.status).join(
        curated_model_status, curated_model_status.c.version_id == raw_version.c.version_id
    )


def _get(connection: Connection, version_id: str) -> ModelVersion:
    row = connection.execute(_versions().where(raw_version.c.version_id == version_id)).first()
    if row is None:
        raise UnknownVersion(
            f"There is no model version {version_id!r}. `twin models` lists those there are."
        )
    return _version(row)


def _live(connection: Connection, model: str) -> ModelVersion | None:
    row = connection.execute(
        _versions().where(
            curated_model_status.c.model == model, curated_model_status.c.status == "live"
        )
    ).first()
    return None if row is None else _version(row)


def _version(row: Any) -> ModelVersion:
    return ModelVersion(
        version_id=row.version_id,
        model=row.model,
        status=row.status,
        artifact=row.artifact,
        created_at=row.created_at,
        lineage=Lineage(
            code_version=row.code_version,
            dataset_hash=row.dataset_hash,
            config=row.config,
            seed=row.seed,
            parent_version=row.parent_version,
        ),
        metrics=row.metrics,
    )


def _version_row(version: ModelVersion, number: int) -> dict[str, object]:
    return {
        "version_id": version.version_id,
        "model": version.model,
        "number": number,
        "artifact": version.artifact,
        "code_version": version.lineage.code_version,
        "dataset_hash": version.lineage.dataset_hash,
        "config": version.lineage.config,
        "seed": version.lineage.seed,
        "parent_version": version.lineage.parent_version,
        "metrics": version.metrics,
        "created_at": version.created_at,
    }


def _status_row(version: ModelVersion) -> dict[str, object]:
    return {
        "version_id": version.version_id,
        "model": version.model,
        "status": version.status,
    }
