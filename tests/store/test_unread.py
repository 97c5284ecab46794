"""What a month has cost is known before the journal is moved into the store."""

import os
from pathlib import Path

import pytest
from tests.store.recorded import NOON, attempt, call, encode, everything, feedback

from twin.records import Call
from twin.store import unread
from twin.store.database import Store
from twin.store.ingest import Ingest, alone
from twin.store.journal import Journal
from twin.store.unread import spend_of

MONTH = "2025-11"


def append(folder: Path, *entries: object) -> None:
    journal = Journal(folder, segment_bytes=200_000)
    journal.append([encode(entry) for entry in entries])
    journal.close()


def total(store: Store, folder: Path) -> float:
    return sum(each.cost_usd for each in spend_of(store, folder, MONTH, wait_s=0.1))


def costly(number: int, **values: object) -> Call:
    return call(f"call_{number}", **values)


def test_calls_in_the_journal_count_once_before_and_after_they_are_moved(
    store: Store, tmp_path: Path
) -> None:
    folder = tmp_path / "journal"
    assert total(store, folder) == 0
    store.calls.add([costly(1)])
    append(folder, costly(1), costly(2), feedback("call_2"), costly(3), costly(3))
    assert total(store, folder) == pytest.approx(0.75)
    Ingest(store, folder).drain()
    assert total(store, folder) == pytest.approx(0.75)


def test_each_attempt_is_counted_to_its_model_and_key(store: Store, tmp_path: Path) -> None:
    attempts = (attempt("small", cost_usd=0.1), attempt("big", cost_usd=2.0))
    append(tmp_path, costly(1, key_id="key_1", attempts=attempts), everything("call_2"))
    found = {(s.key_id, s.model): s.cost_usd for s in spend_of(store, tmp_path, MONTH)}
    Ingest(store, tmp_path).drain()
    assert found == {(s.key_id, s.model): s.cost_usd for s in store.calls.spend(MONTH)}


def test_calls_of_another_month_do_not_count(store: Store, tmp_path: Path) -> None:
    append(tmp_path, costly(1), costly(2, at=NOON - 40 * 86_400))
    assert total(store, tmp_path) == pytest.approx(0.25)


def test_a_long_backlog_is_read_in_parts(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unread, "CHUNK", 7)
    append(tmp_path, *(costly(number) for number in range(100)))
    assert total(store, tmp_path) == pytest.approx(25)


def test_damage_in_the_middle_hides_nothing_behind_it(store: Store, tmp_path: Path) -> None:
    append(tmp_path, costly(1), costly(2), costly(3))
    (path,) = tmp_path.glob("*.journal")
    data = path.read_bytes()
    at = data.index(b"question of call_2")
    path.write_bytes(data[:at] + b"#" + data[at + 1 :])
    assert total(store, tmp_path) == pytest.approx(0.5)


def test_nothing_is_moved_meanwhile_and_somebody_at_it_hinders_nobody_for_long(
    store: Store, tmp_path: Path
) -> None:
    append(tmp_path, costly(1))
    with alone(tmp_path) as is_alone:
        assert is_alone
        assert Ingest(store, tmp_path).step().is_elsewhere
        assert total(store, tmp_path) == pytest.approx(0.25)
    before = os.listdir(tmp_path)
    assert total(store, tmp_path) == pytest.approx(0.25)
    assert os.listdir(tmp_path) == before
