"""The accounts of one model: which one is asked next, and which must rest.

Each account keeps its own rate limits and respects the provider's 429 and Retry-After. One
conversation stays on one account while it can, since providers cache prompts by account.
"""

import email.utils
import time
from collections.abc import Iterable

from twin.backends.secrets import Secret
from twin.config import ModelConfig
from twin.serve.limits import Clock, TokenBucket

REFUSED_REST_S = 60.0
"""An account whose key the provider refuses is tried again after this long: keys get mended."""
DEFAULT_REST_S = 5.0
"""Where a 429 does not say how long to wait."""


class Account:
    """One secret and what it may still be used for."""

    __slots__ = ("_clock", "_rest_until", "requests", "secret", "status", "tokens", "why")

    def __init__(self, secret: Secret | None, model: ModelConfig, clock: Clock) -> None:
        self.secret = secret
        self._clock = clock
        self._rest_until = 0.0
        self.why = "is rate-limited"
        self.status = 429
        self.requests = (
            TokenBucket(model.requests_per_minute, clock) if model.requests_per_minute else None
        )
        self.tokens = (
            TokenBucket(model.tokens_per_minute, clock) if model.tokens_per_minute else None
        )

    @property
    def label(self) -> str:
        return self.secret.label if self.secret else ""

    def wait_s(self, num_tokens: int) -> float:
        """Seconds until it can be asked; 0 now."""
        wait = self._rest_until - self._clock() if self._rest_until else 0.0
        if self.requests:
            wait = max(wait, self.requests.wait_s())
        if self.tokens:
            wait = max(wait, self.tokens.wait_s(num_tokens))
        return max(wait, 0.0)

    def begin(self, num_tokens: int) -> None:
        if self.requests:
            self.requests.take()
        if self.tokens:
            self.tokens.take(num_tokens)

    def rest(self, seconds: float, why: str = "is rate-limited", status: int = 429) -> None:
        """Is not asked for so long; `why` and `status` are what clients hear meanwhile."""
        until = self._clock() + seconds
        if until >= self._rest_until:
            self._rest_until, self.why, self.status = until, why, status


class AccountPool:
    """All accounts of one model; one without a secret where none is configured."""

    def __init__(
        self, secrets: Iterable[Secret], model: ModelConfig, clock: Clock = time.monotonic
    ) -> None:
        self.accounts = [Account(secret, model, clock) for secret in secrets]
        if not self.accounts:
            self.accounts = [Account(None, model, clock)]

    def why(self) -> tuple[str, int]:
        """Why no account can be asked, and the status that says so: of the account that can be
        asked first again."""
        first = min(self.accounts, key=lambda account: account.wait_s(0))
        return first.why, first.status

    def pick(
        self, preference: int, num_tokens: int, but_not: Account | None = None
    ) -> Account | float:
        """An account that can be asked now, or the seconds until one can.

        `preference` is any number that stays the same for a conversation.
        """
        count = len(self.accounts)
        if count == 1:
            only = self.accounts[0]
            wait = only.wait_s(num_tokens)
            return wait if wait > 0 else only
        shortest = float("inf")
        for offset in range(count):
            account = self.accounts[(preference + offset) % count]
            if account is but_not:
                continue
            wait = account.wait_s(num_tokens)
            if wait <= 0:
                return account
            shortest = min(shortest, wait)
        return shortest


def retry_after_s(headers: Iterable[tuple[bytes, bytes]]) -> float | None:
    """What the provider asks to wait: seconds or an HTTP date; None where it does not say.

    `retry-after-ms` is OpenAI's finer one. Source: RFC 9110, 10.2.3.
    """
    found: float | None = None
    for name, value in headers:
        text = value.decode("latin-1").strip()
        try:
            if name == b"retry-after-ms":
                return max(0.0, float(text) / 1000.0)
            if name == b"retry-after":
                found = _seconds(text)
        except (ValueError, TypeError, OverflowError):
            continue
    return found


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        # Against the wall clock: a date is one. Only how long we rest depends on it.
        seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    if seconds != seconds:
        raise ValueError("not a number of seconds")
    return min(max(seconds, 0.0), 86_400.0)
