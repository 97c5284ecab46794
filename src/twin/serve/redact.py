"""Removes secrets from what is about to be recorded. Runs before anything is written.

A rule is a literal that every such secret contains and a regular expression around it: the literal
is searched at memory speed, and only where it stands the expression runs. What a model or a client
receives is never changed, only what is kept of it. Rules find secrets by their form, and those that
the configuration refers to by their value; any other password that looks like a word passes.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from itertools import accumulate

from ahocorasick_rs import BytesAhoCorasick, MatchKind

from twin.errors import ConfigError

_WORD = rb"(?<![A-Za-z0-9_])"
BUILT_IN: tuple[tuple[str, bytes, bytes], ...] = (
    # name, literal, expression. `sk-` alone covers OpenAI, Anthropic, OpenRouter, DeepSeek ...
    ("api-key", b"sk-", _WORD + rb"sk-[A-Za-z0-9_-]{16,}"),
    ("api-key", b"sk_live_", rb"sk_live_[A-Za-z0-9]{16,}"),
    ("twin-key", b"twin-", _WORD + rb"twin-[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])"),
    ("github-token", b"ghp_", rb"ghp_[A-Za-z0-9]{20,}"),
    ("github-token", b"gho_", rb"gho_[A-Za-z0-9]{20,}"),
    ("github-token", b"ghs_", rb"ghs_[A-Za-z0-9]{20,}"),
    ("github-token", b"github_pat_", rb"github_pat_[A-Za-z0-9_]{20,}"),
    ("gitlab-token", b"glpat-", rb"glpat-[A-Za-z0-9_-]{16,}"),
    ("aws-key", b"AKIA", _WORD + rb"AKIA[A-Z0-9]{16}"),
    ("aws-key", b"ASIA", _WORD + rb"ASIA[A-Z0-9]{16}"),
    ("google-key", b"AIza", _WORD + rb"AIza[A-Za-z0-9_-]{35}"),
    ("slack-token", b"xox", _WORD + rb"xox[abeoprs]-[A-Za-z0-9-]{10,}"),
    ("huggingface-token", b"hf_", _WORD + rb"hf_[A-Za-z0-9]{30,}"),
    ("npm-token", b"npm_", _WORD + rb"npm_[A-Za-z0-9]{30,}"),
    ("pypi-token", b"pypi-", _WORD + rb"pypi-[A-Za-z0-9_-]{50,}"),
    ("jwt", b"eyJ", _WORD + rb"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+"),
    (
        "private-key",
        b"-----BEGIN ",
        rb"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----"
        rb"(?:(?!-----END)[\s\S]){0,20000}(?:-----END [A-Z ]{0,40}PRIVATE KEY-----)?",
    ),
    ("url-password", b"://", rb"(?<=://)[^\s/:@\"'\\]{0,64}:[^\s/@\"'\\]{1,256}(?=@)"),
    (
        "password",
        b"assword",
        rb"(?<=assword)\\?[\"']?\s{0,4}[:=]\s{0,4}\\?[\"'][^\s\"'\\]{6,256}(?=\\?[\"'])",
    ),
    (
        "bearer-token",
        b"earer ",
        rb"(?<=earer )[A-Za-z0-9_\-.=+/]{20,}",
    ),
)

_DELTA = re.compile(
    rb'"(?:content|text|delta|arguments|partial_json|thinking|reasoning_content)"\s*:\s*'
    rb'"((?:[^"\\]|\\.)*)"'
)
"""What a stream's event adds to the answer, in any dialect."""


_ESCAPE = re.compile(rb"\\(?:u00([2-7][0-9A-Fa-f])|/)")
"""How JSON may write a visible ASCII character otherwise than as itself."""
_ESCAPES = (rb"\u00", rb":\/")
"""Where to look for such. Two literals, since with a few more the search takes twice as long."""
MAX_ESCAPES = 20_000
"""Read in one text; what follows is searched as it stands."""
MIN_SECRET = 8
"""Shorter secrets are words that stand in other texts as well."""

Found = tuple[int, int, str]


