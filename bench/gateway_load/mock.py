"""mock.c for a machine without a compiler: the same answers, slower. `python mock.py PORT`."""

import asyncio
import json
import random
import re
import sys

EVENTS = 12
SENTENCE = "The retry delay is now read from the settings file."
WORDS = ["", *re.findall(r" ?\S+", SENTENCE), ""]
USAGE = {"prompt_tokens": 61, "completion_tokens": 10, "total_tokens": 71}
BASE = {"id": "chatcmpl-0123456789abcdef", "object": "chat.completion", "created": 1760000000}
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
)
pace_us = {"first": 0, "gap": 0}
answered = 0


def _dumped(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _framed(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def _event(body: bytes) -> bytes:
    data = b"data: " + body + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


def _chunk(index: int) -> bytes:
    delta = {"role": "assistant"} if index == 0 else {}
    if index < EVENTS - 1:
        delta["content"] = WORDS[index]
    reason = "stop" if index == EVENTS - 1 else None
    choices = [{"index": 0, "delta": delta, "finish_reason": reason}]
    return _event(
        _dumped({**BASE, "object": "chat.completion.chunk", "model": "mock", "choices": choices})
    )


MESSAGE = {"role": "assistant", "content": SENTENCE}
ANSWER = _framed(
    _dumped(
        {
            **BASE,
            "model": "mock",
            "choices": [{"index": 0, "message": MESSAGE, "finish_reason": "stop"}],
            "usage": USAGE,
        }
    )
)
CHUNKS = [_chunk(index) for index in range(EVENTS)]
USAGE_CHUNK = _event(
    _dumped(
        {**BASE, "object": "chat.completion.chunk", "model": "mock", "choices": [], "usage": USAGE}
    )
)
STREAM_END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


class Mock(asyncio.Protocol):
    def connection_made(self, transport: asyncio.WriteTransport) -> None:
        self._transport = transport
        self._input = b""
        self._next = -1
        self._with_usage = False

    def data_received(self, data: bytes) -> None:
        self._input += data
        self._proceed()

    def _proceed(self) -> None:
        while self._input and self._next < 0 and not self._transport.is_closing():
            head, found, rest = self._input.partition(b"\r\n\r\n")
            lower = head.lower()
            if not found:
                return
            size = 0
            if (at := lower.find(b"\ncontent-length:")) >= 0:
                size = int(lower[at + 16 :].split(b"\r", 1)[0])
            elif b"\ntransfer-encoding:" in lower:
                if not rest.endswith(b"0\r\n\r\n"):
                    return
                size = len(rest)
            if len(rest) < size:
                return
            self._input = rest[size:]
            self._answer(head, rest[:size].replace(b'": ', b'":'))

    def _answer(self, head: bytes, body: bytes) -> None:
        global answered
        if head.startswith(b"GET"):
            parts = head.split(b" ", 2)[1].split(b"/")
            if parts[1] == b"pace":
                pace_us.update(first=int(parts[2]), gap=int(parts[3]))
            self._transport.write(_framed(_dumped({"answered": answered})))
        elif b'"stream":true' in body:
            self._next = 0
            self._with_usage = b'"include_usage":true' in body
            self._wait(pace_us["first"] / 1e6)
        else:
            answered += 1
            self._transport.write(ANSWER)

    def _wait(self, delay_s: float) -> None:
        if delay_s:
            asyncio.get_running_loop().call_later(delay_s, self._stream_on)
        else:
            self._stream_on()

    def _stream_on(self) -> None:
        global answered
        write = self._transport.write
        while not self._transport.is_closing():
            index = self._next
            if index == EVENTS:
                self._next = -1
                answered += 1
                if self._with_usage:
                    write(USAGE_CHUNK)
                write(STREAM_END)
                self._proceed()
                return
            write(STREAM_HEAD + CHUNKS[0] if index == 0 else CHUNKS[index])
            self._next += 1
            if pace_us["gap"] and self._next < EVENTS:
                self._wait(pace_us["gap"] * random.uniform(0.5, 1.5) / 1e6)
                return


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Mock, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        from uvloop import run
    except ImportError:
        from asyncio import run
    run(main(int(sys.argv[1])))
