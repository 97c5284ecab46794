"""Old calls go whole, and what is summed up stays."""

import time

import msgspec
import pytest
from sqlalchemy import func, select
from tests.store.recorded import body, call, escalated, everything, feedback

from twin.errors import UnknownCall
from twin.store import schema
from twin.store.database import Store

DAY_S = 86_400
FOREVER = 100_000


def num_rows(store: Store) -> dict[str, int]:
    with store.engine.connect() as connection:
        return {
            table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in schema.tables_of("traffic")
        }


def left(store: Store) -> list[str]:
    return sorted(each.call_id for each in store.calls.search(limit=10_000))


def aged(record: object, days: float) -> object:
    return msgspec.structs.replace(record, at=time.time() - days * DAY_S)


def test_everything_of_a_call_goes_when_its_time_is_over_but_the_sums(store: Store) -> None:
    store.calls.add([aged(everything("old"), 31)])
    store.calls.add_feedback([aged(feedback("old", demonstration="x"), 31)])
    assert all(num_rows(store).values())
    assert store.calls.retention(max_age_days=30, max_mb=1_000) == 1
    rows = num_rows(store)
    assert rows.pop("traffic_spend") == 3
    assert not any(rows.values())
    with pytest.raises(UnknownCall):
        store.calls.get("old")


def test_younger_calls_stay_as_they_were(store: Store) -> None:
    young = aged(escalated("young"), 29)
    store.calls.add([aged(call(f"old_{n}"), 31 + n) for n in range(450)])
    store.calls.add([young])
    assert store.calls.retention(max_age_days=30, max_mb=1_000) == 450
    assert store.calls.get("young") == young
    assert len(store.calls.preferences()) == 1
    assert store.calls.retention(max_age_days=30, max_mb=1_000) == 0


def test_feedback_on_a_call_that_never_came_goes_by_its_own_age(store: Store) -> None:
    store.calls.add_feedback([aged(feedback("lost", 1), 31), aged(feedback("late", 2), 1)])
    store.calls.retention(max_age_days=30, max_mb=1_000)
    assert store.calls.feedback("lost") == []
    assert len(store.calls.feedback("late")) == 1


def test_beyond_the_size_the_oldest_go_and_those_that_teach_most_go_last(store: Store) -> None:
    big = body("x" * 100_000)
    store.calls.add([aged(escalated("escalated", request=big), 9)])
    store.calls.add([aged(call("said", request=big), 8)])
    store.calls.add([aged(call(f"call_{n}", request=big), 7 - n) for n in range(5)])
    store.calls.add_feedback([feedback("said")])
    assert store.calls.retention(max_age_days=FOREVER, max_mb=0.45) == 3
    assert left(store) == ["call_3", "call_4", "escalated", "said"]
    assert store.calls.retention(max_age_days=FOREVER, max_mb=0.15) == 3
    assert left(store) == ["said"]
    assert store.calls.retention(max_age_days=FOREVER, max_mb=0) == 1
    assert left(store) == []


def test_it_can_be_done_a_few_calls_at_a_time(store: Store) -> None:
    store.calls.add([aged(call(f"old_{n:03}"), 50 - n / 100) for n in range(450)])
    done = [store.calls.retention(max_age_days=30, max_mb=1_000, max_calls=200) for _ in range(4)]
    assert done == [200, 200, 50, 0]


def test_calls_can_be_recorded_after_all_others_have_gone(store: Store) -> None:
    store.calls.add([aged(escalated("old"), 31)])
    store.calls.retention(max_age_days=30, max_mb=1_000)
    store.calls.add([escalated("new")])
    assert [pair.call_id for pair in store.calls.preferences()] == ["new"]
