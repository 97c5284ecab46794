"""How much at once and how often: token buckets, circuit breakers, and the queue at the door.

All of it is arithmetic on a monotonic clock in the event loop's thread: a step of the wall clock
changes nothing, and there is nothing to lock.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable

from twin.config import ServeConfig
from twin.serve.refusal import Refusal

Clock = Callable[[], float]


class TokenBucket:
    """So much a minute, and no more than that at once."""

    __slots__ = ("_at", "_clock", "_level", "capacity", "per_s")

    def __init__(self, per_minute: float, clock: Clock = time.monotonic) -> None:
        self.capacity = float(per_minute)
        self.per_s = per_minute / 60.0
        self._clock = clock
        self._level = self.capacity
        self._at = clock()

    def wait_s(self, amount: float = 1.0) -> float:
        """Seconds until `amount` can be taken; 0 now. What is larger than the bucket is let in
        once the bucket is full, and paid for afterwards."""
        self._refill()
        lacking = min(amount, self.capacity) - self._level
        return 0.0 if lacking <= 0 else lacking / self.per_s

    def take(self, amount: float = 1.0) -> None:
        """Takes it, also below zero: what an answer really cost is known only after it."""
        self._refill()
        self._level = min(self.capacity, self._level - amount)

    def _refill(self) -> None:
        now = self._clock()
        if now > self._at:
            self._level = min(self.capacity, self._level + (now - self._at) * self.per_s)
        self._at = now


class Breaker:
    """Stops asking a server that keeps failing, then lets one call try whether it is back.

    Opens after `threshold` failures in a row; stays open for `rest_s`, twice as long after each
    failed trial up to `max_rest_s`.
    """

    __slots__ = ("_clock", "_failures", "_max_rest_s", "_open_until", "_rest_s", "_trial",
                 "_until_rest_s", "threshold")  # fmt: skip

    def __init__(
        self,
        threshold: int = 5,
        rest_s: float = 2.0,
        max_rest_s: float = 60.0,
        clock: Clock = time.monotonic,
    ) -> None:
        self.threshold = threshold
        self._rest_s = self._until_rest_s = rest_s
        self._max_rest_s = max_rest_s
        self._clock = clock
        self._failures = 0
        self._open_until = 0.0
        self._trial = False

    @property
    def state(self) -> str:
        """`closed`, `open`, or `half-open` while a trial may go or is under way."""
        if self._failures < self.threshold:
            return "closed"
        return "open" if self._clock() < self._open_until else "half-open"

    def wait_s(self) -> float:
        """0 where a call may go; it must then `begin`. Else the seconds until the next trial."""
        if self._failures < self.threshold:
            return 0.0
        left = self._open_until - self._clock()
        if left > 0:
            return left
        return 1.0 if self._trial else 0.0

    def begin(self) -> bool:
        """A call goes out. True where it is the one trial; whoever began it says how it ended."""
        if self._failures < self.threshold:
            return False
        self._trial = True
        return True

    def succeeded(self) -> None:
        self._failures = 0
        self._trial = False
        self._until_rest_s = self._rest_s

    def failed(self, is_trial: bool = False) -> None:
        """Calls that went out before the breaker opened and fail after it change nothing: twenty
        that fail together are one trouble, not twenty."""
        if is_trial:
            self._trial = False
            self._open()
        elif self._failures < self.threshold:
            self._failures += 1
            if self._failures == self.threshold:
                self._open()

    def abandoned(self, is_trial: bool = False) -> None:
        """The call was given up for a reason that says nothing of the server."""
        if is_trial:
            self._trial = False

    def _open(self) -> None:
        self._open_until = self._clock() + self._until_rest_s
        self._until_rest_s = min(2 * self._until_rest_s, self._max_rest_s)


class Admission:
    """Lets so many calls in at once, keeps a bounded queue in order, refuses the rest with 503."""

    def __init__(self, config: ServeConfig) -> None:
        self.adopt(config)
        self.num_active = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def adopt(self, config: ServeConfig) -> None:
        """Other limits, from the next call on."""
        self.max_concurrency = config.max_concurrency
        self.max_queue = config.max_queue
        self.wait_s = config.queue_s

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def try_enter(self) -> bool:
        """The usual way in, which awaits nothing; False means `enter` has to be awaited."""
        if self.num_active >= self.max_concurrency or self._waiting:
            return False
        self.num_active += 1
        return True

    async def enter(self) -> None:
        """Waits for a place. Raises Refusal where the queue is full or the wait is too long."""
        if len(self._waiting) >= self.max_queue:
            raise self._full("the queue is full")
        loop = asyncio.get_running_loop()
        place: asyncio.Future[None] = loop.create_future()
        self._waiting.append(place)
        # Not `asyncio.wait_for`: until Python 3.12 it can swallow a cancellation.
        timer = loop.call_later(self.wait_s, _expire, place)
        try:
            await place
        except TimeoutError:
            self._forget(place)
            raise self._full(f"no place came free in {self.wait_s:g} s") from None
        except asyncio.CancelledError:
            if place.cancelled() or place.exception() is not None:
                self._forget(place)
            else:  # it was given the place in the same moment
                self.leave()
            raise
        finally:
            timer.cancel()

    def leave(self) -> None:
        """Gives the place back, to the first in the queue if there is one."""
        while self._waiting and self.num_active <= self.max_concurrency:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self.num_active -= 1

    def _forget(self, place: asyncio.Future[None]) -> None:
        with contextlib.suppress(ValueError):  # `leave` may have passed over it already
            self._waiting.remove(place)

    def _full(self, why: str) -> Refusal:
        return Refusal(
            503,
            "overloaded",
            f"{self.num_active} calls are under way and {why}. Try again later, or raise "
            "`serve.max_concurrency` and `serve.max_queue`.",
            retry_after_s=1.0,
        )


def _expire(place: asyncio.Future[None]) -> None:
    if not place.done():
        place.set_exception(TimeoutError())
