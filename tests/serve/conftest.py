"""A real gateway in a process of its own, as `twin serve` starts it."""

import atexit
import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from twin.records import Call
from twin.store.database import journal_folder, open_store
from twin.store.ingest import Ingest


@cache
def _empty_store() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="twin-test-store-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    open_store(folder).close()
    return folder / ".twin"


class Served:
    """One running gateway and its folder."""

    def __init__(self, root: Path, config: str, environment: dict[str, str]) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        # A store that is there already: making one takes a second, and has its own tests.
        shutil.copytree(_empty_store(), root / ".twin")
        self.configure(config)
        self.environment = {**os.environ, **environment}
        self.log = root / "log.txt"
        self.start()

    def configure(self, config: str) -> None:
        self.configuration = config
        (self.root / "twin.toml").write_text(config, encoding="utf-8")

    def start(self) -> None:
        command = [str(Path(sys.executable).with_name("twin")), "--repo", str(self.root)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "serve", "--port", "0", "--json"],
                stdout=subprocess.PIPE,
                stderr=log,
                env=self.environment,
                start_new_session=True,
            )
        assert self.process.stdout is not None
        text = ""
        for line in self.process.stdout:
            text += line.decode()
            if line.rstrip() == b"}":
                break
        assert text, f"it did not start: {self.log.read_text()}"
        self.url: str = json.loads(text)["url"]
        self._reader = threading.Thread(target=self.process.stdout.read, daemon=True)
        self._reader.start()

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port is not None
        return port

    def post(
        self, path: str, body: object, headers: dict[str, str] | None = None, timeout: float = 30
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (lower case) and body of one request on a connection of its own."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.request("POST", path, data, headers, timeout)

    def request(
        self,
        method: str,
        path: str,
        data: bytes = b"",
        headers: dict[str, str] | None = None,
        timeout: float = 30,
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        with contextlib.closing(connection):
            connection.request(method, path, data, headers or {})
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, found, answer.read()

    def chat(
        self, text: str = "hello", model: str = "twin", **more: Any
    ) -> tuple[int, dict[str, str], bytes]:
        body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
        return self.post("/v1/chat/completions", body)

    def calls(self) -> list[Call]:
        """Everything recorded so far, oldest first."""
        with open_store(self.root) as store:
            deadline = time.monotonic() + 20
            while True:
                Ingest(store, journal_folder(self.root)).drain()
                found = list(store.calls.each())
                # The recorder may be in the middle of a transaction of its own.
                if found or time.monotonic() > deadline:
                    return found
                time.sleep(0.05)

    def recorded(self, call_id: str) -> Call:
        """One call, waited for: it may be in the recorder's hands."""
        with open_store(self.root) as store:
            deadline = time.monotonic() + 20
            while True:
                Ingest(store, journal_folder(self.root)).drain()
                for call in store.calls.each():
                    if call.call_id == call_id:
                        return call
                assert time.monotonic() < deadline, f"{call_id} has no record"
                time.sleep(0.05)

    def until(self, holds: Callable[[], bool], seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        self.process.kill()
        self._wait()

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self._wait()

    def _wait(self) -> int:
        code = self.process.wait(60)
        self._reader.join(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Served]]:
    """As `serving`, for gateways that many tests of one module share."""
    yield from _starting(tmp_path_factory.mktemp("together"))


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Starts gateways; ends them after the test."""
    yield from _starting(tmp_path)


def _starting(folder: Path) -> Iterator[Callable[..., Served]]:
    started: list[Served] = []

    def start(config: str = "", name: str = "home", **environment: str) -> Served:
        served = Served(folder / name, config, environment)
        started.append(served)
        return served

    yield start
    for served in started:
        served.stop()
