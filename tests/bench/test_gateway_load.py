import asyncio
import json
import os
import shutil
import socketserver
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from gateway_load import tools
from gateway_load.processes import Process
from gateway_load.targets import get
from gateway_load.tools import Tools

CORE = min(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    built = tools.build(tmp_path_factory.mktemp("tools"))
    if built.kind != "c":
        pytest.skip("no C compiler on this machine")
    return built


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "which", lambda name: None)
        return tools.build(tmp_path_factory.mktemp("tools"))


@pytest.fixture(params=["compiled", "interpreted"])
def either(request: pytest.FixtureRequest) -> Tools:
    found: Tools = request.getfixturevalue(request.param)
    return found


@contextmanager
def mock_of(kind: Tools) -> Iterator[int]:
    process, port = tools.start_mock(kind, CORE)
    try:
        yield port
    finally:
        process.stop()


@contextmanager
def server_that_says(answer: bytes, *, closes: bool) -> Iterator[int]:
    """Sends `answer` to each request."""

    class Serve(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(ConnectionError):  # the load ends in the middle of an answer
                while self.request.recv(65_536):
                    self.request.sendall(answer)
                    if closes:
                        break

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Serve) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def body(folder: Path, *, stream: bool = False, **more: Any) -> Path:
    path = folder / "body.json"
    messages = [{"role": "user", "content": "hello"}]
    asked = {"model": "mock", "messages": messages, "stream": stream, **more}
    path.write_text(json.dumps(asked, separators=(",", ":")))
    return path


def loaded(kind: Tools, port: int, asked: Path, *expect: str, connections: int = 3) -> Any:
    return tools.load(
        kind,
        port=port,
        path="/v1/chat/completions",
        body=asked,
        headers=["authorization: Bearer none"],
        expect=expect,
        connections=connections,
        seconds=0.2,
        warm=0.05,
        core=CORE,
    )


def answer_to(port: int, asked: Path) -> bytes:
    async def ask() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        data = asked.read_bytes()
        writer.write(b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n%s" % (len(data), data))
        received = b""
        while not received.endswith((b"}", b"\r\n0\r\n\r\n")):
            received += await reader.read(65_536)
        writer.close()
        await writer.wait_closed()
        return received

    return asyncio.run(ask())


@pytest.mark.parametrize(
    "more", [{}, {"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}]
)
def test_both_mocks_answer_the_same_bytes(
    compiled: Tools, interpreted: Tools, tmp_path: Path, more: dict[str, Any]
) -> None:
    asked = body(tmp_path, **more)
    with mock_of(compiled) as one, mock_of(interpreted) as other:
        assert answer_to(one, asked) == answer_to(other, asked)


@pytest.mark.parametrize("stream", [False, True])
def test_every_answer_that_the_mock_gave_was_received_whole(
    either: Tools, tmp_path: Path, stream: bool
) -> None:
    with mock_of(either) as port:
        asked = body(tmp_path, stream=stream)
        run = loaded(either, port, asked, "[DONE]" if stream else "settings file.")
        answered = json.loads(get(port, "/"))["answered"]
    assert run["whole"] == answered
    assert 0 < run["answers"] <= run["whole"]
    assert set(run["errors"].values()) == {0}


def test_a_paced_stream_begins_long_before_it_ends(either: Tools, tmp_path: Path) -> None:
    with mock_of(either) as port:
        get(port, "/pace/2000/4000")
        run = loaded(either, port, body(tmp_path, stream=True), "[DONE]")
    # Eleven pauses lie between them, none shorter than 2 ms; what is late only adds to it.
    assert run["latency_ms"]["p50"] - run["first_byte_ms"]["p50"] >= 11


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"200 OK\r\ncontent-length: 5\r\n\r\nother", "body"),
        (b"503 No\r\ncontent-length: 5\r\n\r\nhello", "status"),
        (b"200 OK\r\ncontent-length: 50\r\n\r\nhello", "reset"),
        (b"200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", "reset"),
        (b"", "reset"),
    ],
    ids=["other text", "other status", "short body", "stream without end", "silence"],
)
def test_an_answer_that_is_not_whole_counts_as_an_error_of_its_kind(
    either: Tools, tmp_path: Path, answer: bytes, error: str
) -> None:
    whole = b"HTTP/1.1 " + answer
    with server_that_says(whole, closes=error == "reset") as port:
        run = loaded(either, port, body(tmp_path), "hello", connections=1)
    assert run["whole"] == 0
    assert run["errors"].pop(error) > 0
    assert set(run["errors"].values()) == {0}


def test_the_cpu_of_children_belongs_to_the_tree(tmp_path: Path) -> None:
    work = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'sum(range(10**7))'])"
    done = tmp_path / "done"
    code = f"{work}; open({str(done)!r}, 'w').close(); import time; time.sleep(60)"
    process = Process([sys.executable, "-c", code])
    try:
        assert tools.until(done.exists, 60)
        tree_s, alone_s = process.cpu_s()
        assert tree_s == alone_s > 0.1  # the child has ended: its time is its parent's
    finally:
        process.stop()
