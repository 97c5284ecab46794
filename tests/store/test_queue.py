"""An item is held by one process at a time, done once, and free again when its holder is gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from twin.store import owners, queue
from twin.store.database import Store
from twin.store.owners import described, is_gone, this_process

if TYPE_CHECKING:
    from conftest import Place

ELSEWHERE = "otherhost:0123456789ab:7:1234"
"""A process of another machine."""
Q, ONE, TWO, THREE = (f"{ELSEWHERE}/{name}" for name in ("q", "one", "two", "three"))


@pytest.fixture
def killed() -> str:
    """The name of a process of this machine that is gone."""
    program = "from twin.store.owners import this_process; print(this_process())"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def live() -> Iterator[str]:
    """The name of another process of this machine, which lives."""
    with subprocess.Popen(["sleep", "100"]) as process:
        host, counted_by, _, _ = this_process().rsplit(":", 3)
        yield f"{host}:{counted_by}:{process.pid}:{owners._began(process.pid)}"
        process.kill()


def taken(store: Store, name: str, owner: str = ELSEWHERE) -> str | None:
    leased = store.queue.take(name, owner)
    return leased and leased.key


def test_items_come_in_their_order_each_to_one_holder(store: Store) -> None:
    told = {"commit": "ä\ud800", "number": 1}
    assert store.queue.put(Q, [("b", told), ("a", 1)]) == 2
    first = store.queue.take(Q, ELSEWHERE)
    assert first is not None
    assert (first.key, first.told, first.num_tries, first.reason) == ("b", told, 1, "")
    assert (taken(store, Q), taken(store, Q)) == ("a", None)
    assert store.queue.num_left(Q) == 2
    store.queue.finish("b")
    store.queue.finish("a")
    assert store.queue.num_left(Q) == 0


def test_two_queues_with_the_same_item_share_it(store: Store) -> None:
    store.queue.put(ONE, [("a", 1), ("b", 1)])
    store.queue.put(TWO, [("b", 1), ("c", 1)])
    assert taken(store, TWO) == "b"
    assert (taken(store, ONE), taken(store, ONE)) == ("a", None)
    store.queue.finish("b")
    assert (store.queue.num_left(ONE), store.queue.num_left(TWO)) == (1, 1)
    assert taken(store, TWO) == "c"


def test_many_more_items_than_are_written_at_once_keep_their_order(store: Store) -> None:
    keys = [f"{n * 7919 % 1201:04}" for n in range(1201)]
    assert store.queue.put(Q, ((key, 1) for key in keys)) == 1201
    assert [taken(store, Q) for _ in range(3)] == keys[:3]
    assert store.queue.num_left(Q) == 1201


def test_what_a_killed_process_held_is_free_at_once(store: Store, killed: str, live: str) -> None:
    store.queue.put(Q, [("a", 1), ("b", 1)])
    assert (taken(store, Q, killed), taken(store, Q, live)) == ("a", "b")
    assert store.queue.free_lost(Q) == 1
    again = store.queue.take(Q, live)
    assert again is not None
    assert (again.key, again.num_tries) == ("a", 2)
    assert again.reason == f"its worker, {described(killed)}, was killed"
    assert store.queue.free_lost(Q) == 0


def test_who_is_out_of_sight_keeps_an_item_as_long_as_the_lease_is_renewed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.queue.put(Q, [("a", 1)])
    assert taken(store, Q) == "a"
    assert store.queue.free_lost(Q) == 0
    monkeypatch.setattr(queue, "LEASE_S", -1.0)  # the next renewal is over at once
    store.queue.renew(ELSEWHERE)
    assert store.queue.free_lost(Q) == 1
    again = store.queue.take(Q, ELSEWHERE)
    assert again is not None
    assert again.reason == "its worker, process 7 on otherhost, was not heard of again"


def test_who_can_be_seen_keeps_an_item_whatever_the_clock_says(
    store: Store, live: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.queue.put(Q, [("a", 1)])
    monkeypatch.setattr(queue, "LEASE_S", -1e6)
    assert taken(store, Q, live) == "a"
    assert store.queue.free_lost(Q) == 0


def test_closing_a_queue_pardons_what_its_workers_held_and_leaves_the_other_alone(
    store: Store,
) -> None:
    store.queue.put(ONE, [("a", 1), ("b", 1)])
    store.queue.put(TWO, [("b", 1), ("c", 1)])
    assert (taken(store, ONE), taken(store, TWO)) == ("a", "b")
    store.queue.close(ONE)
    assert store.queue.num_left(ONE) == 0
    assert store.queue.num_left(TWO) == 2
    store.queue.put(THREE, [("a", 1), ("b", 1)])
    first = store.queue.take(THREE, ELSEWHERE)
    assert first is not None
    assert (first.key, first.num_tries) == ("a", 1)
    assert taken(store, THREE) is None  # still held for the second


def test_what_was_tried_stays_known_after_the_queue(store: Store) -> None:
    for number in (1, 2, 3):
        name = f"{this_process()}/{number}"
        store.queue.put(name, [("a", 1)])
        leased = store.queue.take(name, ELSEWHERE)
        assert leased is not None
        assert leased.num_tries == number
        store.queue.give_back("a", ELSEWHERE, "OSError: no")
        store.queue.give_back("a", ELSEWHERE, "a lease that is over cannot be ended again")
        store.queue.close(name)


def test_the_queues_of_killed_campaigns_are_forgotten(store: Store, killed: str) -> None:
    store.queue.put(f"{killed}/1", [("a", 1)])
    store.queue.put(f"{ELSEWHERE}/1", [("a", 1)])
    store.queue.put(Q, [("b", 1)])
    assert [store.queue.num_left(f"{name}/1") for name in (killed, ELSEWHERE)] == [0, 1]


def test_an_item_that_is_done_while_another_asks_for_it_is_not_waited_for(store: Store) -> None:
    store.queue.put(ONE, [("a", 1)])
    store.queue.put(TWO, [("a", 1)])
    store.queue.finish("a")
    assert store.queue.num_left(TWO) == 0
    assert taken(store, TWO) is None


TAKES = """
import json
from twin.store.owners import this_process
(queue,), owner, found = arguments, this_process(), []
while (leased := store.queue.take(queue, owner)) is not None or store.queue.num_left(queue):
    if leased is not None:
        found.append(leased.key)
        store.queue.renew(owner)
        store.queue.finish(leased.key)
print(json.dumps(found))
"""


@pytest.mark.slow
def test_processes_that_take_at_once_never_take_the_same(place: Place) -> None:
    with place.open() as store:
        keys = [f"{n:03}" for n in range(150)]
        store.queue.put(Q, ((key, 1) for key in keys))
        processes = [place.start(TAKES, Q) for _ in range(3)]
        found = [json.loads(process.communicate()[0]) for process in processes]
        assert sorted(key for one in found for key in one) == keys


def test_a_process_is_known_by_more_than_its_number(killed: str) -> None:
    own = this_process()
    assert is_gone(own) is False
    assert is_gone(killed) is True
    assert is_gone(ELSEWHERE) is None
    host, counted_by, pid, _ = own.rsplit(":", 3)
    assert is_gone(f"{host}:{counted_by}:{pid}:1") is True  # the number was given out again
    with subprocess.Popen(["sleep", "100"]) as process:
        other = f"{host}:{counted_by}:{process.pid}:{owners._began(process.pid)}"
        assert is_gone(other) is False
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # its number is still taken
        assert is_gone(other) is True
