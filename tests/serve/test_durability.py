"""What a client has received whole is recorded, whatever is killed, locked or full meanwhile."""

import contextlib
import http.client
import json
import os
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.backends.upstream import Upstream, chat, stream
from tests.serve.conftest import Served

from twin.store.database import journal_folder, open_store
from twin.store.ingest import Ingest, backlog_bytes

Serving = Callable[..., Served]


def model(url: str) -> str:
    return f'[models.m]\nprovider = "vllm"\nbase_url = "{url}"\nretries = 0\n'


class Load:
    """Clients that ask again and again until the gateway is gone; remembers what came whole."""

    def __init__(self, served: Served, count: int = 6) -> None:
        self.served = served
        self.whole: list[str] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(number % 2 == 0,)) for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, is_stream: bool) -> None:
        body = {"model": "m", "stream": is_stream, "messages": [{"role": "user", "content": "x"}]}
        connection = http.client.HTTPConnection("127.0.0.1", self.served.port, timeout=20)
        try:
            while not self._stop.is_set():
                connection.request("POST", "/v1/chat/completions", json.dumps(body))
                answer = connection.getresponse()
                call_id = answer.headers["x-request-id"]
                answer.read()  # raises where it does not come whole
                if answer.status == 200:
                    self.whole.append(call_id)
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def recorded(root: Path) -> dict[str, str]:
    with open_store(root) as store:
        deadline = time.monotonic() + 20
        while True:
            Ingest(store, journal_folder(root)).drain()
            found = {call.call_id: call.outcome for call in store.calls.each()}
            # The recorder of the killed gateway may hold the journal for a moment still.
            if backlog_bytes(journal_folder(root)) == 0:
                return found
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    def plan(request: object) -> object:
        is_stream = getattr(request, "json", {}).get("stream")
        return stream("Good", " day.") if is_stream else chat("Good day.")

    with Upstream(plan) as made:  # type: ignore[arg-type]
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("sync", ["process", "disk"])
def test_kill_9_under_load_loses_no_answer_that_came_whole(
    sync: str, serving: Serving, upstream: Upstream
) -> None:
    served = serving(f'[record]\nsync = "{sync}"\n{model(upstream.url)}')
    for _ in range(2):
        load = Load(served)
        served.until(lambda load=load: len(load.whole) > 150, 30)  # type: ignore[misc]
        served.kill()
        load.end()
        found = recorded(served.root)
        lost = [call_id for call_id in load.whole if found.get(call_id) != "ok"]
        assert not lost
        served.start()


@pytest.mark.slow
def test_the_recorder_may_be_killed_as_well(serving: Serving, upstream: Upstream) -> None:
    served = serving(model(upstream.url))
    load = Load(served)
    for _ in range(3):
        before = len(load.whole)
        served.until(lambda before=before: len(load.whole) > before + 60, 30)  # type: ignore[misc]
        for pid in _recorders(served):
            os.kill(pid, 9)
        served.until(lambda: bool(_recorders(served)), 20)
    load.end()
    served.stop()
    found = recorded(served.root)
    assert not [call_id for call_id in load.whole if call_id not in found]


def _recorders(served: Served) -> list[int]:
    text = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(served.process.pid)],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    return [int(line.split()[0]) for line in text.splitlines() if "recorder" in line]


@pytest.mark.slow
def test_a_locked_store_stops_no_traffic_and_gets_everything_afterwards(
    serving: Serving, upstream: Upstream
) -> None:
    served = serving(model(upstream.url))
    served.chat(model="m")
    served.calls()
    lock = sqlite3.connect(served.root / ".twin" / "twin.db", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    began = time.monotonic()
    ids = []
    while time.monotonic() < began + 4:
        status, headers, _ = served.chat(model="m")
        assert status == 200
        ids.append(headers["x-request-id"])

    def warnings() -> list[str]:
        status, _, body = served.request("GET", "/ready")
        assert status == 200, "calls are answered and recorded: nobody is to be sent elsewhere"
        return list(json.loads(body)["warnings"])

    served.until(lambda: any("locked" in warning for warning in warnings()), 20)
    lock.execute("ROLLBACK")
    lock.close()
    served.until(lambda: not warnings(), 20)
    found = {call.call_id for call in served.calls()}
    assert set(ids) <= found


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a small disk")
@pytest.mark.parametrize("when_full", ["refuse", "serve"])
def test_a_full_disk_refuses_or_serves_as_configured_and_loses_nothing_acknowledged(
    when_full: str, serving: Serving, tmp_path: Path, upstream: Upstream
) -> None:
    disk = tmp_path / "small"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        served = serving(f'[record]\nwhen_full = "{when_full}"\n{model(upstream.url)}', "small")
        filler = disk / "filler"
        handle = os.open(filler, os.O_CREAT | os.O_WRONLY)
        with contextlib.suppress(OSError):
            while True:
                os.write(handle, b"x" * 65_536)
        os.close(handle)
        large = "y" * 900_000
        statuses = []
        whole = []
        for _ in range(40):
            status, headers, body = served.chat(large, model="m")
            statuses.append(status)
            if status == 200:
                whole.append(headers["x-request-id"])
            else:
                assert status == 503, served.log.read_text()[-3000:]
                assert "cannot be recorded" in json.loads(body)["error"]["message"]
                assert "retry-after" in headers
        assert statuses[0] == 200, "the journal has room of its own"
        assert (503 in statuses) == (when_full == "refuse")
        if when_full == "serve":
            assert set(statuses) == {200}
            assert b"twin_records_lost 0.0" not in served.request("GET", "/metrics")[2]
        filler.unlink()
        time.sleep(1.2)
        status, headers, _ = served.chat(model="m")
        assert status == 200
        found = {call.call_id for call in _settled(served, headers["x-request-id"])}
        if when_full == "refuse":
            assert set(whole) <= found
        served.stop()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def _settled(served: Served, last: str) -> list:  # type: ignore[type-arg]
    served.recorded(last)
    return served.calls()


@pytest.mark.slow
def test_secrets_are_in_no_file_that_the_gateway_leaves(serving: Serving) -> None:
    secret = "sk-proj-" + "Zx9" * 14
    pieces = [secret[place : place + 4] for place in range(0, len(secret), 4)]
    with Upstream(stream(*pieces)) as upstream:
        config = model(upstream.url) + 'accounts = ["env:ACCOUNT"]\n'
        served = serving(config, ACCOUNT="sk-account-" + "Q7" * 20)
        body = {
            "model": "m",
            "stream": True,
            "messages": [{"role": "user", "content": f"my key is {secret}, keep it"}],
        }
        status, headers, text = served.post("/v1/chat/completions", body)
        assert status == 200
        assert pieces[1].encode() in text, "the client gets what the model said"
        assert secret in upstream.requests[0].json["messages"][0]["content"]
        call = served.recorded(headers["x-request-id"])
        served.stop()
    assert b"[redacted:api-key]" in call.request
    assert b"[redacted:api-key]" in call.attempts[0].response
    for path in served.root.rglob("*"):
        if path.is_file() and path.name != "twin.toml":
            data = path.read_bytes()
            assert secret.encode() not in data, path
            assert b"sk-account-" not in data, path
