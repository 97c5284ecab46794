"""Promotes tests that pass on both sides: the same tests, held to more.

Two ways. *Warnings as errors*: a test that passes on both sides, but warns before the commit only.
*Pinned values*: what a weak assertion (`in`, `is not None`, `!=`, bare truth) looks at is recorded
on the commit's side and asserted to be equal. Only tests that guard, or that run changed lines.
More cannot be had from a guard: where neither the warnings nor the values differ, the commit
changed nothing that its tests look at.
"""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from twin.coding.testing.calls import is_sound
from twin.coding.testing.results import TestRun
from twin.observe.coverage import reaching
from twin.observe.proposals import Case, Means, Proposal
from twin.observe.syntax import parsed

MAX_PINS: Final = 150
"""Of one file; a test passes on no more properties than these."""
STRICT: Final = """

import pytest as _twin_pytest

_twin_own = globals().get("pytestmark", [])
pytestmark = [
    *(_twin_own if isinstance(_twin_own, list) else [_twin_own]),
    _twin_pytest.mark.filterwarnings("error"),
]
"""
RECORDING: Final = """

import pytest as _twin_pytest

_twin_values = {}


def _twin_seen(key, get):
    try:
        text = repr(get())
    except Exception:
        text = ""
    _twin_values.setdefault(key, set()).add(text)


@_twin_pytest.fixture(autouse=True)
def _twin_recording(record_property):
    _twin_values.clear()
    yield
    for key, texts in _twin_values.items():
        record_property(key, texts.pop() if len(texts) == 1 else "")
"""


@dataclass(frozen=True, slots=True)
class Pin:
    """An expression in a weak assertion, to be looked at after line `line`."""

    line: int
    indent: str
    text: str

    @property
    def key(self) -> str:
        return f"twin:{self.line}:{self.text}"


class Guards:
    """Proposes stricter copies of the test files that were run."""

    def __init__(self, means: Means) -> None:
        pass

    def propose(self, case: Case) -> Iterator[Proposal]:
        guards = {*case.natural.tests("guard")}
        passing = guards | {*case.natural.tests("pass_to_pass")}
        changed = {
            test
            for path, lines in case.coverage.covered.items()
            for test in reaching(path, lines, case.run)
        }
        if not case.coverage.num_changed:
            changed = passing  # it only removes: nobody can tell who ran what is gone
        for path, text in case.tests.items():
            wanted = {
                test for test in passing if _of(test, path) and (test in guards or test in changed)
            }
            # A test that tells the sides apart as it is must not seem to do so by being stricter.
            names = {_dotted(test) for test in wanted}
            names -= {_dotted(t) for t in case.natural.classes if t not in passing and _of(t, path)}
            if names and parsed(text) is not None:
                kept = with_only(text, names)
                yield _copy(path, "warnings", kept + STRICT)
                yield from _pinned(path, kept, names, case)


def with_only(text: str, wanted: set[str]) -> str:
    """A test file without its other tests (`Class.test`)."""
    module = parsed(text)
    lines = text.splitlines(keepends=True)
    for name, node in _functions(module, "") if module else ():
        if name.rpartition(".")[2].startswith("test") and name not in wanted:
            first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            indent = lines[first - 1][: node.col_offset]
            lines[first - 1] = f"{indent}pass\n"
            for line in range(first, node.end_lineno or node.lineno):
                lines[line] = ""
    return "".join(lines)


def _of(test: str, path: str) -> bool:
    return test.startswith(f"{path}::")


def _pinned(path: str, text: str, wanted: set[str], case: Case) -> Iterator[Proposal]:
    pins = weak_operands(text, wanted)
    if not pins:
        return
    copy = _copy(path, "values", with_pins(text, {pin: _seen(pin) for pin in pins}) + RECORDING)
    values = _values(case.probe.tests(copy.path, copy.content))
    known = {pin: f"assert {pin.text} == {values[pin.key]}" for pin in pins if values.get(pin.key)}
    if known:
        yield _copy(path, "values", with_pins(text, known))


