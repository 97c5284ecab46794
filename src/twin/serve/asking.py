"""Asks one model until its answer has begun: accounts, retries, breakers, hedging.

Everything here happens before the client's first byte, so every failure may be tried again. Ends
with an answer that has begun, with the provider's own refusal of the request, or with `Unanswered`;
never judges what an answer says.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import NamedTuple

import msgspec

from twin.backends.backend import Ask, Reply
from twin.backends.dialects import translate_request, with_model
from twin.errors import BackendBroken, BackendError, BackendTimeout
from twin.records import Attempt, AttemptOutcome, DialectName, Usage
from twin.serve.accounts import DEFAULT_REST_S, REFUSED_REST_S, Account, retry_after_s
from twin.serve.exchange import Exchange
from twin.serve.fleet import Member

RETRIED = frozenset({408, 425, 500, 502, 503, 504, 520, 522, 524, 529})
"""The server's own trouble: asking again may help."""
FIRST_PAUSE_S = 0.25
MAX_PAUSE_S = 8.0
MAX_FIRST_BYTES = 65_536
"""A first event that is longer is passed on without a look at it."""
EVENT_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")
_SSE_STARTS = (b"data:", b"event:", b":", b"id:", b"retry:", b"\n", b"\r", b"\xef\xbb\xbf")


class Unanswered(Exception):
    """This model has no answer now; the next one may."""

    def __init__(
        self, reason: str, status: int = 502, wait_s: float | None = None, code: str = ""
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.code = code
        """For programs, where the status does not say enough."""
        self.wait_s = wait_s
        """When asking again makes sense, where that is known."""


class Question(NamedTuple):
    """What is sent to one model."""

    dialect: DialectName
    body: bytes
    stream: bool
    is_changed: bool
    """More than the name of the model differs from what the client sent."""


class _Shape(msgspec.Struct):
    """Enough of an answer to know that it is whole JSON and no error in disguise."""

    error: msgspec.Raw = msgspec.Raw(b"null")
    type: str | None = None


_shape = msgspec.json.Decoder(_Shape)


def question_for(exchange: Exchange, member: Member, *, stream: bool) -> Question:
    """The exchange's request as `member` is to receive it.

    Raises Untranslatable where the request cannot be said in any dialect that the model speaks.
    """
    dialect = member.dialect_for(exchange.dialect)
    if dialect is None:
        raise Unanswered(f"`{member.name}` has no endpoint for {exchange.dialect}", 400)
    source = exchange.prepared
    # Where the model's name lies is known only of the body that was read.
    head = exchange.head if source is exchange.body else None
    named = with_model(exchange.dialect, source, member.upstream_model, head)
    is_changed = source is not exchange.body
    if dialect != exchange.dialect:
        # With its name already: some models take other fields than others.
        named = translate_request(exchange.dialect, dialect, named)
        is_changed = True
    return Question(dialect, named, stream, is_changed)


class Opened:
    """An answer that has begun. Whoever holds it must `close` it."""

    __slots__ = (
        "account", "chunk_ms", "dialect", "exchange", "first", "first_byte_ms", "headers",
        "is_closed", "is_trial", "member", "pieces", "question", "received", "reply",
        "started_ms", "status",
    )  # fmt: skip

    def __init__(
        self, exchange: Exchange, member: Member, account: Account, question: Question
    ) -> None:
        self.exchange = exchange
        self.member = member
        self.account = account
        self.question = question
        self.dialect = question.dialect
        self.started_ms = exchange.ms()
        self.first_byte_ms: float | None = None
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.reply: Reply | None = None
        self.first = b""
        """The whole body; of a stream, its first piece."""
        self.pieces: AsyncIterator[bytes] | None = None
        """The rest of a stream."""
        self.received: list[bytes] = []
        self.chunk_ms: list[float] = []
        self.is_closed = False
        self.is_trial = False
        """The breaker let it go to see whether the server is back."""

    @property
    def is_error(self) -> bool:
        """The provider refused the request itself; asking again would not help."""
        return self.status >= 400

    async def close(self) -> None:
        """Gives the model's place back; hangs up where the answer is not finished."""
        if self.is_closed:
            return
        self.is_closed = True
        self.member.num_active -= 1
        if self.reply is not None:
            await self.reply.close()

    def attempt(
        self,
        outcome: AttemptOutcome,
        *,
        reason: str = "",
        usage: Usage | None = None,
        cost_usd: float = 0.0,
        confidence: float | None = None,
    ) -> Attempt:
        """The record of it, as far as it came."""
        return Attempt(
            model=self.member.name,
            outcome=outcome,
            account=self.account.label,
            upstream_model=self.member.upstream_model,
            dialect=self.dialect,
            status=self.status,
            reason=reason,
            confidence=confidence,
            started_ms=self.started_ms,
            first_byte_ms=self.first_byte_ms,
            latency_ms=self.exchange.ms() - self.started_ms,
            request=self.question.body if self.question.is_changed else None,
            response=b"".join(self.received) if self.received else self.first,
            is_streamed=self.pieces is not None,
            chunk_ms=tuple(self.chunk_ms),
            usage=usage,
            cost_usd=cost_usd,
        )


async def ask(exchange: Exchange, member: Member, question: Question) -> Opened:
    """Asks `member`, again and again within its retries, until an answer has begun.

    Every failed try is added to `exchange.attempts`. Raises Unanswered.
    """
    last: _Failed | None = None
    for number in range(member.config.retries + 1):
        try:
            account = _free(exchange, member)
        except Unanswered:
            if last is None:
                raise
            break  # what went wrong says more than that nobody is left to ask
        try:
            if member.config.hedge_s is not None and len(member.accounts.accounts) > 1:
                return await _hedged(exchange, member, account, question, member.config.hedge_s)
            return await _open(exchange, member, account, question)
        except _Failed as failed:
            last = failed
        if number < member.config.retries and last.may_repeat:
            if last.pauses:
                # A free account is asked at once; a server in trouble is given a moment.
                pause = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2**number) * random.uniform(0.5, 1.5)
                pause = max(pause, last.wait_s or 0.0)
                if exchange.ms() / 1000.0 + pause > member.config.deadline_s:
                    break
                await asyncio.sleep(pause)
            continue
        break
    assert last is not None
    raise Unanswered(f"`{member.name}` {last.reason}", last.status, last.wait_s)


