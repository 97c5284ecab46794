"""Realistic faults for a Python file: what a person gets wrong, one at a time.

Syntax says where a fault can be; the text is changed there and nowhere else, so the file keeps its
formatting and the fix is a small diff. Only inside functions; annotations, decorators and
docstrings are left alone. Reads syntax; runs nothing (`mutants` does).
"""

import ast
import itertools
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from twin.observe.syntax import parsed

MAX_OF_FUNCTION: Final = 3
"""Faults of one function that are tried before those of others run out."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One piece of a file, in bytes from its start, and what stands there instead."""

    operator: str
    symbol: str
    line: int
    start: int
    end: int
    new: str


Edit = tuple[int, int, str]
"""From, to, new text."""

COMPARISONS: Final = {
    ast.Lt: ("<", "boundary", "<="), ast.LtE: ("<=", "boundary", "<"),
    ast.Gt: (">", "boundary", ">="), ast.GtE: (">=", "boundary", ">"),
    ast.Eq: ("==", "comparison", "!="), ast.NotEq: ("!=", "comparison", "=="),
    ast.In: ("in", "comparison", "not in"), ast.NotIn: (r"not\s+in", "comparison", "in"),
    ast.Is: ("is", "comparison", "is not"), ast.IsNot: (r"is\s+not", "comparison", "is"),
}  # fmt: skip
ARITHMETIC: Final = {
    ast.Add: (r"\+", "-"), ast.Sub: ("-", "+"), ast.Mult: (r"\*", "//"), ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"), ast.Mod: ("%", "//"), ast.BitAnd: ("&", "|"),
    ast.BitOr: (r"\|", "&"),
}  # fmt: skip
CONFUSED: Final = {
    "min": "max", "max": "min", "any": "all", "all": "any", "startswith": "endswith",
    "endswith": "startswith", "lower": "upper", "upper": "lower", "lstrip": "rstrip",
    "rstrip": "lstrip", "append": "extend", "extend": "append", "keys": "values",
    "values": "keys", "find": "rfind", "partition": "rpartition", "rpartition": "partition",
    "rsplit": "split", "update": "setdefault",
}  # fmt: skip
"""Names that are taken for each other."""