def weak_operands(text: str, wanted: set[str]) -> list[Pin]:
    """What the weak assertions of some tests (`Class.test`) look at, without calling anything."""
    module = parsed(text)
    lines = text.splitlines(keepends=True)
    pins: dict[Pin, None] = {}
    for name, function in _functions(module, "") if module else ():
        if name not in wanted:
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Assert) and _is_weak(node.test) and _is_alone(node, lines):
                end = node.end_lineno or node.lineno
                indent = lines[node.lineno - 1][: node.col_offset]
                pins |= {Pin(end, indent, operand): None for operand in _operands(node.test)}
    return list(pins)[:MAX_PINS]


def with_pins(text: str, statements: Mapping[Pin, str]) -> str:
    """The text with a statement after the assertion of each pin."""
    lines = text.splitlines(keepends=True)
    for pin, statement in statements.items():
        if not lines[pin.line - 1].endswith("\n"):
            lines[pin.line - 1] += "\n"
        lines[pin.line - 1] += f"{pin.indent}{statement}\n"
    return "".join(lines)


def _seen(pin: Pin) -> str:
    return f"_twin_seen({pin.key!r}, lambda: {pin.text})"


def _values(run: TestRun) -> dict[str, str]:
    """What was seen, where it is a literal and the same in every test."""
    found: dict[str, set[str]] = {}
    for result in run.results.values():
        for key, text in result.properties:
            found.setdefault(key, set()).add(text)
    return {
        key: text
        for key, texts in found.items()
        if len(texts) == 1 and (text := next(iter(texts))) and is_sound("gives", text)
    }


def _copy(path: str, kind: str, content: str) -> Proposal:
    place = PurePosixPath(path)
    return Proposal(
        path=str(place.with_name(f"test_twin_{kind}_{place.stem}.py")),
        content=content,
        generator="guards",
    )


def _dotted(test: str) -> str:
    """`tests/a.py::A::t[1]` is `A.t`."""
    return re.sub(r"\[.*", "", test, flags=re.DOTALL).partition("::")[2].replace("::", ".")


Function = ast.FunctionDef | ast.AsyncFunctionDef


def _functions(node: ast.AST, above: str) -> Iterator[tuple[str, Function]]:
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, Function):
            yield above + inner.name, inner
        elif isinstance(inner, ast.ClassDef):
            yield from _functions(inner, f"{above}{inner.name}.")


def _is_weak(test: ast.expr) -> bool:
    strict = (ast.Eq, ast.Is)
    return not (isinstance(test, ast.Compare) and all(isinstance(op, strict) for op in test.ops))


def _is_alone(node: ast.Assert, lines: Sequence[str]) -> bool:
    """Whether its lines hold nothing else, and count columns as we do."""
    first, last = lines[node.lineno - 1], lines[(node.end_lineno or node.lineno) - 1]
    rest = last[node.end_col_offset :].strip()
    return first.isascii() and last.isascii() and not first[: node.col_offset].strip() and (
        not rest or rest.startswith("#")
    )  # fmt: skip


def _operands(node: ast.expr) -> Iterator[str]:
    """The largest expressions in it that only look."""
    if _only_looks(node):
        yield ast.unparse(node)
        return
    scopes = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.NamedExpr)
    for inner in ast.iter_child_nodes(node):
        is_function = isinstance(node, ast.Call) and inner is node.func
        if isinstance(inner, ast.expr) and not isinstance(inner, scopes) and not is_function:
            yield from _operands(inner)


def _only_looks(node: ast.expr) -> bool:
    if isinstance(node, ast.Subscript):
        return isinstance(node.slice, ast.Constant) and _only_looks(node.value)
    if isinstance(node, ast.Attribute):
        return _only_looks(node.value)
    return isinstance(node, ast.Name)
