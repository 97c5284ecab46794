"""An upstream that misbehaves as its request's text says. `python -m gateway_load.faulty PORT`.

A request that holds `fault=KIND-NUMBER` meets the fault: once, so that asking again helps, or
always where KIND ends in `!`. Without one it gets the answers of `mock`.
"""

import asyncio
import re
import sys

from gateway_load.mock import ANSWER, CHUNKS, STREAM_END, STREAM_HEAD

FAULT = re.compile(rb"fault=([a-z0-9-]+)(!?)-(\d+)")
STALL_S = 30.0
SENTENCE = b'{"error":{"message":"The server is unwell.","type":"server_error"}}'
HTML = b"<html><body><h1>502 Bad Gateway</h1></body></html>"


def _head(status: str, body: bytes, kind: str = "application/json", more: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


class Faulty(asyncio.Protocol):
    """One connection."""

    met: set[bytes] = set()  # noqa: RUF012 - shared by all connections on purpose

    def connection_made(self, transport: asyncio.WriteTransport) -> None:
        self._transport = transport
        self._input = b""
        self._task: asyncio.Task[None] | None = None

    def connection_lost(self, error: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._input += data
        head, found, rest = self._input.partition(b"\r\n\r\n")
        size = re.search(rb"content-length: *(\d+)", head.lower())
        if not found or size is None or len(rest) < int(size[1]):
            return
        self._input = rest[int(size[1]) :]
        self._task = asyncio.get_running_loop().create_task(self._answer(rest))

    async def _answer(self, body: bytes) -> None:
        is_stream = b'"stream":true' in body
        fault = FAULT.search(body)
        if fault is not None:
            kind, always, _ = fault.groups()
            if always or fault[0] not in self.met:
                if not always:
                    self.met.add(fault[0])
                await self._misbehave(kind.decode(), is_stream)
                return
            self.met.discard(fault[0])
        await self._behave(is_stream)

    async def _behave(self, is_stream: bool, gap_s: float = 0.0) -> None:
        if not is_stream:
            self._transport.write(ANSWER)
            return
        self._transport.write(STREAM_HEAD)
        for chunk in CHUNKS:
            await asyncio.sleep(gap_s)
            self._transport.write(chunk)
        self._transport.write(STREAM_END)

    async def _misbehave(self, kind: str, is_stream: bool) -> None:
        write = self._transport.write
        if kind == "status500":
            write(_head("500 Internal Server Error", SENTENCE))
        elif kind == "status429":
            write(_head("429 Too Many Requests", SENTENCE, more="retry-after: 0\r\n"))
        elif kind == "html":
            write(_head("200 OK", HTML, "text/html"))
        elif kind == "truncated":
            write(_head("200 OK", ANSWER.partition(b"\r\n\r\n")[2][:150]))
        elif kind == "reset":
            self._transport.abort()
        elif kind == "stall":
            if is_stream:
                write(STREAM_HEAD + CHUNKS[0])
            await asyncio.sleep(STALL_S)
            self._transport.abort()
        elif kind == "midway":
            write(STREAM_HEAD + b"".join(CHUNKS[:4]) if is_stream else ANSWER[:200])
            await asyncio.sleep(0.01)
            self._transport.abort()
        elif kind == "split":
            whole = STREAM_HEAD + b"".join(CHUNKS) + STREAM_END if is_stream else ANSWER
            for at in range(0, len(whole), 97):
                write(whole[at : at + 97])
                await asyncio.sleep(0)
        elif kind == "slow":
            await self._behave(is_stream, gap_s=0.01)
        else:
            raise ValueError(kind)


async def main(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Faulty, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        from uvloop import run
    except ImportError:
        from asyncio import run
    run(main(int(sys.argv[1])))
