"""Why the gateway itself says no: a status, a code that programs test, a sentence with its cure.

Not an error of the program. `gateway` turns it into the caller's own dialect; nothing else catches
it.
"""

import math


class Refusal(Exception):
    """An answer that is an error, before any model's first byte."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        retry_after_s: float | None = None,
        allowed: str = "",
    ) -> None:
        """`allowed`: the method that is, where another was used."""
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s
        self.allowed = allowed

    def headers(self) -> list[tuple[bytes, bytes]]:
        """`Retry-After` in whole seconds, at least one, where waiting helps; `Allow` with 405."""
        if self.allowed:
            return [(b"allow", self.allowed.encode())]
        if self.retry_after_s is None:
            return []
        seconds = max(1, math.ceil(min(self.retry_after_s, 86_400.0)))
        return [(b"retry-after", str(seconds).encode())]
