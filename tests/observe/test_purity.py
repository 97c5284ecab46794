"""In doubt a function is not pure."""

import ast

import pytest

from twin.observe.purity import pure_functions
from twin.observe.syntax import parsed

HEAD = "import re, os, urllib.parse\nfrom math import sqrt\nfrom .x import helper\nCACHE = {}\n"


def is_pure(body: str, parameters: str = "a, b=1") -> bool:
    module = parsed(f"{HEAD}\ndef f({parameters}):\n    {body}\n")
    assert module is not None
    return "f" in pure_functions(module)


@pytest.mark.parametrize(
    "body",
    [
        "return a + b",
        "return sorted({x: len(y) for x, y in a.items()}, key=lambda x: x)",
        "found = []\n    for x in a: found.append(x)\n    return found",
        "found = {}\n    found[a] = re.sub('x', 'y', a)\n    return found",
        "return sqrt(f(a - 1)) if a else urllib.parse.quote(b)",
        "raise ValueError(a)",
    ],
)
def test_pure(body: str) -> None:
    assert is_pure(body)


@pytest.mark.parametrize(
    "body",
    [
        "return os.getcwd()",
        "return helper(a)",
        "return open(a).read()",
        "return list(map(open, a))",
        "a[0] = 1",
        "a.x = 1",
        "CACHE[a] = 1",
        "CACHE.update(a)",
        "global CACHE\n    CACHE = a",
        "yield a",
        "import time\n    return time.time()",
        "return __import__('os')",
        "return id(a)",
        "return hash(a)",
        "print(a)",
        "with a: pass",
        "return unknown(a)",
    ],
)
def test_not_pure(body: str) -> None:
    assert not is_pure(body)


def test_a_function_is_as_pure_as_those_that_it_calls() -> None:
    module = parsed(
        "def a(): return b()\ndef b(): return c()\ndef c(): return print()\n"
        "def d(): return e()\ndef e(): return d()\n@cache\ndef g(): return 1\n"
    )
    assert module is not None
    assert set(pure_functions(module)) == {"d", "e"}


def test_what_cannot_be_read_is_none() -> None:
    for text in ("def (", "(" * 10_000, "-" * 100_000 + "1", "\0", "x = 1\n" * 300_000):
        assert parsed(text) is None
    assert isinstance(parsed("x = 1"), ast.Module)
