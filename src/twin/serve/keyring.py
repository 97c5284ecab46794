"""Who may ask: virtual keys by the digest of their secret, each with its own limits.

Holds what the store knows; `load` brings it up to date. Sees secrets only while it hashes them.
"""

import fnmatch
import hashlib
import time
from collections.abc import Callable, Iterable

from twin.records import VirtualKey
from twin.serve.limits import Clock, TokenBucket
from twin.serve.refusal import Refusal


class Holder:
    """One valid key and what it has used of its rates."""

    __slots__ = ("key", "requests", "tokens")

    def __init__(self, key: VirtualKey, clock: Clock) -> None:
        self.key = key
        self.requests = (
            TokenBucket(key.requests_per_minute, clock) if key.requests_per_minute else None
        )
        self.tokens = TokenBucket(key.tokens_per_minute, clock) if key.tokens_per_minute else None

    def begin(self, num_tokens: int) -> None:
        """Raises Refusal (429) over a rate; else counts the call."""
        for bucket, amount, what in (
            (self.requests, 1, "requests"),
            (self.tokens, num_tokens, "tokens"),
        ):
            if bucket is None:
                continue
            wait = bucket.wait_s(amount)
            if wait > 0:
                raise Refusal(
                    429,
                    "rate_limit_exceeded",
                    f"The key `{self.key.name}` may use {bucket.capacity:g} {what} a minute. Wait "
                    f"{wait:.1f} s, or raise its limit with `twin keys`.",
                    retry_after_s=wait,
                )
        if self.requests:
            self.requests.take()
        if self.tokens:
            self.tokens.take(num_tokens)

    def used(self, num_tokens: int) -> None:
        """Tokens that an answer took beyond what `begin` counted."""
        if self.tokens:
            self.tokens.take(num_tokens)

    def may_ask(self, model: str) -> bool:
        allowed = self.key.models
        return not allowed or any(fnmatch.fnmatchcase(model, pattern) for pattern in allowed)


class Keyring:
    """All keys that are valid now."""

    def __init__(self, clock: Clock = time.monotonic, now: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._now = now
        self._holders: dict[str, Holder] = {}

    def __len__(self) -> int:
        return len(self._holders)

    def load(self, keys: Iterable[VirtualKey]) -> None:
        """Takes over the keys as they are now; a key that stays keeps what it has used."""
        old = self._holders
        holders = {}
        for key in keys:
            if key.revoked_at is not None:
                continue
            holder = old.get(key.digest)
            unchanged = holder is not None and holder.key == key
            holders[key.digest] = holder if holder and unchanged else Holder(key, self._clock)
        self._holders = holders

    def find(self, headers: dict[bytes, bytes]) -> Holder:
        """The key that a request carries, as OpenAI's clients or Anthropic's send it.

        Raises Refusal (401) where there is none or it is not valid.
        """
        secret = secret_in(headers)
        if not secret:
            raise Refusal(
                401,
                "missing_api_key",
                "No key was sent. Send a key of this gateway as `Authorization: Bearer twin-...` "
                "or `x-api-key`; `twin keys create NAME` makes one.",
            )
        holder = self._holders.get(hashlib.sha256(secret).hexdigest())
        if holder is None:
            raise Refusal(
                401,
                "invalid_api_key",
                "This key is not known here, or was revoked. `twin keys list` shows the valid "
                "ones; `twin keys create NAME` makes one.",
            )
        expires = holder.key.expires_at
        if expires is not None and self._now() >= expires:
            raise Refusal(
                401,
                "invalid_api_key",
                f"The key `{holder.key.name}` has expired. `twin keys create NAME` makes a new "
                "one.",
            )
        return holder


def secret_in(headers: dict[bytes, bytes]) -> bytes:
    """`Authorization: Bearer ...` or `x-api-key`; empty where there is neither."""
    value = headers.get(b"authorization", b"")
    if value[:7].lower() == b"bearer ":
        return value[7:].strip()
    return headers.get(b"x-api-key", b"").strip()
