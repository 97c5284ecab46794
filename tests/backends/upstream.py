"""A model server on a real TCP port that answers as it is told, faults included.

    with Upstream([answer(status=429, headers={"retry-after": "1"}), chat("Hello.")]) as upstream:
        ...  # ask upstream.url + "/chat/completions"
    assert upstream.requests[0].json["model"] == "m"

A plan is a list of steps, one for each request in the order of arrival, and the last one for all
further ones; or one step; or a function from the request to its step. A step is a list of actions:
bytes to send, `Pause`, `Repeat`, RESET, CLOSE or STALL. `answer`, `chat`, `stream` and `drip` make
steps; FAULTS holds the ways in which an answer can go wrong, by name.

The server runs in a thread of its own, so that whoever asks may block.
"""

import asyncio
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from typing import Any, Final, Self

Action = Any
Step = Sequence[Action]
Plan = Step | Sequence[Step] | Callable[["Received"], Step]


@dataclass(frozen=True)
class Pause:
    """Sends nothing for a while."""

    seconds: float


@dataclass(frozen=True)
class Repeat:
    """Sends `data` so many times, no faster than it is read."""

    data: bytes
    count: int


RESET: Final = "reset"
"""Ends the connection with RST."""
CLOSE: Final = "close"
"""Ends the connection with FIN."""
STALL: Final = "stall"
"""Sends nothing more until the client gives up."""


@dataclass(frozen=True)
class Received:
    """One request as it came."""

    method: str
    target: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    connection: int
    """Counts from 0: which connection it came on."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def answer(
    body: bytes | str = b"{}",
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    content_type: str = "application/json",
) -> Step:
    """A whole answer in one packet."""
    data = body.encode() if isinstance(body, str) else body
    return [head(status, {"content-type": content_type, "content-length": str(len(data)),
                          **(headers or {})}) + data]  # fmt: skip


def head(status: int = 200, headers: Mapping[str, str] | None = None) -> bytes:
    """A status line and headers, as bytes."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    return f"HTTP/1.1 {status} Some Reason\r\n{lines}\r\n".encode()


def chat_body(text: str, **fields: Any) -> bytes:
    """What a chat model answers, as JSON."""
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        **fields,
    }
    return json.dumps(body).encode()


def chat(text: str) -> Step:
    return answer(chat_body(text))


def chat_events(*texts: str) -> list[bytes]:
    """The events of a streamed chat answer, the closing mark included."""

    def event(delta: dict[str, str], reason: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
                 "choices": [choice]}  # fmt: skip
        return b"data: " + json.dumps(chunk).encode() + b"\n\n"

    return [
        event({"role": "assistant", "content": ""}, None),
        *(event({"content": text}, None) for text in texts),
        event({}, "stop"),
        b"data: [DONE]\n\n",
    ]


STREAM_HEAD = head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def stream(*texts: str, gap_s: float = 0.0) -> Step:
    """A streamed chat answer, one chunk and packet for each event."""
    step: list[Action] = [STREAM_HEAD]
    for event in chat_events(*texts):
        step += [chunk(event), Pause(gap_s)]
    return [*step, b"0\r\n\r\n"]


def drip(data: bytes, gap_s: float = 0.0, size: int = 1) -> Step:
    """The same bytes in pieces of `size`."""
    step: list[Action] = []
    for place in range(0, len(data), size):
        step += [data[place : place + size], Pause(gap_s)]
    return step


def sent(step: Step) -> bytes:
    """All bytes of a step that only sends."""
    return b"".join(action for action in step if isinstance(action, bytes))


def http_date(seconds: float) -> str:
    """That many seconds from now, as `Retry-After` may say it."""
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


def big(num_bytes: int) -> Step:
    """A body of that size, made as it is sent."""
    piece = b"x" * 65_536
    count, rest = divmod(num_bytes, len(piece))
    return [head(200, {"content-length": str(num_bytes)}), Repeat(piece, count), b"x" * rest]


_SOON = Pause(0.05)
"""Lets the bytes before a reset arrive."""
FAULTS: dict[str, Step] = {
    "closes without a word": [CLOSE],
    "resets before the head": [RESET],
    "resets in the head": [b"HTTP/1.1 200 OK\r\ncontent-", _SOON, RESET],
    "closes in the head": [b"HTTP/1.1 200 OK\r\ncontent-", CLOSE],
    "resets after the head": [head(200, {"content-length": "100"}), _SOON, RESET],
    "resets in the body": [head(200, {"content-length": "100"}), b'{"id": ', _SOON, RESET],
    "closes in the body": [head(200, {"content-length": "100"}), b'{"id": ', CLOSE],
    "resets in the stream": [STREAM_HEAD, chunk(chat_events("Hel")[1]), _SOON, RESET],
    "closes in the stream": [STREAM_HEAD, chunk(chat_events("Hel")[1]), CLOSE],
    "stalls before the head": [STALL],
    "stalls in the head": [b"HTTP/1.1 200 OK\r\n", STALL],
    "stalls in the body": [head(200, {"content-length": "100"}), b'{"id": ', STALL],
    "stalls in the stream": [STREAM_HEAD, chunk(chat_events("Hel")[1]), STALL],
    "answers garbage": [b"\x00\xff\x17not HTTP at all\r\n\r\n"],
    "answers as another protocol": [b"SSH-2.0-OpenSSH_9.2\r\n"],
    "breaks its chunked encoding": [STREAM_HEAD, b"zz\r\nnot a length\r\n"],
    "promises more than it sends": [head(200, {"content-length": "9"}), b"{}", CLOSE],
    "sends two lengths": [
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 30\r\n\r\n{}" + b" " * 28
    ],
    "sends a length and chunks": [
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n"
        b"2\r\n{}\r\n0\r\n\r\n"
    ],
    "sends headers without end": [b"HTTP/1.1 200 OK\r\n", Repeat(b"x-a: " + b"b" * 1000 + b"\r\n",
                                                                 10_000)],
    "changes the protocol": [
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"
    ],
}  # fmt: skip
"""Where no whole answer comes. What answers whole but wrongly, such as HTML, is an `answer`."""


