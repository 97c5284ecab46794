"""Clients of the soak: each asks again and again, some of them badly, and keeps what it received.

Raw sockets, so that a client can hang up, announce too much or break off at any byte.
"""

import asyncio
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

HEAD_LIMIT = 1 << 16
PATIENCE_S = 60.0
KINDS = {
    "whole": 450,
    "stream": 370,
    "large": 20,
    "status500": 14,
    "status500!": 8,
    "status429": 14,
    "status429!": 4,
    "reset": 14,
    "midway": 14,
    "midway-stream": 14,
    "stall": 4,
    "stall-stream": 4,
    "html": 6,
    "truncated": 6,
    "split": 14,
    "split-stream": 14,
    "hang-up": 14,
    "hang-up-early": 6,
    "bad-json": 6,
    "announced-too-large": 4,
}
"""What a request is, of a thousand. `!`: each time it is asked; else asking again helps."""
TOO_LARGE_EVERY = 5_000
"""One request in so many sends 33 MB without saying so beforehand."""
TOO_LARGE = 33_000_000
WORDS = ["the", "retry", "delay", "is", "read", "from", "settings", "before", "each", "try"]


@dataclass
class Tally:
    """What all clients saw."""

    num_asked: int = 0
    num_asked_kind: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    """`KIND STATUS` of answers that arrived whole; `KIND broken` and `KIND hung up` beside them."""
    whole: list[str] = field(default_factory=list)
    """Numbers of the calls whose answer arrived whole."""
    abandoned: list[str] = field(default_factory=list)
    """Numbers of the calls that were hung up on after their head had come."""
    without_number: int = 0


class Broken(Exception):
    """The answer ended before its end."""


def requests(total: int, seed: int) -> Iterator[tuple[int, str]]:
    """(number, kind) of each request."""
    drawn = random.Random(seed)
    names, weights = list(KINDS), list(KINDS.values())
    for number in range(1, total + 1):
        if number % TOO_LARGE_EVERY == 0:
            yield number, "too-large"
        else:
            yield number, drawn.choices(names, weights)[0]


def body_of(number: int, kind: str) -> bytes:
    """The request; what the upstream shall do wrong stands in its text."""
    fault = kind.removesuffix("-stream")
    is_stream = kind.endswith("stream") or kind.startswith("hang-up")
    text = " ".join(random.Random(number).choices(WORDS, k=10_000 if kind == "large" else 20))
    if kind.startswith("hang-up"):
        text += f" fault=slow-{number}"
    elif kind not in ("whole", "stream", "large"):
        text += f" fault={fault}-{number}"
    # What fails each time has a model of its own, so that its breaker opens and no other's.
    model = "broken" if "!" in kind else "mock"
    messages = [{"role": "user", "content": f"{number}: {text}"}]
    return json.dumps(
        {"model": model, "messages": messages, "stream": is_stream}, separators=(",", ":")
    ).encode()


class Client:
    """One connection at a time."""

    def __init__(self, port: int, tally: Tally) -> None:
        self._port, self._tally = port, tally
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def work(self, asked: Iterator[tuple[int, str]]) -> None:
        for number, kind in asked:
            self._tally.num_asked += 1
            self._tally.num_asked_kind[kind] += 1
            try:
                outcome = await asyncio.wait_for(self._ask(number, kind), PATIENCE_S)
            except (OSError, Broken, asyncio.IncompleteReadError, TimeoutError) as error:
                outcome = "silent" if isinstance(error, TimeoutError) else "broken"
                self._hang_up()
            self._tally.answers[f"{kind} {outcome}"] += 1
        self._hang_up()

    async def _ask(self, number: int, kind: str) -> str:
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(
                "127.0.0.1", self._port, limit=HEAD_LIMIT
            )
        reader, writer = self._reader, self._writer
        assert reader is not None
        await self._send(writer, number, kind)
        if kind == "hang-up-early":
            await asyncio.sleep(random.random() * 0.01)
            self._hang_up()
            return "hung up"
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        status = int(head.split(" ", 2)[1])
        found = re.search(r"\r\nx-request-id: (\S+)", head)
        if kind == "hang-up":
            await reader.readuntil(b"\n\n")
            self._hang_up()
            if found:
                self._tally.abandoned.append(found[1])
            return "hung up"
        await self._read_body(reader, head)
        if found is None:
            self._tally.without_number += 1
        elif status != 413:  # refused before there was a call
            self._tally.whole.append(found[1])
        if "\r\nconnection: close" in head or kind == "announced-too-large":
            # The body that was announced never went out: the connection can serve nothing more.
            self._hang_up()
        return str(status)

    async def _send(self, writer: asyncio.StreamWriter, number: int, kind: str) -> None:
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: soak\r\ncontent-type: application/json"
        if kind == "announced-too-large":
            writer.write(f"{head}\r\ncontent-length: {TOO_LARGE}\r\n\r\n".encode())
        elif kind == "too-large":
            writer.write(f"{head}\r\ntransfer-encoding: chunked\r\n\r\n".encode())
            piece = b"x" * 1_000_000
            for _ in range(TOO_LARGE // len(piece)):
                writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                await writer.drain()
            writer.write(b"0\r\n\r\n")
        else:
            body = body_of(number, kind)
            if kind == "bad-json":
                body = body[: -random.Random(number).randint(2, 60)]
            writer.write(f"{head}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()

    async def _read_body(self, reader: asyncio.StreamReader, head: str) -> None:
        """Raises Broken or IncompleteReadError where the body is not whole."""
        length = re.search(r"\r\ncontent-length: (\d+)", head)
        if length:
            await reader.readexactly(int(length[1]))
            return
        if "\r\ntransfer-encoding: chunked" not in head:
            raise Broken
        while size := int(await reader.readuntil(b"\r\n"), 16):
            await reader.readexactly(size + 2)
        await reader.readexactly(2)

    def _hang_up(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None
