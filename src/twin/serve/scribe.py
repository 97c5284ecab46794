"""Writes each call down before its last byte goes out.

Owns redaction, encoding and the wait for the disk; `store.journal` owns the files, the recorder
process the database. A record is in the page cache when `write` returns, which survives a killed
process; with `record.sync = "disk"` all calls that finish meanwhile share one fdatasync.
"""

import asyncio
import time
from collections.abc import Callable

import msgspec

from twin.backends.dialects import whole_from_stream
from twin.config import RecordConfig
from twin.errors import StoreError
from twin.records import Attempt, Call, Entry, Feedback
from twin.serve.redact import Redactor
from twin.serve.refusal import Refusal
from twin.store.journal import Journal

RETRY_S = 1.0
"""How often a full disk is tried again."""


class Scribe:
    """The one writer of this process. All in the event loop's thread but for the fdatasync."""

    def __init__(
        self,
        journal: Journal,
        config: RecordConfig,
        redactor: Redactor,
        alarm: Callable[[str], None] = lambda message: None,
    ) -> None:
        """`alarm` is told once when records cannot be written, and once when they can again."""
        self.config = config
        self.redactor = redactor
        self.num_written = 0
        self.num_lost = 0
        """Calls that were served without a record (`when_full = "serve"`)."""
        self.failure = ""
        """Why records cannot be written now; empty while they can."""
        self._journal = journal
        self._alarm = alarm
        self._encode = msgspec.msgpack.Encoder().encode
        self._retry_at = 0.0
        self._waiting: list[asyncio.Future[None]] = []
        self._syncing: asyncio.Task[None] | None = None

    def adopt(self, config: RecordConfig, redactor: Redactor) -> None:
        """Goes on with other rules."""
        redactor.num_redacted = self.redactor.num_redacted
        self.config, self.redactor = config, redactor

    def check(self) -> None:
        """Raises Refusal (503) where a call that came in now could not be recorded."""
        if (
            self.failure
            and self.config.when_full == "refuse"
            and (time.monotonic() < self._retry_at)
        ):
            raise self._refusal()

    def write(self, entry: Entry) -> None:
        """Redacts, encodes and appends. Raises Refusal (503) where the disk takes no more and
        nothing may go unrecorded; nothing of the entry is then written."""
        frame = self._encode(self._redacted(entry))
        try:
            self._journal.append((frame,))
        except (StoreError, OSError) as error:
            self._failed(str(error))
            return
        self.num_written += 1
        if self.failure:
            self.failure = ""
            self._alarm("Calls are recorded again.")

    async def durable(self) -> None:
        """Returns when all that was written before is as safe as `record.sync` asks."""
        if self.config.sync == "process":
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        if self._syncing is None:
            self._syncing = asyncio.create_task(self._sync())
        await done

    async def _sync(self) -> None:
        """Group commit: those who come while the disk works share the next turn."""
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                group, self._waiting = self._waiting, []
                failed = False
                try:
                    await loop.run_in_executor(None, self._journal.sync)
                except (StoreError, OSError) as error:
                    failed = True
                    if not self.failure:
                        self._alarm(f"Calls cannot be recorded: {error}")
                    self.failure = str(error)
                    self._retry_at = time.monotonic() + RETRY_S
                for done in group:
                    if done.done():
                        continue
                    if failed and self.config.when_full == "refuse":
                        done.set_exception(self._refusal())
                    else:
                        done.set_result(None)
        finally:
            self._syncing = None

    def _failed(self, why: str) -> None:
        if not self.failure:
            self._alarm(f"Calls cannot be recorded: {why}")
        self.failure = why
        self._retry_at = time.monotonic() + RETRY_S
        if self.config.when_full == "refuse":
            raise self._refusal()
        self.num_lost += 1

    def _refusal(self) -> Refusal:
        return Refusal(
            503,
            "recording_failed",
            f"This call cannot be recorded: {self.failure} Free some space, or set "
            '`record.when_full = "serve"` to go on unrecorded.',
            retry_after_s=5.0,
        )

    def _redacted(self, entry: Entry) -> Entry:
        """The entry without secrets; the same object where it holds none."""
        clean = self.redactor.clean
        if isinstance(entry, Feedback):
            return msgspec.structs.replace(
                entry,
                comment=self.redactor.clean_text(entry.comment),
                demonstration=self.redactor.clean_text(entry.demonstration),
            )
        if not self.redactor.is_clean(_names_in(entry)):
            entry = self._with_names_redacted(entry)
        request = clean(entry.request)
        response = entry.response
        if entry.is_stream and response and self.redactor.is_split(response):
            response = msgspec.json.encode(whole_from_stream(entry.dialect, response))
        response = clean(response) if response else response
        handoff = clean(entry.handoff) if entry.handoff else entry.handoff
        error = self.redactor.clean_text(entry.error) if entry.error else ""
        attempts = entry.attempts
        for number, attempt in enumerate(attempts):
            cleaned = self._redacted_attempt(attempt)
            if cleaned is not attempt:
                attempts = (*attempts[:number], cleaned, *attempts[number + 1 :])
        if (
            request is entry.request
            and response is entry.response
            and handoff is entry.handoff
            and attempts is entry.attempts
            and error == entry.error
        ):
            return entry
        return msgspec.structs.replace(
            entry,
            request=request,
            response=response,
            handoff=handoff,
            attempts=attempts,
            error=error,
        )

    def _with_names_redacted(self, call: Call) -> Call:
        """What a caller named: a key that was pasted into the wrong field is a secret as well."""
        clean = self.redactor.clean_text
        return msgspec.structs.replace(
            call,
            asked_model=clean(call.asked_model),
            session=clean(call.session),
            task_id=clean(call.task_id),
            context=tuple(
                msgspec.structs.replace(item, name=clean(item.name)) for item in call.context
            ),
            meta={clean(name): clean(value) for name, value in call.meta.items()},
        )

    def _redacted_attempt(self, attempt: Attempt) -> Attempt:
        clean = self.redactor.clean
        request = clean(attempt.request) if attempt.request else attempt.request
        response = attempt.response
        is_streamed = attempt.is_streamed
        if is_streamed and self.redactor.is_split(response):
            # The secret came in pieces: only the reassembled answer can be cleaned.
            response = msgspec.json.encode(whole_from_stream(attempt.dialect, response))
            is_streamed = False
        response = clean(response)
        reason = self.redactor.clean_text(attempt.reason) if attempt.reason else ""
        if request is attempt.request and response is attempt.response and reason == attempt.reason:
            return attempt
        return msgspec.structs.replace(
            attempt, request=request, response=response, reason=reason, is_streamed=is_streamed
        )

    def close(self) -> None:
        self._journal.close()


def _names_in(call: Call) -> str:
    """All that a caller named, in one text: one search costs less than five."""
    named = [call.asked_model, call.session, call.task_id, *call.meta.values()]
    if call.context:
        named += [item.name for item in call.context]
    return "\n".join(named)