class Upstream:
    """The server; a context manager. What it saw can be read while it runs and afterwards."""

    def __init__(
        self,
        plan: Plan,
        *,
        tls: ssl.SSLContext | None = None,
        is_closing: bool = False,
        host: str = "127.0.0.1",
    ) -> None:
        """`is_closing`: ends each connection after its answer, without having said so."""
        self._plan = plan
        self._tls = tls
        self._is_closing = is_closing
        self._host = host
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._links: set[_Link] = set()
        self.requests: list[Received] = []
        self.hangups: list[Received] = []
        """Whose answer the client did not wait for."""
        self.num_connections = 0
        self.num_bytes_sent = 0
        """Handed to the operating system or waiting for it."""

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._call(
            self._loop.create_server(lambda: _Link(self), self._host, 0, ssl=self._tls)
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        """The base URL, with `/v1`."""
        scheme = "http" if self._tls is None else "https"
        host = "localhost" if self._tls else self._host
        return f"{scheme}://{host}:{self.port}/v1"

    @property
    def num_open(self) -> int:
        """Connections that stand now."""
        return len(self._links)

    def close_connections(self) -> None:
        """Ends all that stand, idle ones too, and goes on listening."""

        async def close() -> None:
            for link in list(self._links):
                link.transport.close()
            while self._links:
                await asyncio.sleep(0.001)

        self._call(close())

    def wait_until(self, is_so: Callable[["Upstream"], bool], seconds: float = 10.0) -> None:
        """Waits for something to be seen, such as `lambda up: up.hangups`."""
        with self._changed:
            assert self._changed.wait_for(lambda: is_so(self), seconds), "this was never seen"

    def _run(self) -> None:
        self._loop.run_forever()

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _stop(self) -> None:
        self._server.close()
        for link in list(self._links):
            link.transport.abort()
        while self._links:
            await asyncio.sleep(0.001)

    def _note(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _step_for(self, request: Received) -> Step:
        if callable(self._plan):
            return self._plan(request)
        if self._plan and isinstance(self._plan[0], (list, tuple)):
            return self._plan[min(len(self.requests) - 1, len(self._plan) - 1)]
        return self._plan


class _Link(asyncio.Protocol):
    """One connection of the server."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.number = upstream.num_connections
        upstream.num_connections += 1
        self.data = bytearray()
        self.playing: asyncio.Task[None] | None = None
        self.current: Received | None = None
        self.may_write = asyncio.Event()
        self.may_write.set()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.upstream._links.add(self)
        self.upstream._note()

    def connection_lost(self, _: Exception | None) -> None:
        self.upstream._links.discard(self)
        if self.playing is not None and self.current is not None:
            self.upstream.hangups.append(self.current)
            self.playing.cancel()
            self.playing = self.current = None
        self.upstream._note()

    def pause_writing(self) -> None:
        self.may_write.clear()

    def resume_writing(self) -> None:
        self.may_write.set()

    def data_received(self, data: bytes) -> None:
        self.data += data
        if self.playing is None:
            self._begin()

    def _begin(self) -> None:
        """Takes the next request, if it is whole, and plays its step."""
        if self.data and not self.data[:1].isupper():
            # Not HTTP: TLS, most likely.
            self._send(head(400))
            self.transport.close()
            return
        end = self.data.find(b"\r\n\r\n")
        if end < 0:
            return
        first, *lines = bytes(self.data[:end]).decode("latin-1").split("\r\n")
        headers = dict(_header(line) for line in lines)
        stop = end + 4 + int(headers.get("content-length", "0"))
        if len(self.data) < stop:
            return
        method, target, _ = first.split(" ")
        request = Received(method, target, headers, bytes(self.data[end + 4 : stop]), self.number)
        del self.data[:stop]
        self.current = request
        self.upstream.requests.append(request)
        step = self.upstream._step_for(request)
        if len(step) == 1 and isinstance(step[0], bytes):
            # No task: thousands of these are asked for.
            self._send(step[0])
            self._ended()
        else:
            self.playing = asyncio.ensure_future(self._play(step))
        self.upstream._note()

    async def _play(self, step: Step) -> None:
        for action in step:
            if isinstance(action, bytes):
                self._send(action)
            elif isinstance(action, Repeat):
                for _ in range(action.count):
                    await self.may_write.wait()
                    # An event that is set does not wait, and the end of the connection would
                    # never be noticed.
                    await asyncio.sleep(0)
                    self._send(action.data)
            elif isinstance(action, Pause):
                await asyncio.sleep(action.seconds)
            elif action == STALL:
                await asyncio.Event().wait()
            else:
                self._end(action)
                return
            await self.may_write.wait()
        self._ended()

    def _send(self, data: bytes) -> None:
        self.upstream.num_bytes_sent += len(data)
        self.transport.write(data)

    def _end(self, how: Action) -> None:
        self.playing = self.current = None
        if how == RESET:
            plain = self.transport.get_extra_info("socket")
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        else:
            self.transport.close()

    def _ended(self) -> None:
        self.playing = self.current = None
        if self.upstream._is_closing:
            self.transport.close()
        elif self.data:
            self._begin()


def _header(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.lower(), value.strip()


def unused_url() -> str:
    """A base URL where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/v1"


def splits(data: bytes, places: Sequence[int]) -> Iterator[bytes]:
    """`data` cut at these places."""
    cuts = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    for start, end in pairwise(cuts):
        yield data[start:end]
