"""Moments and lengths of time as people type them: `90d`, `2026-11-21`, `2026-11-21T08:30`.

Callbacks for options: they get what was typed and give seconds.
"""

import re
import time
from datetime import UTC, datetime

import click

_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_LENGTH = re.compile(r"(\d{1,9}(?:\.\d+)?)([smhdw])")


def length(ctx: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """`90d`: seconds."""
    if value is None:
        return None
    seconds = _seconds(value)
    if seconds is None:
        raise click.BadParameter(f"{value!r} is no length of time; write it as 30m, 12h or 90d")
    return seconds


def moment(ctx: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """`2h` (ago), or a date with or without a time (UTC unless it says otherwise): Unix seconds."""
    if value is None:
        return None
    ago_s = _seconds(value)
    if ago_s is not None:
        return time.time() - ago_s
    try:
        given = datetime.fromisoformat(value)
    except ValueError as error:
        raise click.BadParameter(
            f"{value!r} is no moment; write it as 2h (ago), 2026-11-21 or 2026-11-21T08:30"
        ) from error
    return (given if given.tzinfo else given.replace(tzinfo=UTC)).timestamp()


def _seconds(value: str) -> float | None:
    match = _LENGTH.fullmatch(value)
    return None if match is None else float(match[1]) * _UNIT_S[match[2]]