class _Failed(Exception):
    """One try failed; it is in the record already."""

    def __init__(
        self,
        reason: str,
        status: int = 502,
        *,
        wait_s: float | None = None,
        may_repeat: bool = True,
        pauses: bool = True,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.wait_s = wait_s
        self.may_repeat = may_repeat
        self.pauses = pauses


def _free(exchange: Exchange, member: Member) -> Account:
    """An account that may be asked now. Raises Unanswered."""
    rest = member.breaker.wait_s()
    if rest > 0:
        raise Unanswered(f"`{member.name}` failed repeatedly and rests", 503, rest)
    limit = member.config.max_concurrency
    if limit is not None and member.num_active >= limit:
        raise Unanswered(f"`{member.name}` answers {limit} calls already", 503, 1.0)
    account = member.accounts.pick(exchange.preference, exchange.num_prompt_tokens)
    if isinstance(account, float | int):
        why, status = member.accounts.why()
        raise Unanswered(f"`{member.name}` {why}", status, float(account))
    return account


async def _open(exchange: Exchange, member: Member, account: Account, question: Question) -> Opened:
    """One try. Raises _Failed, with the attempt recorded and everything given back."""
    account.begin(exchange.num_prompt_tokens)
    member.num_active += 1
    opened = Opened(exchange, member, account, question)
    opened.is_trial = member.breaker.begin()
    try:
        await _begin(opened)
    except BackendError as error:
        member.breaker.failed(opened.is_trial)
        await _give_up(opened, str(error))
        status = 504 if isinstance(error, BackendTimeout) else 502
        raise _Failed(f"did not answer: {str(error).rstrip('.')}", status) from error
    except BaseException:
        member.breaker.abandoned(opened.is_trial)
        exchange.attempts.append(opened.attempt("cancelled"))
        await opened.close()
        raise
    failure = _failure(opened)
    if failure is None:
        member.breaker.succeeded()
        return opened
    await _give_up(opened, failure.reason)
    raise failure


async def _give_up(opened: Opened, reason: str) -> None:
    opened.exchange.attempts.append(opened.attempt("failed", reason=reason))
    await opened.close()


async def _begin(opened: Opened) -> None:
    """Sends the question and reads as much as must be there before the client hears of it."""
    member, question = opened.member, opened.question
    secret = opened.account.secret
    opened.reply = reply = await member.backend.ask(
        Ask(
            dialect=question.dialect,
            body=question.body,
            stream=question.stream,
            headers=opened.exchange.forwarded,
            timeouts=member.timeouts,
        ),
        secret.reveal() if secret else None,
    )
    opened.status = reply.status
    opened.headers = reply.headers
    if reply.status != 200 or not question.stream:
        opened.first = await reply.read()
        opened.first_byte_ms = opened.exchange.ms()
        if reply.status == 200:
            _check_whole(opened.first)
        return
    pieces = aiter(reply)
    opened.first = first = await _first_event(pieces)
    opened.first_byte_ms = opened.exchange.ms()
    if not first.startswith(_SSE_STARTS):
        what = "nothing" if not first else "something else"
        raise BackendBroken(
            f"A stream was asked for and {what} came. Check `base_url` and the server's log."
        )
    _check_event(first)
    opened.pieces = pieces


async def _first_event(pieces: AsyncIterator[bytes]) -> bytes:
    """The stream up to the end of its first event: it may say that there is no answer, and then
    another model can still be asked."""
    first = b""
    while piece := await anext(pieces, b""):
        first += piece
        begins = first[:16]
        is_stream = any(s.startswith(begins) or begins.startswith(s) for s in _SSE_STARTS)
        if not is_stream or len(first) > MAX_FIRST_BYTES or any(end in first for end in EVENT_ENDS):
            break
    return first


def _check_event(first: bytes) -> None:
    """Raises BackendBroken where the first event is an error with status 200."""
    if b"error" not in first[:MAX_FIRST_BYTES]:
        return
    for line in first.splitlines()[:8]:
        if line.startswith(b"data:") and line[5:].lstrip().startswith(b"{"):
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                _check_shape(_shape.decode(line[5:]))
            return


def _check_whole(body: bytes) -> None:
    """Raises BackendBroken for what is no whole JSON object, or an error with status 200."""
    try:
        shape = _shape.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BackendBroken(
            f"The answer is no JSON object ({error}). Check `base_url` and the server's log."
        ) from error
    _check_shape(shape)


def _check_shape(shape: _Shape) -> None:
    if shape.type == "error" or bytes(shape.error) != b"null":
        raise BackendBroken(
            "The answer has status 200 and holds an error. Look at it with `twin calls show`."
        )


def _failure(opened: Opened) -> _Failed | None:
    """What the status means for the next try; None for an answer, also for one that refuses the
    request itself."""
    status, account, breaker = opened.status, opened.account, opened.member.breaker
    is_trial = opened.is_trial
    if status == 200:
        return None
    if status == 429:
        breaker.abandoned(is_trial)
        wait = retry_after_s(opened.headers)
        account.rest(DEFAULT_REST_S if wait is None else wait, "is rate-limited", 429)
        return _Failed("is rate-limited (429)", 429, wait_s=wait, pauses=False)
    if status == 401:
        breaker.abandoned(is_trial)
        which = f"the key of {account.label}" if account.label else "a request without a key"
        why = f"refused {which} (401); check `accounts`"
        account.rest(REFUSED_REST_S, why, 502)
        return _Failed(why, 502, pauses=False)
    if status in RETRIED:
        breaker.failed(is_trial)
        wait = retry_after_s(opened.headers)
        if wait is not None and wait > MAX_PAUSE_S:
            account.rest(wait, f"asked to be left alone ({status})", 503)
        return _Failed(f"has trouble of its own ({status})", 502, wait_s=wait)
    if status < 400 or status > 599:
        breaker.failed(is_trial)
        return _Failed(f"answered with status {status}. Check `base_url`", may_repeat=False)
    if status == 404:
        breaker.abandoned(is_trial)
        return _Failed(
            f"does not exist there (404: `{opened.member.upstream_model}`). Check `base_url` and "
            "`model`",
            may_repeat=False,
        )
    return None


async def _hedged(
    exchange: Exchange, member: Member, account: Account, question: Question, after_s: float
) -> Opened:
    """Asks a second account where the first says nothing for `after_s`; whichever answers first is
    taken, the other is hung up on."""
    tasks = [asyncio.create_task(_open(exchange, member, account, question))]
    winner: asyncio.Task[Opened] | None = None
    try:
        await asyncio.wait(tasks, timeout=after_s)
        if not tasks[0].done():
            other = member.accounts.pick(
                exchange.preference + 1, exchange.num_prompt_tokens, but_not=account
            )
            if isinstance(other, Account):
                tasks.append(asyncio.create_task(_open(exchange, member, other, question)))
        pending = set(tasks)
        while pending and winner is None:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            winner = next((task for task in done if task.exception() is None), None)
        return (winner or tasks[0]).result()
    finally:
        try:
            await _abandon([task for task in tasks if task is not winner])
        except BaseException:  # the client hung up in this very moment
            if winner is not None:
                await winner.result().close()
            raise


async def _abandon(tasks: list[asyncio.Task[Opened]]) -> None:
    """Hangs up on those that were not taken."""
    for task in tasks:
        task.cancel()
    for found in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(found, Opened):  # it came in the same moment as the one that was taken
            found.exchange.attempts.append(found.attempt("cancelled"))
            await found.close()
