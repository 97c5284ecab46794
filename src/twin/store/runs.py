"""The log of commands: what was run, which stages it finished, how it ended. Raw: only appended.

A finished stage is what lets a later run skip it. Decides nothing about what to skip: `cycle` does.
"""

import hashlib
import os
import re
import secrets
import socket
import time
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import Connection, func, insert, select

from twin.records import Run, RunStatus
from twin.store.engine import Database
from twin.store.schema import raw_rebuild, raw_run, raw_run_end, raw_run_stage

_PASSWORD = re.compile(r"(://[^:/@\s]*:)[^@\s]+(@)")


class RunLog:
    """Runs and their stages."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, command: str, repository: str, config: dict[str, Any]) -> str:
        """Records that a command started; returns the run's id. Passwords in URLs are masked."""
        now = time.time()
        moment = datetime.fromtimestamp(now, UTC).strftime("%Y%m%d-%H%M%S")
        run_id = f"run-{moment}-{secrets.token_hex(3)}"
        with self._database.writing() as connection:
            connection.execute(
                insert(raw_run).values(
                    run_id=run_id,
                    command=command,
                    repository=repository,
                    config=_masked(config),
                    started_at=now,
                    host=socket.gethostname(),
                    pid=os.getpid(),
                )
            )
        return run_id

    def stage_done(
        self, run_id: str, stage: str, key: str, result: dict[str, Any], seconds: float
    ) -> None:
        """Records a stage's result. `key` says what it was made from: same key, same result."""
        with self._database.writing() as connection:
            repository = connection.execute(
                select(raw_run.c.repository).where(raw_run.c.run_id == run_id)
            ).scalar()
            if repository is None:
                raise ValueError(f"There is no run {run_id!r}.")
            connection.execute(
                insert(raw_run_stage).values(
                    run_id=run_id,
                    lookup=_lookup(repository, stage, key),
                    stage=stage,
                    key=key,
                    result=result,
                    seconds=seconds,
                    at=time.time(),
                )
            )

    def finish(
        self,
        run_id: str,
        status: Literal["done", "refused", "failed", "interrupted"],
        result: dict[str, Any],
    ) -> None:
        """Records how a run ended. Once only: the first ending stands."""
        with self._database.writing() as connection:
            ending = {"run_id": run_id, "status": status, "result": result, "at": time.time()}
            connection.execute(self._database.insert_new(raw_run_end), ending)

    def finished_stage(self, repository: str, stage: str, key: str) -> dict[str, Any] | None:
        """The newest result of that stage with exactly that key, None where it must be run.

        Results from before the last `Store.rebuild_curated` do not count: what those stages left in
        curated tables is gone.
        """
        rebuilt = select(func.coalesce(func.max(raw_rebuild.c.last_stage), 0)).scalar_subquery()
        query = (
            select(raw_run_stage.c.result)
            .where(raw_run_stage.c.lookup == _lookup(repository, stage, key))
            .where(raw_run_stage.c.id > rebuilt)
            .order_by(raw_run_stage.c.id.desc())
            .limit(1)
        )
        with self._database.reading() as connection:
            result: dict[str, Any] | None = connection.execute(query).scalar()
            return result

    def runs(self, limit: int = 20) -> list[Run]:
        """The newest runs first."""
        query = (
            select(
                raw_run, raw_run_end.c.status, raw_run_end.c.result, raw_run_end.c.at.label("end")
            )
            .outerjoin(raw_run_end, raw_run_end.c.run_id == raw_run.c.run_id)
            .order_by(raw_run.c.id.desc())
            .limit(limit)
        )
        with self._database.reading() as connection:
            return [_run(row) for row in connection.execute(query)]


def forget_stages(connection: Connection) -> None:
    """Records that curated tables were dropped: no stage up to now counts as finished."""
    last = connection.execute(select(func.max(raw_run_stage.c.id))).scalar()
    connection.execute(insert(raw_rebuild).values(last_stage=last or 0, at=time.time()))


def _run(row: Any) -> Run:
    status: RunStatus = row.status or ("running" if _alive(row.host, row.pid) else "interrupted")
    return Run(
        run_id=row.run_id,
        command=row.command,
        repository=row.repository,
        status=status,
        started_at=row.started_at,
        ended_at=row.end,
        config=row.config,
        result=row.result or {},
    )


def _alive(host: str, pid: int) -> bool:
    """Whether the process that began a run may still be at it; of other machines we cannot know."""
    if host != socket.gethostname():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _lookup(repository: str, stage: str, key: str) -> str:
    joined = "\0".join((repository, stage, key))
    return hashlib.sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()


def _masked(value: Any) -> Any:
    """The value with `user:password@` in any URL turned into `user:***@`."""
    if isinstance(value, str):
        return _PASSWORD.sub(r"\1***\2", value)
    if isinstance(value, dict):
        return {key: _masked(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(inner) for inner in value]
    return value
