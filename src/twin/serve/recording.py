"""Runs the recorder: the process that moves the journal into the store.

A process of its own, since a database shares no interpreter lock with the event loop then, and
whatever happens to either leaves the journal as it is. Restarts it when it dies. The work itself is
`store.recorder`'s.
"""

import asyncio
import contextlib
import sys
import time
from pathlib import Path

import msgspec
import structlog

from twin.config import Config

log = structlog.get_logger("twin.serve")

FIRST_REST_S = 0.5
MAX_REST_S = 30.0


class RecorderStatus(msgspec.Struct):
    """What the recorder last said of itself."""

    backlog_bytes: int = 0
    num_ingested: int = 0
    last_error: str | None = None


class Recording:
    """Keeps one recorder running."""

    def __init__(self, root: Path, config: Config) -> None:
        self._first_line = msgspec.json.encode(
            {
                "root": str(root),
                "url": config.store.url,
                "max_age_days": config.record.max_age_days,
                "max_mb": config.record.max_mb,
            }
        )
        self.status = RecorderStatus()
        self.num_restarts = 0
        self.is_running = False
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._keeper = asyncio.create_task(self._keep())

    @property
    def problem(self) -> str:
        """Why records do not reach the store; empty where they do."""
        if not self.is_running:
            return "The recorder is not running; calls wait in the journal."
        return self.status.last_error or ""

    async def _keep(self) -> None:
        rest_s = FIRST_REST_S
        while True:
            began = time.monotonic()
            try:
                code = await self._run()
            except OSError as error:
                code, detail = -1, str(error)
            else:
                detail = ""
            self.is_running = False
            if time.monotonic() - began > MAX_REST_S:
                rest_s = FIRST_REST_S
            log.error("recorder_ended", exit_code=code, detail=detail, restart_in_s=rest_s)
            await asyncio.sleep(rest_s)
            rest_s = min(2 * rest_s, MAX_REST_S)
            self.num_restarts += 1

    async def _run(self) -> int:
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # no modules out of the folder that it is started in
            "-m",
            "twin.store.recorder",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        # The URL may hold a password: a command line could be read by every user.
        process.stdin.write(self._first_line + b"\n")
        await process.stdin.drain()
        self.is_running = True
        async for line in process.stdout:
            try:
                status = msgspec.json.decode(line, type=RecorderStatus)
            except msgspec.DecodeError:
                continue
            if status.last_error and not self.status.last_error:
                log.error("store_cannot_be_written", why=status.last_error)
            self.status = status
        return await process.wait()

    async def stop(self, timeout_s: float) -> None:
        """Lets it write what is left, then ends. What does not get written in time stays in the
        journal for the next start."""
        if self._keeper is None:
            return
        keeper, process = self._keeper, self._process
        self._keeper = None
        keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeper
        if process is None or process.returncode is not None or process.stdin is None:
            return
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), timeout_s)
        except TimeoutError:
            log.warning("recorder_left_behind", pid=process.pid)
