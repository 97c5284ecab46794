"""From the journal into the store: everything once, nothing lost, nothing blocked."""

from __future__ import annotations

import random
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from sqlalchemy import Connection, event
from tests.store.recorded import NOON, call, encode, everything, feedback, payloads

from twin.errors import StoreFull, StoreLocked, StoreTooNew
from twin.records import Call
from twin.store import segments
from twin.store.database import Store, journal_folder
from twin.store.ingest import MAX_ENTRIES, NUM_SPARE, Ingest, Progress, alone, backlog_bytes
from twin.store.journal import Journal
from twin.store.segments import FRAME, HEADER_BYTES

if TYPE_CHECKING:
    from conftest import Place

SMALL = 8_192


@pytest.fixture
def folder(place: Place) -> Path:
    return journal_folder(place.root)


@pytest.fixture
def journal(folder: Path) -> Journal:
    return Journal(folder, segment_bytes=SMALL)


def ids(store: Store) -> set[str]:
    return {each.call_id for each in store.calls.search(limit=100_000)}


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_what_a_live_writer_has_written_arrives_in_order_and_whole(
    store: Store, journal: Journal, folder: Path
) -> None:
    ingest = Ingest(store, folder)
    entries = [everything("call_1"), feedback("call_2", 1), call("call_2")]
    journal.append(payloads(entries))
    assert ingest.step() == Progress(num_calls=2, num_feedback=1)
    assert ingest.step() == Progress()
    journal.append(payloads([call("call_3")]))
    assert ingest.step() == Progress(num_calls=1)
    assert list(store.calls.each()) == [everything("call_1"), call("call_2"), call("call_3")]
    assert store.calls.feedback("call_2") == [feedback("call_2", 1)]
    journal.close()


def test_a_folder_without_a_journal_is_nothing_to_do(store: Store, folder: Path) -> None:
    assert Ingest(store, folder).drain() == Progress()
    assert backlog_bytes(folder) == 0
    assert not folder.exists()


def test_another_recorder_goes_on_where_the_first_stopped(
    store: Store, journal: Journal, folder: Path
) -> None:
    journal.append(payloads([call("call_1")]))
    Ingest(store, folder).step()
    journal.append(payloads([call("call_2")]))
    assert Ingest(store, folder).step() == Progress(num_calls=1)


def test_frames_that_are_read_again_change_nothing(
    store: Store, journal: Journal, folder: Path
) -> None:
    journal.append(payloads([call("call_1"), feedback("call_1")]))
    ingest = Ingest(store, folder)
    ingest.step()
    (path,) = segments.in_folder(folder)
    with segments.Segment(path) as segment:
        segment.move_cursor(HEADER_BYTES)  # As after a power cut.
    journal.append(payloads([call("call_1"), call("call_2")]))
    assert ingest.step() == Progress(num_calls=1, num_duplicates=3)
    assert [spend.num_calls for spend in store.calls.spend("2025-11")] == [2]


def test_segments_that_are_read_are_used_again_and_only_a_few_are_kept(
    store: Store, folder: Path
) -> None:
    ingest = Ingest(store, folder)
    journal = Journal(folder, segment_bytes=SMALL)
    names = set()
    for number in range(200):
        journal.append(payloads([call(f"call_{number}")]))
        if number % 10 == 0:
            ingest.drain()
            names |= {path.stat().st_ino for path in folder.glob("*.[jf]*")}
    assert len(names) < 5
    journal.close()
    for writer in range(8):
        other = Journal(folder, segment_bytes=SMALL)
        other.append(payloads([call(f"other_{writer}")]))
        other.close()
    for path in folder.glob("*.free"):
        path.unlink()
    ingest.drain()
    assert len(ids(store)) == 208
    assert len(list(folder.glob("*.free"))) <= NUM_SPARE
    assert segments.in_folder(folder) == []


def test_a_long_backlog_is_moved_in_several_transactions(store: Store, folder: Path) -> None:
    journal = Journal(folder)
    num_calls = 2 * MAX_ENTRIES + 10
    journal.append(payloads([call(f"call_{n}") for n in range(num_calls)]))
    assert backlog_bytes(folder) > num_calls * 100
    ingest = Ingest(store, folder)
    assert ingest.step() == Progress(num_calls=MAX_ENTRIES, is_behind=True)
    assert ingest.drain().num_calls == MAX_ENTRIES + 10
    assert backlog_bytes(folder) == 0
    assert len(ids(store)) == num_calls
    journal.close()


# ------------------------------------------------------------------------- entries nobody can take


