"""What generators read of a commit's text, before anything is run."""

import ast

import pytest

from twin.coding.changed import Sides
from twin.observe.generators.characterization import changed_pure
from twin.observe.generators.examples import blocks_of
from twin.observe.generators.guards import weak_operands, with_only
from twin.observe.generators.inputs import arguments_for, literals_at_calls
from twin.observe.generators.model import MAX_ANSWER, block_of
from twin.observe.proposals import module_name
from twin.records import FileChange


def function(source: str) -> ast.FunctionDef:
    (found,) = ast.parse(source).body
    assert isinstance(found, ast.FunctionDef)
    return found


def test_examples_of_a_text_are_told_apart_by_what_stands_between_them() -> None:
    text = "Begin:\n\n>>> a = 1\n>>> a\n1\n\nThen::\n\n    >>> if a:\n    ...     a + 1\n    2\n\n"
    first, second = blocks_of(text, "calc")
    assert (first.stage, first.text) == ("", ">>> a = 1\n>>> a\n1\n")
    assert (second.stage, second.text) == (first.text, ">>> if a:\n...     a + 1\n2\n")
    assert list(blocks_of(">>>bad\n  >>> x\n y", "")) == []
    assert list(blocks_of("nothing", "")) == []


def test_arguments_follow_annotations_defaults_and_calls_and_are_always_the_same() -> None:
    node = function("def f(a: 'list[int]', b: str | None, c=True, d=1, *, e=2): ...")
    found = arguments_for(node, {3: ["77"]})
    assert len(found) > 50
    assert found == arguments_for(node, {3: ["77"]})
    for a, b, c, d in (tuple(map(ast.literal_eval, texts)) for texts in found):
        assert isinstance(a, list)
        assert all(isinstance(one, int) for one in a)
        assert b is None or isinstance(b, str)
        assert isinstance(c, bool)
        assert isinstance(d, int)
    assert any(texts[3] == "77" for texts in found)


@pytest.mark.parametrize(
    "annotation",
    ["'('", "''", "x.y[z]", "Literal[f()]", "list[list[list[int]]]", "dict", "tuple[int, ...]",
     "Optional[Union[int, 'Foo']]", "__import__('os').system('x')", "1 + 1", "set[list[int]]",
     "Union", "Optional", "dict[list[int], int]", "Literal[...]", "tuple[()]"],
)  # fmt: skip
def test_a_strange_annotation_never_runs_and_never_fails(annotation: str) -> None:
    assert arguments_for(function(f"def f(a: {annotation}): ..."), {})


def test_functions_that_cannot_be_called_by_position_have_no_arguments() -> None:
    assert arguments_for(function("def f(*, a): ..."), {}) == []
    assert arguments_for(function("def f(): ..."), {}) == [()]


def test_literals_are_found_where_tests_call() -> None:
    module = ast.parse("f(1, x, 'a')\nm.f([2], y(3))\ng(4)\n")
    assert literals_at_calls("f", [module]) == {0: ["1", "[2]"], 2: ["'a'"]}


def test_changed_are_the_functions_whose_callees_changed_too() -> None:
    before = b"def a(x): return x\ndef b(x): return a(x)\ndef c(x): return x\n"
    after = before.replace(b"return x\ndef b", b"return x + 1\ndef b") + b"def new(x): return x\n"
    change = FileChange(path="a.py", status="M")
    found = changed_pure(Sides(change=change, before=before, after=after))
    assert [node.name for node in found] == ["a", "b"]
    for odd in (None, b"def (", b"\xff"):
        assert changed_pure(Sides(change=change, before=odd, after=after)) == []


WEAK = """\
class TestA:
    def test_a(self):
        got = f()
        assert got == 1
        assert got.x[0] in h(got, other.y)
        assert [a for a in got] and 1; x = 1
    @mark
    def test_b(self):
        assert g
"""


def test_weak_assertions_are_looked_at_without_calling_anything() -> None:
    pins = weak_operands(WEAK, {"TestA.test_a"})
    assert [(pin.line, pin.text) for pin in pins] == [(5, "got.x[0]"), (5, "got"), (5, "other.y")]


def test_other_tests_are_left_out() -> None:
    kept = with_only(WEAK, {"TestA.test_b"})
    assert "test_a" not in kept
    assert "@mark\n    def test_b" in kept
    ast.parse(with_only(WEAK, set()))


@pytest.mark.parametrize(
    "answer",
    ["", "I cannot.", "```python\nprint(1)\n```", "```python\ndef test_a(:\n```",
     "def test_a(): pass\n" + "#" * MAX_ANSWER, "\0def test_a(): pass", "```\n" * 20_000],
)  # fmt: skip
def test_an_answer_without_a_test_is_no_proposal(answer: str) -> None:
    assert block_of(answer) == ""


def test_the_last_block_of_an_answer_counts() -> None:
    test = "def test_a():\n    assert 1\n"
    assert block_of(f"First\n```py\nx\n```\nthen\n```python\n{test}```\nDone.") == test
    assert block_of(test) == test


def test_a_module_is_named_from_where_it_is_imported() -> None:
    assert module_name("src/a/b.py", ("src",)) == "a.b"
    assert module_name("src/a/__init__.py", ("src",)) == "a"
    assert module_name("a.py", (".",)) == "a"
    assert module_name("docs/a-b.py", (".",)) is None
    assert module_name("tools/a.py", ("src",)) is None