class Redactor:
    """The built-in rules, the configured ones and the configured secrets themselves."""

    def __init__(self, extra: Mapping[str, str] = {}, secrets: Iterable[str] = ()) -> None:
        """`extra`: name -> regular expression, searched over the whole text. `secrets`: values that
        are to be found wherever they stand. Raises ConfigError for an expression that does not
        compile or that matches the empty text."""
        # In front: where a rule's literal begins a secret, the secret is to be found.
        exact = sorted({form for secret in secrets for form in _forms(secret)}, key=len)[::-1]
        rules = [("secret", form, re.escape(form)) for form in exact] + list(BUILT_IN)
        self._rules: list[tuple[str, re.Pattern[bytes] | None]]
        self._rules = [(name, re.compile(expression)) for name, _, expression in rules]
        self._rules += [("", None) for _ in _ESCAPES]
        # Leftmost-first alone lets the library search with SIMD: 4 us for 50 kB, where one
        # `bytes.find` a literal takes 650.
        self._literals = BytesAhoCorasick(
            [*(literal for _, literal, _ in rules), *_ESCAPES], matchkind=MatchKind.LeftmostFirst
        )
        self._extra = [(name, _compiled(name, text)) for name, text in extra.items()]
        self.num_redacted = 0

    def clean(self, data: bytes) -> bytes:
        """The same bytes, or a copy with each secret replaced by `[redacted:NAME]`."""
        found = self._found(data)
        return self._without(data, found) if found else data

    def clean_text(self, text: str) -> str:
        return self.clean(text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")

    def is_clean(self, text: str) -> bool:
        """Whether nothing in it is a secret."""
        return not self._found(text.encode("utf-8", "surrogatepass"))

    def is_split(self, stream: bytes) -> bool:
        """Whether the pieces of a stream, put together, hold a secret that no piece holds whole. To
        be asked of the stream as it came: where the first piece alone was cleaned already, the rest
        of the secret would no longer be known for one."""
        pieces = _DELTA.findall(stream)
        found = self._found(b"".join(pieces))
        if not found:
            return False
        ends = list(accumulate(map(len, pieces)))
        return any(bisect_right(ends, start) != bisect_left(ends, end) for start, end, _ in found)

    def _found(self, data: bytes, *, is_plain: bool = False) -> list[Found]:
        """Each secret's start, end and rule. `is_plain`: nothing in it is written in escapes."""
        found: list[Found] = []
        has_escapes = False
        for rule, start, end in self._literals.find_matches_as_indexes(data):
            name, expression = self._rules[rule]
            if expression is None:
                has_escapes = True
                continue
            # A rule matches from its literal on, or right behind it where it looks back on it.
            match = expression.match(data, start) or expression.match(data, end)
            if match is not None:
                found.append((match.start(), match.end(), name))
        for name, expression in self._extra:
            found.extend((m.start(), m.end(), name) for m in expression.finditer(data))
        if has_escapes and not is_plain:
            found += self._found_in_escapes(data)
        return found

    def _found_in_escapes(self, data: bytes) -> list[Found]:
        """Secrets in what the text means, at the places where they stand in it."""
        parts: list[bytes] = []
        places: list[int] = []  # in the meaning, of each character that was written as an escape
        lost = [0]  # bytes by which the meaning is shorter, up to the first of them, the second ...
        done = 0
        for escape in _ESCAPE.finditer(data):
            start, end = escape.span()
            parts += (data[done:start], bytes.fromhex(escape[1].decode()) if escape[1] else b"/")
            places.append(start - lost[-1])
            lost.append(lost[-1] + end - start - 1)
            done = end
            if len(places) >= MAX_ESCAPES:
                break
        if not places:
            return []
        parts.append(data[done:])
        return [
            (start + lost[bisect_left(places, start)], end + lost[bisect_left(places, end)], name)
            for start, end, name in self._found(b"".join(parts), is_plain=True)
        ]

    def _without(self, data: bytes, found: list[Found]) -> bytes:
        parts: list[bytes] = []
        done = 0
        for start, end, name in sorted(found):
            if start < done:  # two rules found the same secret, or the one inside the other
                done = max(done, end)
                continue
            parts += (data[done:start], f"[redacted:{name}]".encode())
            done = end
            self.num_redacted += 1
        parts.append(data[done:])
        return b"".join(parts)


def _forms(secret: str) -> list[bytes]:
    """A secret as itself and as JSON writes it; none of one that is too short to be told."""
    if len(secret) < MIN_SECRET:
        return []
    return [secret.encode(), secret.replace("\\", r"\\").replace('"', r"\"").encode()]


def _compiled(name: str, text: str) -> re.Pattern[bytes]:
    try:
        expression = re.compile(text.encode())
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigError(
            f"`record.redact.{name}` is not a regular expression: {error}. Correct it."
        ) from error
    if expression.search(b""):
        raise ConfigError(
            f"`record.redact.{name}` matches the empty text, so it would match everywhere. Make it "
            "match at least one character."
        )
    return expression
