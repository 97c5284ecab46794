"""Token buckets, circuit breakers and the queue at the door, on a clock that the test moves."""

import asyncio

import pytest

from twin.config import ServeConfig
from twin.serve.limits import Admission, Breaker, TokenBucket
from twin.serve.refusal import Refusal


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_gives_its_minute_at_once_and_then_at_its_pace() -> None:
    clock = Clock()
    bucket = TokenBucket(60, clock)
    for _ in range(60):
        assert bucket.wait_s() == 0
        bucket.take()
    assert bucket.wait_s() == pytest.approx(1.0)
    clock.now += 1.0
    assert bucket.wait_s() == 0
    clock.now += 3600
    bucket.take(60)
    assert bucket.wait_s() > 0, "an hour of rest does not save up more than one bucket"


def test_what_is_larger_than_the_bucket_passes_when_it_is_full_and_is_paid_for_later() -> None:
    clock = Clock()
    bucket = TokenBucket(100, clock)
    assert bucket.wait_s(1000) == 0
    bucket.take(1000)
    assert bucket.wait_s(1) == pytest.approx(901 / (100 / 60))


def test_a_clock_that_stands_still_or_steps_back_gives_nothing_away() -> None:
    clock = Clock()
    bucket = TokenBucket(1, clock)
    bucket.take()
    clock.now -= 500
    assert bucket.wait_s() > 0
    clock.now += 59
    assert bucket.wait_s() > 0


def test_a_breaker_opens_after_failures_in_a_row_and_tries_one_call_after_its_rest() -> None:
    clock = Clock()
    breaker = Breaker(threshold=3, rest_s=2.0, clock=clock)
    for _ in range(2):
        breaker.failed()
    breaker.succeeded()
    for _ in range(3):
        assert breaker.state == "closed"
        breaker.failed()
    assert breaker.state == "open"
    assert breaker.wait_s() == pytest.approx(2.0)
    clock.now += 2.0
    assert breaker.state == "half-open"
    assert breaker.wait_s() == 0
    assert breaker.begin()
    assert breaker.wait_s() > 0, "one trial at a time"
    breaker.failed(is_trial=True)
    assert breaker.wait_s() == pytest.approx(4.0), "a failed trial doubles the rest"
    clock.now += 4.0
    breaker.begin()
    breaker.succeeded()
    assert breaker.state == "closed"


def test_a_trial_that_is_given_up_lets_the_next_one_try() -> None:
    clock = Clock()
    breaker = Breaker(threshold=1, rest_s=1.0, clock=clock)
    breaker.failed()
    clock.now += 1.0
    breaker.abandoned(breaker.begin())
    assert breaker.wait_s() == 0


def test_calls_that_fail_together_are_one_trouble_and_late_ones_end_no_trial() -> None:
    clock = Clock()
    breaker = Breaker(threshold=5, rest_s=2.0, clock=clock)
    for _ in range(20):
        assert not breaker.begin()
    for _ in range(20):
        breaker.failed()
    assert breaker.wait_s() == pytest.approx(2.0)
    clock.now += 2.0
    assert breaker.begin()
    breaker.failed()
    breaker.abandoned()
    assert breaker.wait_s() > 0, "the trial is still under way"


def admission(places: int, queue: int, wait_s: float = 5.0) -> Admission:
    return Admission(ServeConfig(max_concurrency=places, max_queue=queue, queue_s=wait_s))


def test_those_who_wait_enter_in_order_and_the_rest_is_refused() -> None:
    async def story() -> list[str]:
        door = admission(1, 2)
        seen: list[str] = []

        async def call(name: str) -> None:
            if not door.try_enter():
                await door.enter()
            seen.append(name)
            await asyncio.sleep(0)
            door.leave()

        assert door.try_enter()
        tasks = [asyncio.create_task(call(name)) for name in "abc"]
        await asyncio.sleep(0)
        with pytest.raises(Refusal) as caught:
            await tasks[2]
        assert caught.value.status == 503
        assert (b"retry-after", b"1") in caught.value.headers()
        door.leave()
        await asyncio.gather(*tasks[:2])
        assert door.num_active == 0
        assert door.num_waiting == 0
        return seen

    assert asyncio.run(story()) == ["a", "b"]


def test_a_call_that_hangs_up_in_the_queue_leaves_no_place_taken() -> None:
    async def story() -> None:
        door = admission(1, 5)
        assert door.try_enter()
        waiting = asyncio.create_task(door.enter())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert door.num_waiting == 0
        # Given the place in the very moment in which it hangs up.
        waiting = asyncio.create_task(door.enter())
        await asyncio.sleep(0)
        door.leave()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert door.num_active == 0
        assert door.try_enter()

    asyncio.run(story())


def test_a_wait_that_is_too_long_is_refused() -> None:
    async def story() -> None:
        door = admission(1, 5, wait_s=0.02)
        assert door.try_enter()
        with pytest.raises(Refusal, match=r"no place came free in 0.02 s"):
            await door.enter()
        assert door.num_waiting == 0

    asyncio.run(story())


def test_a_place_is_not_lost_where_the_wait_ends_and_the_client_hangs_up_together() -> None:
    async def story() -> None:
        door = admission(1, 5, wait_s=0.01)
        assert door.try_enter()
        waiting = asyncio.create_task(door.enter())
        await asyncio.sleep(0)
        place = door._waiting[0]
        place.set_exception(TimeoutError())
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert door.num_active == 1, "the one call that is inside"
        assert door.num_waiting == 0

    asyncio.run(story())
