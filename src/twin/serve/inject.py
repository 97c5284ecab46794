"""Context for requests, from the retriever: a process of its own that this one talks to by lines.

Owns the process (begun with the first request that needs it, begun again when it dies, given up
when it hangs) and the promise that no request ever waits longer than `inject.wait_s` or fails for
want of context. What is found, and how it reads, is the retriever's business.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import structlog

from twin.coding.retrieved import Found, RetrieverSettings, Wanted
from twin.config import Config
from twin.records import ContextItem, Question
from twin.serve.redact import Redactor

log = structlog.get_logger("twin.serve")

Context = tuple[str, tuple[ContextItem, ...]]
NOTHING: Final[Context] = ("", ())

MAX_CHARS: Final = 20_000
"""Of a request's text: what the retriever reads at most."""
MAX_WAITING: Final = 64
"""Lines that the retriever has not answered; at some 30 ms each these are the two seconds that a
request waits by default."""
MAX_LINE: Final = 32_000_000
HANGS_S: Final = 30.0
"""Without any answer for so long it is not busy but stuck."""
FIRST_REST_S: Final = 0.5
MAX_REST_S: Final = 60.0
END_S: Final = 2.0
"""For ending by itself, before it is killed."""
MAX_NOTICES: Final = 50


class Counts(msgspec.Struct):
    """What became of the requests that context was wanted for; for metrics."""

    num_found: int = 0
    num_empty: int = 0
    """Nothing was relevant."""
    num_late: int = 0
    """`inject.wait_s` was over."""
    num_refused: int = 0
    """Too many were waiting, or the retriever was resting after it had died."""
    num_failed: int = 0
    """The retriever died over it."""
    num_deaths: int = 0
    """Of the retriever."""