def test_what_cannot_be_decoded_is_put_aside_and_blocks_nothing(
    store: Store, journal: Journal, folder: Path
) -> None:
    poison = [b"\xc1", b"x", encode({"kind": "call"}), encode({"kind": "who"}), b"\xdc" * 50]
    journal.append([encode(call("call_1")), *poison, encode(call("call_2"))])
    done = Ingest(store, folder).step()
    assert done == Progress(num_calls=2, num_rejected=len(poison))
    (kept,) = folder.glob("*.rejected")
    data = kept.read_bytes()
    assert data == b"".join(len(each).to_bytes(4, "little") + each for each in poison)
    assert Ingest(store, folder).step() == Progress()


def test_what_the_database_cannot_hold_is_put_aside_and_the_rest_of_its_batch_is_stored(
    store: Store, journal: Journal, folder: Path
) -> None:
    good = [call(f"call_{n}") for n in range(20)]
    impossible: list[Call] = [
        call("late", at=float("inf")),
        call("huge", status=2**63),
        call("never", latency_ms=1.0, at=float("nan")),
    ]
    mixed = [*good[:7], impossible[0], *good[7:9], impossible[1], *good[9:], impossible[2]]
    journal.append(payloads(mixed))
    done = Ingest(store, folder).step()
    assert done == Progress(num_calls=20, num_rejected=3)
    assert ids(store) == {each.call_id for each in good}
    (kept,) = folder.glob("*.rejected")
    data, again = kept.read_bytes(), []
    while data:
        length = int.from_bytes(data[:4], "little")
        again.append(msgspec.msgpack.decode(data[4 : 4 + length], type=Call).call_id)
        data = data[4 + length :]
    assert sorted(again) == ["huge", "late", "never"]


def test_damage_costs_what_is_damaged_and_the_segment_is_kept(store: Store, folder: Path) -> None:
    journal = Journal(folder, segment_bytes=SMALL)
    sizes = []
    for number in range(5):
        (payload,) = payloads([call(f"call_{number}")])
        sizes.append(FRAME.size + len(payload))
        journal.append([payload])
    ingest = Ingest(store, folder)
    (path,) = segments.in_folder(folder)
    flip(path, HEADER_BYTES + sizes[0] + 20)
    flip(path, HEADER_BYTES + sum(sizes[:3]) + 20)
    # While the writer lives it could as well be a frame that is not whole yet.
    assert ingest.step() == Progress(num_calls=1)
    journal.close()
    assert ingest.drain() == Progress(num_calls=2, num_damaged=2)
    assert ids(store) == {"call_0", "call_2", "call_4"}
    assert [each.suffix for each in folder.iterdir() if each.stem == path.stem] == [".damaged"]
    assert ingest.drain() == Progress()


def test_the_torn_end_of_a_killed_writer_is_no_damage(store: Store, folder: Path) -> None:
    journal = Journal(folder, segment_bytes=SMALL)
    journal.append(payloads([call("call_1")]))
    (path,) = segments.in_folder(folder)
    written = path.read_bytes()
    journal.close()
    end = written.rindex(encode(call("call_1"))) + len(encode(call("call_1")))
    torn = written[:end] + written[HEADER_BYTES : HEADER_BYTES + 30]
    path.write_bytes(torn.ljust(SMALL, b"\0"))
    assert Ingest(store, folder).drain() == Progress(num_calls=1)
    assert not list(folder.glob("*.damaged"))
    assert segments.in_folder(folder) == []


def test_a_segment_that_its_killed_writer_never_finished_is_removed(
    store: Store, folder: Path
) -> None:
    journal = Journal(folder, segment_bytes=SMALL)
    journal.append(payloads([call("call_1")]))
    (path,) = segments.in_folder(folder)
    path.with_suffix(".new").write_bytes(bytes(100))
    journal.close()
    assert Ingest(store, folder).drain() == Progress(num_calls=1)
    assert not list(folder.glob("*.new"))


def test_the_journal_of_a_newer_version_is_left_alone(store: Store, folder: Path) -> None:
    journal = Journal(folder, segment_bytes=SMALL)
    journal.append(payloads([call("call_1")]))
    (path,) = segments.in_folder(folder)
    told = struct.pack("<8sII", segments.MAGIC, segments.VERSION + 1, 7)
    newer = told + zlib.crc32(told).to_bytes(4, "little")
    before = path.read_bytes()
    path.write_bytes(newer + before[len(newer) :])
    with pytest.raises(StoreTooNew, match="newer version"):
        Ingest(store, folder).step()
    path.write_bytes(before)
    assert Ingest(store, folder).step() == Progress(num_calls=1)
    journal.close()


# ------------------------------------------------------------------------- a store in trouble


def test_a_locked_store_is_waited_for_and_nothing_is_lost(place: Place, folder: Path) -> None:
    journal = Journal(folder)
    journal.append(payloads([call("call_1")]))
    with place.open() as holder, place.open(wait_s=0.1) as store:
        ingest = Ingest(store, folder)
        with holder._database.writing() as connection:
            holder._database.one_at_a_time(connection, "traffic")
            for number in range(2, 4):
                with pytest.raises(StoreLocked):
                    ingest.step()
                # Appending goes on all the while.
                journal.append(payloads([call(f"call_{number}")]))
            assert backlog_bytes(folder) > 300
        assert ingest.step() == Progress(num_calls=3)
    journal.close()


