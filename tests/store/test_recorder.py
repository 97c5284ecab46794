"""The recorder as the gateway runs it: a process of its own, spoken to through pipes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.store.recorded import call, payloads

from twin.store.database import Store, journal_folder
from twin.store.ingest import backlog_bytes
from twin.store.journal import Journal
from twin.store.recorder import Recorder, Settings

if TYPE_CHECKING:
    from conftest import Place


class Running:
    """A recorder process."""

    def __init__(self, place: Place, **settings: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "twin.store.recorder"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        # The calls of these tests are years old.
        kept = {"max_age_days": 100_000}
        first = {"root": str(place.root), "url": place.url, **kept, **settings}
        self.write(json.dumps(first).encode() + b"\n")

    def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def statuses(self) -> Iterator[dict[str, Any]]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield json.loads(line)

    def until(self, **wanted: object) -> dict[str, Any]:
        """The first status in which everything `wanted` holds."""
        for status in self.statuses():
            if all(status[name] == value for name, value in wanted.items()):
                return status
        raise AssertionError("it went before it said so")

    def end(self) -> tuple[list[dict[str, Any]], int]:
        assert self.process.stdin is not None
        self.process.stdin.close()
        said = list(self.statuses())
        self.stop()
        return said, self.process.returncode

    def stop(self) -> None:
        """Kills it, unless it has gone already."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if not self.process.stdin.closed:
            self.process.kill()
            self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


@pytest.fixture
def running(place: Place) -> Iterator[Running]:
    started = Running(place)
    yield started
    started.stop()


@pytest.fixture
def journal(place: Place) -> Iterator[Journal]:
    opened = Journal(journal_folder(place.root))
    yield opened
    opened.close()


@pytest.mark.slow
def test_it_moves_what_comes_and_says_how_it_stands(
    store: Store, journal: Journal, running: Running
) -> None:
    journal.append(payloads([call("call_1")]))
    running.write(b"\n")
    assert running.until(num_ingested=1)["last_error"] == ""
    journal.append(payloads([call("call_2"), call("call_3")]))
    running.write(b"\n")
    assert running.until(num_ingested=3)["backlog_bytes"] == 0
    assert len(store.calls.search()) == 3


@pytest.mark.slow
def test_at_its_end_it_moves_everything_that_is_left(
    store: Store, journal: Journal, running: Running
) -> None:
    journal.append(payloads([call(f"call_{n}") for n in range(2_500)]))
    said, code = running.end()
    assert code == 0
    assert said[-1]["num_ingested"] == 2_500
    assert len(store.calls.search(limit=10_000)) == 2_500


@pytest.mark.slow
def test_ctrl_c_is_for_the_gateway(store: Store, journal: Journal, running: Running) -> None:
    journal.append(payloads([call("call_1")]))
    running.until(num_ingested=1)
    running.process.send_signal(signal.SIGINT)
    journal.append(payloads([call("call_2")]))
    said, code = running.end()
    assert (code, said[-1]["num_ingested"]) == (0, 2)


@pytest.mark.slow
def test_while_the_store_is_locked_it_reports_and_later_it_catches_up(
    store: Store, journal: Journal, running: Running
) -> None:
    with store._database.writing() as connection:
        store._database.one_at_a_time(connection, "traffic")
        journal.append(payloads([call("call_1")]))
        status = next(each for each in running.statuses() if each["last_error"])
        assert "locked" in status["last_error"]
        assert status["backlog_bytes"] > 0
    assert running.until(num_ingested=1, last_error="")["backlog_bytes"] == 0
    assert store.calls.get("call_1") == call("call_1")


@pytest.mark.slow
def test_a_store_that_cannot_be_opened_is_tried_until_it_can(new_place: Place) -> None:
    if new_place.url:
        pytest.skip("a server that is gone is met below")
    in_the_way = new_place.root / ".twin" / "twin.db"
    journal = Journal(journal_folder(new_place.root))
    in_the_way.mkdir()
    journal.append(payloads([call("call_1")]))
    running = Running(new_place)
    status = next(each for each in running.statuses() if each["last_error"])
    assert "twin.db" in status["last_error"]
    in_the_way.rmdir()
    running.until(num_ingested=1, last_error="")
    assert running.end()[1] == 0
    journal.close()


@pytest.mark.slow
def test_a_connection_that_breaks_is_made_anew(
    place: Place, store: Store, journal: Journal, running: Running
) -> None:
    if not place.url:
        pytest.skip("SQLite has no connection to break")
    journal.append(payloads([call("call_1")]))
    running.until(num_ingested=1)
    with store.engine.connect() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND application_name = 'twin'"
        )
    journal.append(payloads([call("call_2")]))
    running.write(b"\n")
    running.until(num_ingested=2, last_error="")
    assert running.end()[1] == 0


def test_at_the_end_it_does_not_wait_for_ever_and_the_journal_keeps_the_rest(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io
    import os

    from twin.store import recorder

    monkeypatch.setattr(recorder, "_LAST_TRIES_S", 0.2)
    monkeypatch.setattr(recorder, "_WAIT_S", 0.1)
    journal = Journal(journal_folder(place.root))
    journal.append(payloads([call("call_1")]))
    reading, writing = os.pipe()
    os.write(writing, json.dumps({"root": str(place.root), "url": place.url}).encode() + b"\n")
    os.close(writing)
    output = io.BytesIO()
    with place.open() as store, store._database.writing() as connection:
        store._database.one_at_a_time(connection, "traffic")
        with open(reading, "rb", buffering=0) as commands:
            assert recorder.main(commands, output) == 1
    assert "locked" in json.loads(output.getvalue().splitlines()[-1])["last_error"]
    assert backlog_bytes(journal_folder(place.root)) > 0
    journal.close()


def test_retention_comes_after_the_entries(place: Place, store: Store) -> None:
    old, young = call("old", at=time.time() - 40 * 86_400), call("young", at=time.time())
    store.calls.add([old, young])
    Path(journal_folder(place.root)).mkdir(parents=True, exist_ok=True)
    recorder = Recorder(Settings(root=str(place.root), url=place.url, max_age_days=30))
    recorder._retention_at = 0.0
    recorder.step()
    assert recorder.status.num_removed == 1
    assert [each.call_id for each in store.calls.search()] == ["young"]
    recorder.close()
