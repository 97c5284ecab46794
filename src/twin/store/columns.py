"""Column types that carry every Python text and every JSON value through both databases unharmed.

Owns the escapes. Git's paths and messages are bytes: decoded with `surrogateescape` they hold lone
surrogates, which neither SQLite nor PostgreSQL accepts, and PostgreSQL refuses NUL as well.
"""

import json
import re
from typing import Any

from sqlalchemy import BigInteger, Dialect, Integer, Text
from sqlalchemy.types import TypeDecorator

_ESCAPE = "\x1a"  # SUBSTITUTE: in no sane path, so almost every text is stored as it is
_UNSAFE = re.compile("[\x00\x1a\ud800-\udfff]")
_ESCAPED = re.compile("\x1a([0-9a-f]{4})")

Id = BigInteger().with_variant(Integer, "sqlite")
"""A growing row number. SQLite counts up by itself only in a column called INTEGER."""


def to_stored(text: str) -> str:
    """The text with what databases refuse written as `\\x1a` and four hexadecimal digits."""
    if is_stored_as_it_is(text):
        return text
    return _UNSAFE.sub(lambda match: f"{_ESCAPE}{ord(match[0]):04x}", text)


def is_stored_as_it_is(text: str) -> bool:
    """A quick look that recognises most texts which need no escape, if not all."""
    return text.isascii() and "\x00" not in text and _ESCAPE not in text


def from_stored(stored: str) -> str:
    """The inverse of `to_stored`."""
    if _ESCAPE not in stored:
        return stored
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), stored)


class AnyText(TypeDecorator[str]):
    """Text that may hold NUL and lone surrogates. Readable in the database unless it does."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else to_stored(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else from_stored(value)


class JsonText(TypeDecorator[Any]):
    """A JSON value as pure-ASCII text.

    Not PostgreSQL's jsonb: it refuses the NUL and lone surrogates that paths and queries may hold,
    and one storage format for both databases is one less thing to go wrong. Tuples come back as
    lists, keys as text. Raises TypeError for what is not JSON.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(value, separators=(",", ":"))

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)
