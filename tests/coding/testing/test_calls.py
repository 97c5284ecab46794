"""What calls come to is told as literals, and what misbehaves has no outcome."""

from tests.coding.sandbox.conftest import archive

from twin.coding.sandbox.cell import Sandbox
from twin.coding.testing.calls import Call, Outcome, is_sound, outcomes
from twin.coding.testing.results import TestEnvironment
from twin.coding.testing.trees import Tree

MODULE = """
import os
seen = []
def twice(a): return a * 2
def fails(a): raise KeyError(a)
def thing(a): return object()
def long(a): return "x" * 10_000
def remembers(a):
    seen.append(a)
    return len(seen)
def lies(a):
    class Text(str):
        def __repr__(self): return "__import__('os').system('x')"
    return Text()
def leaves(a): os._exit(0)
"""


def test_each_call_has_its_outcome(sandbox: Sandbox, environment: TestEnvironment) -> None:
    names = ["twice", "fails", "thing", "long", "remembers", "lies", "nowhere", "twice", "leaves"]
    calls = [Call("a.b", name, ("[1, 'é']",)) for name in names]
    found = outcomes(
        sandbox, Tree(archive({"src/a/b.py": MODULE})), environment, [*calls[:-1], calls[-1]]
    )
    # The last ends the process before anything was called a second time.
    assert found == [None] * len(calls)
    found = outcomes(sandbox, Tree(archive({"src/a/b.py": MODULE})), environment, calls[:-1])
    twice, other = Outcome("gives", "[1, 'é', 1, 'é']"), Outcome("other", "")
    fails = Outcome("raises", "KeyError")
    assert found == [twice, fails, other, other, None, other, other, twice]


def test_only_short_literals_may_stand_in_a_test() -> None:
    assert is_sound("gives", "{'a': [1, (None, b'x')]}")
    for text in ("f()", "__import__('os')", "[" * 5_000, "1" * 1_000, "'\n'", "-" * 100_000 + "1"):
        assert not is_sound("gives", text)
    assert is_sound("raises", "KeyError")
    assert not is_sound("raises", "KeyError); import os")