def test_a_lock_that_is_released_in_time_is_not_even_noticed(place: Place, folder: Path) -> None:
    journal = Journal(folder)
    journal.append(payloads([call("call_1")]))
    with place.open() as holder, place.open() as store:
        is_held, may_go = threading.Event(), threading.Event()

        def hold() -> None:
            with holder._database.writing() as connection:
                holder._database.one_at_a_time(connection, "traffic")
                is_held.set()
                may_go.wait()

        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(hold)
            is_held.wait()
            threading.Timer(0.3, may_go.set).start()
            assert Ingest(store, folder).step() == Progress(num_calls=1)
            held.result()
    journal.close()


def test_a_full_disk_under_the_store_leaves_everything_in_the_journal(tmp_path: Path) -> None:
    from twin.store.database import open_store

    folder = journal_folder(tmp_path)
    journal = Journal(folder)
    journal.append(payloads([call("call_1", request=bytes(100_000))]))
    with open_store(tmp_path) as store:

        @event.listens_for(store.engine, "begin")
        def _no_more_pages(connection: Connection) -> None:
            connection.exec_driver_sql("PRAGMA max_page_count = 1")

        with pytest.raises(StoreFull):
            Ingest(store, folder).step()
    with open_store(tmp_path) as store:
        assert Ingest(store, folder).step() == Progress(num_calls=1)
    journal.close()


def test_two_that_ingest_at_once_store_everything_once(place: Place, folder: Path) -> None:
    journal = Journal(folder, segment_bytes=100_000)
    num_calls = 600

    def write() -> None:
        for number in range(num_calls):
            journal.append(payloads([call(f"call_{number}")]))
        journal.close()

    def move(store: Store) -> int:
        ingest = Ingest(store, folder)
        moved = 0
        while not writing.done() or backlog_bytes(folder):
            moved += ingest.step().num_calls
        return moved + ingest.drain().num_calls

    with place.open() as one, place.open() as two, ThreadPoolExecutor(3) as pool:
        writing = pool.submit(write)
        moved = list(pool.map(move, (one, two)))
        assert sum(moved) == num_calls
        assert len(ids(one)) == num_calls
        assert [spend.num_calls for spend in one.calls.spend("2025-11")] == [num_calls]


def test_one_that_is_not_alone_does_nothing_and_says_so(store: Store, folder: Path) -> None:
    Journal(folder).close()
    with alone(folder):
        assert Ingest(store, folder).step() == Progress(is_elsewhere=True)
        assert Ingest(store, folder).drain(wait_s=0.05).is_elsewhere
    assert Ingest(store, folder).step() == Progress()


# ------------------------------------------------------------------------- killed

WRITES = """
import sys
from pathlib import Path
from tests.store.recorded import call, payloads
from twin.store.journal import Journal

journal = Journal(Path(sys.argv[1]), segment_bytes=100_000)
number = 0
while True:
    journal.append(payloads([call(f"call_{n}") for n in range(number, number + 3)]))
    number += 3
    print(number, flush=True)
"""

INGESTS = """
from tests.store.recorded import call
from twin.store.database import journal_folder
from twin.store.ingest import Ingest

ingest = Ingest(store, journal_folder(store.folder.parent))
print("ready", flush=True)
while True:
    ingest.step()
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_writers_and_recorders_killed_at_any_moment_lose_and_double_nothing(
    place: Place, folder: Path, seed: int
) -> None:
    import subprocess
    import sys

    chance = random.Random(seed)
    folder.mkdir(parents=True)
    promised = 0
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITES, folder], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    for _ in range(4):
        recorder = place.start(INGESTS)
        assert recorder.stdout is not None
        recorder.stdout.readline()
        for _ in range(chance.randint(1, 300)):
            promised = int(writer.stdout.readline())
        time.sleep(chance.random() * 0.3)
        recorder.kill()
        recorder.communicate()
    writer.kill()
    rest = [line for line in writer.communicate()[0].splitlines(keepends=True) if line[-1:] == "\n"]
    promised = int(rest[-1]) if rest else promised
    with place.open() as store:
        Ingest(store, folder).drain()
        found = sorted(int(each.removeprefix("call_")) for each in ids(store))
        assert found[:promised] == list(range(promised))
        assert found == list(range(len(found)))
        assert [spend.num_calls for spend in store.calls.spend("2025-11")] == [len(found)]
    assert segments.in_folder(folder) == []


def test_noon_is_what_these_tests_take_it_for() -> None:
    assert time.gmtime(NOON)[:4] == (2025, 11, 21, 12)
