"""Where a request goes: an http or https address, taken apart once, when the backend is made.

Owns what may stand in such an address. Opens no connection.
"""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

_TARGET = re.compile(r"/[!-~]*")
_HOST = re.compile(r"[A-Za-z0-9._:%-]+")
PORTS = {"http": 80, "https": 443}

Origin = tuple[str, str, int]
"""Scheme, host and port: what connections are shared by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Url:
    """An absolute http or https address without a user, a password or a fragment."""

    origin: Origin
    host: bytes
    """The `Host` header: with brackets around IPv6, and the port where it is not the usual one."""
    target: bytes
    """Path and query, as they stand in the request line."""

    @classmethod
    def parse(cls, text: str) -> "Url":
        """Raises ValueError with a sentence. The message repeats no user or password."""
        try:
            parts = urlsplit(text)
            port = parts.port
            host = parts.hostname or ""
            host = host if host.isascii() else host.encode("idna").decode("ascii")
        except ValueError as error:
            raise ValueError(f"this is no URL: {error}") from error
        if text != text.strip() or any(ord(char) <= 32 or ord(char) == 127 for char in text):
            # urlsplit drops line breaks silently, which would hide an attempt to inject headers.
            raise ValueError("a URL holds no blanks and no control characters")
        if parts.scheme not in PORTS:
            raise ValueError("the URL must begin with http:// or https://")
        if parts.username is not None or parts.password is not None:
            raise ValueError("a URL must not hold a user or password; use `accounts` for secrets")
        if not _HOST.fullmatch(host):
            raise ValueError("the URL names no host")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if parts.fragment or not _TARGET.fullmatch(target):
            raise ValueError("the URL's path holds characters that must be percent-encoded")
        number = PORTS[parts.scheme] if port is None else port
        shown = f"[{host}]" if ":" in host else host
        if number != PORTS[parts.scheme]:
            shown = f"{shown}:{number}"
        return cls(
            origin=(parts.scheme, host, number),
            host=shown.encode("ascii"),
            target=target.encode("ascii"),
        )

    @property
    def place(self) -> str:
        """Host and port, as errors name it."""
        return f"{self.origin[1]}:{self.origin[2]}"
