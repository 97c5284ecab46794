"""Structured logs on stderr: readable on a terminal, one JSON object a line elsewhere.

Bodies and secrets never get here: a log line holds a call's number, and `twin calls show` has the
rest.
"""

import contextlib
import io
import sys
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


class _Stderr(io.TextIOBase):
    """Standard error that may fail: a log on a full disk must not take the call down with it."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()


def call_logger(*, verbose: bool = False) -> Callable[[Exchange, CallOutcome, int], None]:
    """Tells of each call that is over, or only of those that failed."""
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
            asked=exchange.asked_model[:200],
            model=exchange.model,
            num_attempts=len(exchange.attempts),
            ms=round(exchange.ms(), 1),
        )

    return log_call