class Injector:
    """Finds context for requests. Make one per event loop; nothing is started before `find`."""

    def __init__(
        self,
        root: Path,
        config: Config,
        command: Sequence[str],
        *,
        look_every_s: float = 1.0,
        hangs_s: float = HANGS_S,
    ) -> None:
        """`command` runs the retriever: `(sys.executable, "-P", "-m", "twin.cycle.retriever")`.

        Given, since this room may not name that one. `-P` keeps Python from importing modules out
        of the folder that it is started in, which is somebody's repository.
        """
        self._root = root
        self._command = tuple(command)
        self._look_every_s = look_every_s
        self._hangs_s = hangs_s
        self._process: _Process | None = None
        self._rest_s = 0.0
        self._rest_until = 0.0
        self._is_closed = False
        self._leaving: set[asyncio.Task[None]] = set()
        self._noticed: set[str] = set()
        self.counts = Counts()
        self._adopt(config)

    def _adopt(self, config: Config) -> None:
        self._wait_s = config.inject.wait_s
        self._redactor = Redactor(config.record.redact)
        settings = RetrieverSettings(
            root=str(self._root),
            store=config.store,
            mine=config.mine,
            # What only this side reads must not begin a new process when it changes.
            inject=msgspec.structs.replace(config.inject, enabled=True, wait_s=1.0),
            look_every_s=self._look_every_s,
        )
        self._first_line = msgspec.json.encode(settings) + b"\n"

    @property
    def process_id(self) -> int | None:
        """Of the retriever, None where none runs."""
        return self._process.pid if self._process is not None else None

    def adopt(self, config: Config) -> None:
        """Goes on with another configuration: the next request begins a new process where the old
        one would answer otherwise. The old one still answers what it was asked."""
        before = self._first_line
        self._adopt(config)
        if self._first_line != before:
            self._retire()
            self._rest_s = self._rest_until = 0.0

    async def find(self, asked: Question) -> Context:
        """(text, items) to put before a request; both empty where nothing is relevant or found in
        time. Raises nothing but cancellation."""
        if not asked.text or asked.text.isspace() or self._is_closed:
            return NOTHING
        process = self._running()
        if process is None or process.num_unanswered >= MAX_WAITING:
            self.counts.num_refused += 1
            return NOTHING
        try:
            async with asyncio.timeout(self._wait_s):
                found = await process.ask(asked.text, self._wait_s)
        except TimeoutError:
            self.counts.num_late += 1
            self._notice("A request waited for context in vain; `inject.wait_s` is the limit.")
            return NOTHING
        if found is None:
            self.counts.num_failed += 1
            return NOTHING
        if found.notice:
            self._notice(found.notice)
        if not found.text:
            self.counts.num_empty += 1
            return NOTHING
        self.counts.num_found += 1
        # A secret in somebody's notes has no business with whoever runs the model.
        return self._redactor.clean_text(found.text), found.items

    def warm(self) -> None:
        """Begins the process before the first request needs it. Needs a running event loop."""
        self._running()

    async def close(self) -> None:
        """Ends the process, killing it where it does not go by itself."""
        self._is_closed = True
        self._retire()
        if self._leaving:
            await asyncio.gather(*self._leaving)

    def _running(self) -> "_Process | None":
        """The process to ask; None while none can be begun."""
        process = self._process
        now = time.monotonic()
        if process is not None and process.silent_s > self._hangs_s:
            log.error("retriever_hangs", pid=process.pid, silent_s=round(process.silent_s))
            process.kill()
        if process is not None and not process.is_over:
            return process
        if process is not None:
            self._after_death(process, now)
        if now < self._rest_until or self._is_closed:
            return None
        self._process = _Process(self._command, self._first_line)
        return self._process

    def _after_death(self, process: "_Process", now: float) -> None:
        """Each death in a row is followed by a longer rest."""
        self._process = None
        lived_long = now - process.began > MAX_REST_S
        self._rest_s = FIRST_REST_S if lived_long else min(2 * self._rest_s, MAX_REST_S)
        self._rest_s = max(self._rest_s, FIRST_REST_S)
        self._rest_until = process.ended + self._rest_s
        self.counts.num_deaths += 1
        log.error("retriever_ended", why=process.problem, restart_in_s=self._rest_s)

    def _retire(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            task = asyncio.get_running_loop().create_task(process.leave(END_S))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    def _notice(self, text: str) -> None:
        """Says a thing once, not with every request."""
        if text not in self._noticed and len(self._noticed) < MAX_NOTICES:
            self._noticed.add(text)
            log.warning("context", notice=text)


class _Process:
    """One run of the retriever."""

    def __init__(self, command: Sequence[str], first_line: bytes) -> None:
        self._command = command
        self._first_line = first_line
        self._waiting: dict[int, asyncio.Future[Found | None]] = {}
        self._unanswered: deque[int] = deque()
        """Numbers of the lines that it has not answered, in its order; also those that nobody waits
        for any more, or a stuck process would be sent lines without end."""
        self._number = 0
        self._process: asyncio.subprocess.Process | None = None
        self._to_send: list[bytes] = []
        self._heard = time.monotonic()
        self._is_killed = False
        self.began = self._heard
        self.ended = 0.0
        self.problem = ""
        self._runner = asyncio.get_running_loop().create_task(self._run())

    @property
    def num_unanswered(self) -> int:
        return len(self._unanswered)

    @property
    def is_over(self) -> bool:
        return self._is_killed or self._runner.done()

    @property
    def silent_s(self) -> float:
        """How long it has owed an answer without giving any."""
        return time.monotonic() - self._heard if self._unanswered else 0.0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    async def ask(self, text: str, wait_s: float) -> Found | None:
        """What it found; None where it died over it."""
        if not self._unanswered:
            self._heard = time.monotonic()
        self._number += 1
        number = self._number
        wanted = Wanted(
            number=number,
            text=text[:MAX_CHARS].encode("utf-8", "replace").decode(),
            until=time.monotonic() + wait_s,
        )
        answer: asyncio.Future[Found | None] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        self._unanswered.append(number)
        self._send(msgspec.json.encode(wanted) + b"\n")
        try:
            return await answer
        finally:
            self._waiting.pop(number, None)

    def _send(self, line: bytes) -> None:
        if self._process is None or self._process.stdin is None:
            self._to_send.append(line)  # it is still being started
        elif not self._process.stdin.is_closing():
            self._process.stdin.write(line)

    async def _run(self) -> None:
        try:
            self.problem = await self._talk()
        except (OSError, ValueError) as error:
            self.problem = f"{type(error).__name__}: {error}"
        finally:
            self.kill()
            self._unanswered.clear()
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_result(None)

    async def _talk(self) -> str:
        """Gives the reason why it is over."""
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=MAX_LINE,
        )
        self._process = process
        if self._is_killed:
            return "killed"
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(self._first_line + b"".join(self._to_send))
        self._to_send.clear()
        async for line in process.stdout:
            self._heard = time.monotonic()
            found = msgspec.json.decode(line, type=Found)
            with contextlib.suppress(ValueError):
                self._unanswered.remove(found.number)
            answer = self._waiting.get(found.number)
            if answer is not None and not answer.done():
                answer.set_result(found)
        return f"exit code {await process.wait()}"

    def kill(self) -> None:
        if not self._is_killed:
            self._is_killed, self.ended = True, time.monotonic()
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def leave(self, timeout_s: float) -> None:
        """Lets it answer what it was asked, then ends it."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        else:
            self.kill()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._runner), timeout_s)
        self.kill()
        await self._runner
        if self._process is not None:
            await self._process.wait()
