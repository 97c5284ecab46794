"""Structured logs on stderr: readable on a terminal, one JSON object a line elsewhere.

Bodies and secrets never get here: a log line holds a call's number, and `twin calls show` has the
rest.
"""

import contextlib
import io
import logging
import sys
import time
from collections.abc import Callable
from typing import TextIO, cast

import structlog

from twin.records import CallOutcome
from twin.serve.exchange import Exchange


def configure(*, verbose: bool = False) -> None:
    """Sets up every logger of the process. `verbose` logs each call, else only what went wrong."""
    terminal = sys.stderr.isatty()
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        # 10 debug, 20 info, 30 warning: the numbers of the standard library.
        wrapper_class=structlog.make_filtering_bound_logger(20 if verbose else 30),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Stderr())),
        cache_logger_on_first_use=True,
    )

    libraries = logging.getLogger()
    let_go()
    libraries.addHandler(_Libraries())
    # What a stranger sends is no news, and could fill the disk.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)


def let_go() -> None:
    """Undoes it for the libraries."""
    libraries = logging.getLogger()
    for handler in libraries.handlers:
        if isinstance(handler, _Libraries):
            libraries.removeHandler(handler)


QUIET_S = 60.0
"""How often one and the same complaint of a library is passed on."""


class _Libraries(logging.Handler):
    """Passes on what libraries log, as our own lines; each complaint once in a while, since a
    server that is down would be complained of with every batch."""

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[tuple[str, int], float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        place = (record.pathname, record.lineno)
        now = time.monotonic()
        if now - self._told.get(place, -QUIET_S) < QUIET_S:
            return
        self._told[place] = now
        log = structlog.get_logger(record.name)
        tell = log.error if record.levelno >= logging.ERROR else log.warning
        try:
            words = record.getMessage()
        except (TypeError, ValueError):
            words = str(record.msg)
        tell("library", name=record.name, says=_visible(words)[:2_000], exc_info=record.exc_info)


def _visible(text: str) -> str:
    """On one line, and nothing in it that steers a terminal."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


class _Stderr(io.TextIOBase):
    """Standard error that may fail: a log on a full disk must not take the call down with it."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()


def call_logger(
    *, verbose: bool = False, clean: Callable[[str], str] = lambda text: text
) -> Callable[[Exchange, CallOutcome, int], None]:
    """Tells of each call that is over, or only of those that failed. `clean` takes secrets out of
    what the caller wrote."""
    log = structlog.get_logger("twin.serve")

    def log_call(exchange: Exchange, outcome: CallOutcome, status: int) -> None:
        if outcome != "failed" and not verbose:
            return
        tell = log.warning if outcome == "failed" else log.info
        tell(
            "call",
            call_id=exchange.call_id,
            outcome=outcome,
            status=status,
            asked=_visible(clean(exchange.asked_model)),
            model=exchange.model,
            num_attempts=len(exchange.attempts),
            ms=round(exchange.ms(), 1),
        )

    return log_call
