"""Examples in docstrings and documents that a commit wrote or changed, as pytest tests.

An example says what the author promises, so it is the next best to a test by hand. Those before it
in the same text set its stage: they run, and nothing is asked of them. Reads the `>>>` form alone.
"""

import ast
import doctest
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from twin.coding.changed import Sides
from twin.coding.paths import role_of
from twin.observe.proposals import Case, Means, Proposal
from twin.observe.syntax import parsed

MAX_TESTS: Final = 50
MAX_BYTES: Final = 1_000_000
HEAD: Final = '''"""Examples from docstrings and documents."""

import doctest
import importlib


def check(module, stage, example):
    names = dict(vars(importlib.import_module(module))) if module else {"__name__": "__main__"}
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL
    parser = doctest.DocTestParser()
    runner = doctest.DocTestRunner(verbose=False, optionflags=options)
    test = parser.get_doctest(stage, names, "stage", None, 0)
    runner.run(test, out=lambda text: None, clear_globs=False)
    strict = doctest.DebugRunner(verbose=False, optionflags=options)
    try:
        strict.run(parser.get_doctest(example, test.globs, "example", None, 0), clear_globs=False)
    except doctest.UnexpectedException as error:
        raise error.exc_info[1]
    except doctest.DocTestFailure as error:
        assert error.got == error.example.want
        raise
'''


@dataclass(frozen=True, slots=True)
class Example:
    """A run of `>>>` lines without a break, with what comes before it in its text."""

    module: str
    stage: str
    text: str


class Examples:
    """Proposes the changed examples of a commit."""

    def __init__(self, means: Means) -> None:
        pass

    def propose(self, case: Case) -> Iterator[Proposal]:
        found: list[Example] = []
        for side in case.files:
            old = {e.text for e in examples_of(side, case, after=False)}
            found += (e for e in examples_of(side, case, after=True) if e.text not in old)
        if found:
            tests = [
                f"def test_example_{number}():\n"
                f"    check({example.module!r}, {example.stage!r}, {example.text!r})\n"
                for number, example in enumerate(found[:MAX_TESTS])
            ]
            yield Proposal(
                path=case.place("examples"),
                content="\n\n".join([HEAD, *tests]),
                generator="examples",
            )


def examples_of(side: Sides, case: Case, *, after: bool) -> Iterator[Example]:
    """Every example of one side of a changed file."""
    data = side.after if after else side.before
    if data is None or len(data) > MAX_BYTES:
        return
    text = data.decode("utf-8", "replace")
    path = side.change.path
    if path.endswith(".py"):
        for docstring in _docstrings(text):
            yield from blocks_of(docstring, case.module(path) or "")
    elif role_of(path) == "doc":
        yield from blocks_of(text, "")


def _docstrings(text: str) -> Iterator[str]:
    module = parsed(text)
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(module) if module else ():
        if isinstance(node, kinds) and (found := ast.get_docstring(node)):
            yield found


def blocks_of(text: str, module: str) -> Iterator[Example]:
    """The examples of one text, each with those before it."""
    try:
        pieces: Sequence[str | doctest.Example] = doctest.DocTestParser().parse(text)
    except ValueError:
        return  # its indentation does not fit together
    stage = ""
    block = ""
    for piece in [*pieces, "."]:
        if isinstance(piece, doctest.Example):
            block += _written(piece)
        elif piece.strip() and block:
            yield Example(module, stage, block)
            stage, block = stage + block, ""


def _written(example: doctest.Example) -> str:
    first, *rest = example.source.rstrip("\n").split("\n")
    want = [line or "<BLANKLINE>" for line in example.want.split("\n")[:-1]]
    return "\n".join([f">>> {first}", *(f"... {line}" for line in rest), *want]) + "\n"
