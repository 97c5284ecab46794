"""What a month has cost, calls included that still lie in the journal.

A gateway that starts must know it before its first call, or a budget would begin too low by
whatever the recorder has not got to yet; and it must not wait for the recorder's work, which takes
minutes after a long outage of the database. Reads costs alone, a chunk of calls at a time, and
moves nothing.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import msgspec

from twin.records import Spend
from twin.store import faults, segments
from twin.store.database import Store
from twin.store.ingest import alone
from twin.store.segments import Segment
from twin.store.traffic import month_of

CHUNK = 5_000
"""Calls in memory at once, without their bodies."""
WAIT_S = 5.0
"""For somebody else's transaction to end."""


class _Attempt(msgspec.Struct):
    model: str
    cost_usd: float = 0.0


class _Call(msgspec.Struct, tag="call", tag_field="kind"):
    """The fields of a `Call` that say what it cost; all others are passed over unread."""

    call_id: str
    at: float
    key_id: str = ""
    attempts: tuple[_Attempt, ...] = ()


class _Feedback(msgspec.Struct, tag="feedback", tag_field="kind"):
    pass


_decode = msgspec.msgpack.Decoder(_Call | _Feedback).decode


def spend_of(store: Store, folder: Path, month: str, *, wait_s: float = WAIT_S) -> list[Spend]:
    """What was spent in `month`, by key and model: the store's sums, and a sum for each pair of
    which the journal holds calls that the store lacks. Raises StoreError.

    Nobody moves calls from the one to the other meanwhile. Where the right to that cannot be had in
    time the journal is read first, so that a call may count twice, but none is missed.
    """
    if not folder.is_dir():
        return store.calls.spend(month)
    deadline = time.monotonic() + wait_s
    try:
        while True:
            with alone(folder) as is_alone:
                if is_alone or time.monotonic() >= deadline:
                    waiting = _waiting(store, folder, month)
                    return [*store.calls.spend(month), *waiting]
            time.sleep(0.02)
    except OSError as error:
        raise faults.of_disk(error, str(folder)) from error


def _waiting(store: Store, folder: Path, month: str) -> list[Spend]:
    sums: dict[tuple[str, str], float] = {}
    calls = (call for call in _calls(folder) if month_of(call.at) == month)
    while chunk := {call.call_id: call for call in islice(calls, CHUNK)}:
        # A recorder that was killed may have written calls whose frames are still to be read.
        for known in store.calls.known(chunk):
            del chunk[known]
        for call in chunk.values():
            for attempt in call.attempts:
                pair = (call.key_id, attempt.model)
                sums[pair] = sums.get(pair, 0.0) + attempt.cost_usd
    return [
        Spend(
            month=month,
            key_id=key_id,
            model=model,
            num_calls=0,
            num_prompt_tokens=0,
            num_completion_tokens=0,
            cost_usd=cost,
        )
        for (key_id, model), cost in sums.items()
    ]


def _calls(folder: Path) -> Iterable[_Call]:
    for path in segments.in_folder(folder):
        with suppress(FileNotFoundError), Segment(path) as segment:
            for payload in _payloads(segment):
                with suppress(msgspec.DecodeError, UnicodeDecodeError):
                    entry = _decode(payload)
                    if isinstance(entry, _Call):
                        yield entry


def _payloads(segment: Segment) -> Iterator[memoryview]:
    """All that can be read, damaged places passed over."""
    position: int | None = segment.cursor()
    while position is not None:
        for frame in segment.frames(position):
            yield frame.payload
            position = frame.end
        position = None if segment.is_closed_at(position) else segment.next_frame(position)
