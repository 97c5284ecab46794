"""Which commits their tests could prove: told from both sides of the files, before anything runs.

A commit qualifies where it changes what a program does, and adds or changes what a test checks.
Comments, docstrings, annotations and formatting do neither; nor does a test that is only taken
away. Rules look at the diff alone, never at what tests came to, so that a share of the qualifying
commits that are valid means something. Python is compared as syntax trees; whatever cannot be
parsed, and every other language, counts as changed.
"""

import ast
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from twin.coding.changed import Sides
from twin.coding.paths import role_of
from twin.config import MineConfig
from twin.observe.mine import AttritionRow, attrition
from twin.observe.syntax import parsed
from twin.records import Commit, MinedCommit

CHORES: Final = frozenset({"bump", "release", "style", "typo"})
"""Labels of commits that set nobody a task."""


def qualifying(
    mined: Sequence[MinedCommit], config: MineConfig, sides: Callable[[Commit], Sequence[Sides]]
) -> tuple[list[MinedCommit], list[AttritionRow]]:
    """Those that qualify, in the order given, and what became of the others: a row for each rule of
    mining, then for each of `RULES`.

    `sides` gives both sides of all files that a commit changed; it is asked for those alone that
    the cheaper rules keep.
    """
    removed = dict.fromkeys(RULES, 0)
    kept: list[MinedCommit] = []
    for one in mined:
        if one.dropped_by is not None:
            continue
        why = _by_facts(one) or _by_contents(sides(one.commit))
        if why:
            removed[why] += 1
        else:
            kept.append(one)
    rows = attrition(mined, config)
    for rule, count in removed.items():
        left = rows[-1].remaining - count
        rows.append(AttritionRow(rule=rule, removed=count, remaining=left))
    return kept, rows


RULES: Final = (
    "no_parent",  # it begins a history, or joins two
    "no_tests",
    "chore",  # its message says version, release, formatting or spelling
    "no_code_change",  # comments, docstrings, annotations and formatting alone
    "no_test_added",  # tests are taken away or put into another form, and none is added or changed
)
"""The first that objects counts."""


def _by_facts(one: MinedCommit) -> str:
    if len(one.commit.parent_ids) != 1:
        return "no_parent"
    if not one.num_test_files:
        return "no_tests"
    return "chore" if any(label.name in CHORES for label in one.labels) else ""


def _by_contents(files: Sequence[Sides]) -> str:
    roles = {side.change.path: role_of(side.change.path) for side in files}
    source = [side for side in files if roles[side.change.path] == "source"]
    tests = [side for side in files if roles[side.change.path] == "test"]
    if not any(_does_otherwise(side) for side in source):
        return "no_code_change"
    return "" if any(_checks_more(side) for side in tests) else "no_test_added"


def _does_otherwise(side: Sides) -> bool:
    """Whether the program may do something else after it."""
    path = side.change.path
    if path.endswith(".pyi"):
        return False
    if not path.endswith(".py"):
        return side.before != side.after
    before, after = _program(side.before), _program(side.after)
    return not before or not after or before != after


def _checks_more(side: Sides) -> bool:
    """Whether something is there after it that was not there before, imports aside. Annotations
    count: some projects are about them."""
    if side.after is None:
        return False
    before, after = parsed(side.before or b""), parsed(side.after)
    if not side.change.path.endswith(".py") or before is None or after is None:
        return side.before != side.after
    return bool(_statements(after) - _statements(before))


def _program(source: bytes | None) -> str:
    """The same for files that do the same but for their text; empty where it cannot be told."""
    tree = parsed(source or b"")
    try:
        return "" if tree is None else ast.dump(_Bare().visit(tree))
    except RecursionError:
        return ""


def _statements(tree: ast.Module) -> Counter[str]:
    """What is said, line by line: a compound statement counts by its head."""
    return Counter(
        _head(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.stmt) and not _is_silent(node, ast.Import, ast.ImportFrom)
    )


def _head(node: ast.stmt) -> str:
    parts = [part for name, part in ast.iter_fields(node) if name not in _BLOCKS]
    return type(node).__name__ + repr([_shown(part) for part in parts])


def _shown(part: object) -> object:
    if isinstance(part, ast.AST):
        return ast.dump(part)
    return [_shown(item) for item in part] if isinstance(part, list) else part


_BLOCKS: Final = frozenset({"body", "orelse", "finalbody", "handlers", "cases"})


class _Bare(ast.NodeTransformer):
    """Takes out what only readers and type checkers see. Annotations of variables stay: they make
    the fields of data classes."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [part for part in body if not _is_silent(part, ast.Pass)]
            node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        return None if node.module in _TYPING else node

    def visit_If(self, node: ast.If) -> ast.AST | None:
        asked = getattr(node.test, "id", getattr(node.test, "attr", ""))
        return None if asked == "TYPE_CHECKING" and not node.orelse else self.generic_visit(node)


_TYPING: Final = frozenset({"__future__", "typing", "typing_extensions", "collections.abc"})


def _is_silent(node: ast.AST, *kinds: type[ast.AST]) -> bool:
    """Whether it is of these kinds, or a docstring or `...`."""
    return isinstance(node, kinds) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    )