class _Text:
    """A file as bytes, with places in it: syntax counts columns in UTF-8."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        lengths = (len(line) + 1 for line in data.split(b"\n"))
        self._starts = [0, *itertools.accumulate(lengths)]

    def start(self, node: ast.expr | ast.stmt | ast.keyword) -> int:
        return self._starts[node.lineno - 1] + node.col_offset

    def end(self, node: ast.expr | ast.stmt | ast.keyword) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._starts[node.end_lineno - 1] + node.end_col_offset

    def of(self, node: ast.expr | ast.stmt | ast.keyword) -> str:
        return self.data[self.start(node) : self.end(node)].decode("utf-8", "replace")

    def line_at(self, start: int) -> int:
        return self.data.count(b"\n", 0, start) + 1

    def token(self, pattern: str, start: int, end: int) -> tuple[int, int] | None:
        """Where an operator stands between its operands, past brackets but not past comments."""
        between = self.data[start:end].decode("latin-1")
        found = None if "#" in between else re.search(pattern, between)
        return (start + found.start(), start + found.end()) if found else None


def faults_in(data: bytes) -> list[Fault]:
    """Every fault that the file can have, in order; none for what is no Python."""
    module = parsed(data.decode("utf-8", "replace"))
    if module is None or data.startswith(b"\xef\xbb\xbf") or re.search(rb"\r(?!\n)|\f", data):
        return []  # places would not be where syntax says they are
    text = _Text(data)
    found: dict[Fault, None] = {}
    for symbol, function in _functions(module, ""):
        for node in _own_nodes(function):
            for operator, make in OPERATORS.items():
                for start, end, new in make(node, text):
                    line = text.line_at(start)
                    found[Fault(operator, symbol, line, start, end, new)] = None
    return list(found)


def with_fault(data: bytes, fault: Fault) -> bytes:
    """The file with the fault."""
    return data[: fault.start] + fault.new.encode() + data[fault.end :]


def is_different(data: bytes, fault: Fault) -> bool:
    """Whether it is still Python, and means something else."""
    before = parsed(data.decode("utf-8", "replace"))
    after = parsed(with_fault(data, fault).decode("utf-8", "replace"))
    return before is not None and after is not None and ast.dump(before) != ast.dump(after)


def in_turn(faults: Mapping[str, Sequence[Fault]], seed: int) -> Iterator[tuple[str, Fault]]:
    """All faults of some files, shuffled, the kinds in turn, few of one function before the rest.

    The same seed gives the same order, whatever else is asked.
    """
    chance = random.Random(seed)
    kinds: dict[str, list[tuple[str, Fault]]] = defaultdict(list)
    for path in sorted(faults):
        for fault in faults[path]:
            kinds[fault.operator].append((path, fault))
    for ones in (kinds[kind] for kind in sorted(kinds)):
        chance.shuffle(ones)
    taken: dict[tuple[str, str], int] = defaultdict(int)
    late: list[tuple[str, Fault]] = []
    for turn in itertools.zip_longest(*(kinds[kind] for kind in sorted(kinds))):
        for one in filter(None, turn):
            where = (one[0], one[1].symbol)
            taken[where] += 1
            if taken[where] > MAX_OF_FUNCTION:
                late.append(one)
            else:
                yield one
    yield from late


# --- what can go wrong at a node


def _comparison(node: ast.AST, text: _Text, kind: str) -> Iterator[Edit]:
    if isinstance(node, ast.Compare):
        left = node.left
        for op, right in zip(node.ops, node.comparators, strict=True):
            pattern, found, new = COMPARISONS[type(op)]
            place = text.token(pattern, text.end(left), text.start(right))
            if found == kind and place:
                yield (*place, new)
            left = right


def _arithmetic(node: ast.AST, text: _Text) -> Iterator[Edit]:
    if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        if _is_text(node.left) or _is_text(node.right):
            return  # a wrong type is found by whoever runs it once
        if isinstance(node.op, ast.Mod) and not _is_number(node.right):
            return  # formats a text, for all that can be seen
        pattern, new = ARITHMETIC[type(node.op)]
        place = text.token(pattern, text.end(node.left), text.start(node.right))
        if place:
            yield (*place, new)


def _boolean(node: ast.AST, text: _Text) -> Iterator[Edit]:
    if isinstance(node, ast.BoolOp):
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in itertools.pairwise(node.values):
            place = text.token(rf"\b{old}\b", text.end(left), text.start(right))
            if place:
                yield (*place, new)


def _dropped_not(node: ast.AST, text: _Text) -> Iterator[Edit]:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield text.start(node), text.end(node), text.of(node.operand)


def _missing_await(node: ast.AST, text: _Text) -> Iterator[Edit]:
    if isinstance(node, ast.Await):
        yield text.start(node), text.end(node), text.of(node.value)


def _off_by_one(node: ast.AST, text: _Text) -> Iterator[Edit]:
    """Numbers that count: in comparisons, sums, subscripts, slices and `range`."""
    inner: list[ast.expr | None] = []
    if isinstance(node, ast.Compare):
        inner = list(node.comparators)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        inner = [node.right]
    elif isinstance(node, ast.Subscript):
        inner = [node.slice]
    elif isinstance(node, ast.Slice):
        inner = [node.lower, node.upper]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        inner = list(node.args)
    for one in inner:
        if isinstance(one, ast.Constant) and type(one.value) is int and one.value < 1000:
            yield text.start(one), text.end(one), str(one.value + 1)


def _swapped_arguments(node: ast.AST, text: _Text) -> Iterator[Edit]:
    if isinstance(node, ast.Call) and len(node.args) > 1:
        first, second = node.args[:2]
        starred = isinstance(first, ast.Starred) or isinstance(second, ast.Starred)
        if not starred and text.of(first) != text.of(second):
            between = text.data[text.end(first) : text.start(second)].decode("utf-8", "replace")
            yield text.start(first), text.end(second), text.of(second) + between + text.of(first)


def _dropped_keyword(node: ast.AST, text: _Text) -> Iterator[Edit]:
    if isinstance(node, ast.Call) and node.keywords and node.keywords[-1].arg:
        others: list[ast.expr | ast.keyword] = [*node.args, *node.keywords[:-1]]
        ends = [text.end(one) for one in others]
        if ends:
            yield max(ends), text.end(node.keywords[-1]), ""


def _early_return(node: ast.AST, text: _Text) -> Iterator[Edit]:
    """A guard at the head of what follows it: the whole `if` goes."""
    for field in ("body", "orelse", "finalbody"):
        block = getattr(node, field, None)
        if not isinstance(block, list):
            continue
        for one in block[:-1]:
            leaves = ast.Return | ast.Raise | ast.Continue | ast.Break
            if isinstance(one, ast.If) and not one.orelse and isinstance(one.body[-1], leaves):
                start = text.data.rfind(b"\n", 0, text.start(one)) + 1
                end = text.data.find(b"\n", text.end(one)) + 1
                is_elif = text.data[text.start(one) :].startswith(b"elif")
                if end and not is_elif and not text.data[start : text.start(one)].strip():
                    yield start, end, ""


def _flipped_constant(node: ast.AST, text: _Text) -> Iterator[Edit]:
    """A wrong truth value: returned, handed on by name, or assigned."""
    value: ast.expr | None = None
    if isinstance(node, ast.Return | ast.Assign | ast.keyword):
        value = node.value
    if isinstance(value, ast.Constant) and isinstance(value.value, bool):
        yield text.start(value), text.end(value), str(not value.value)


def _wrong_default(node: ast.AST, text: _Text) -> Iterator[Edit]:
    if isinstance(node, ast.arguments):
        for value in (*node.defaults, *node.kw_defaults):
            if isinstance(value, ast.Constant) and isinstance(value.value, bool):
                yield text.start(value), text.end(value), str(not value.value)
            elif isinstance(value, ast.Constant) and type(value.value) is int:
                yield text.start(value), text.end(value), str(value.value + 1)


def _confused_name(node: ast.AST, text: _Text) -> Iterator[Edit]:
    if isinstance(node, ast.Call):
        name = node.func
        if isinstance(name, ast.Name) and name.id in CONFUSED:
            yield text.start(name), text.end(name), CONFUSED[name.id]
        elif isinstance(name, ast.Attribute) and name.attr in CONFUSED:
            yield text.end(name) - len(name.attr), text.end(name), CONFUSED[name.attr]


OPERATORS: Final[Mapping[str, Callable[[ast.AST, _Text], Iterator[Edit]]]] = {
    "arithmetic": _arithmetic,
    "boolean": _boolean,
    "boundary": lambda node, text: _comparison(node, text, "boundary"),
    "comparison": lambda node, text: _comparison(node, text, "comparison"),
    "confused_name": _confused_name,
    "dropped_keyword": _dropped_keyword,
    "dropped_not": _dropped_not,
    "early_return": _early_return,
    "flipped_constant": _flipped_constant,
    "missing_await": _missing_await,
    "off_by_one": _off_by_one,
    "swapped_arguments": _swapped_arguments,
    "wrong_default": _wrong_default,
}


def _is_text(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp):
        return _is_text(node.left) or _is_text(node.right)
    texts = isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    return texts or isinstance(node, ast.JoinedStr)


def _is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int)


Function = ast.FunctionDef | ast.AsyncFunctionDef


def _functions(node: ast.AST, above: str) -> Iterator[tuple[str, Function]]:
    """Every function with its dotted name, inner ones by themselves."""
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, Function | ast.ClassDef):
            name = above + inner.name
            if isinstance(inner, Function):
                yield name, inner
            yield from _functions(inner, f"{name}.")
        else:
            yield from _functions(inner, above)


def _own_nodes(function: Function) -> Iterator[ast.AST]:
    """What is in a function, without decorators, annotations, f-strings (whose inside has no place
    before Python 3.12) and the functions within."""
    yield function
    waiting: list[ast.AST] = [*function.body]
    yield function.args
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, Function | ast.ClassDef | ast.JoinedStr):
            continue
        yield node
        for name, value in ast.iter_fields(node):
            if name not in ("annotation", "returns"):
                inner = value if isinstance(value, list) else [value]
                waiting += (one for one in inner if isinstance(one, ast.AST))
