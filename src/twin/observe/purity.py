"""Which functions of a Python file are pure, as far as their text tells; in doubt they are not.

A pure function gives the same for the same arguments and touches nothing else. Judged by a list of
what is allowed: builtins and modules without state, and other functions of the file for which the
same holds. Reads syntax; runs nothing.
"""

import ast
from collections.abc import Iterator
from typing import Final

BUILTINS: Final = frozenset(
    {"ArithmeticError", "AssertionError", "IndexError", "KeyError", "LookupError",
     "NotImplementedError", "OverflowError", "RuntimeError", "StopIteration", "TypeError",
     "UnicodeError", "ValueError", "ZeroDivisionError", "abs", "all", "any", "ascii", "bin",
     "bool", "bytes", "callable", "chr", "complex", "dict", "divmod", "enumerate", "filter",
     "float", "format", "frozenset", "hex", "int", "isinstance", "issubclass", "iter", "len",
     "list", "map", "max", "min", "next", "oct", "ord", "pow", "range", "repr", "reversed",
     "round", "set", "slice", "sorted", "str", "sum", "tuple", "type", "zip"}
)  # fmt: skip
MODULES: Final = frozenset(
    {"base64", "binascii", "bisect", "cmath", "collections", "colorsys", "decimal", "difflib",
     "fnmatch", "fractions", "functools", "hashlib", "heapq", "html", "itertools", "json",
     "keyword", "math", "operator", "posixpath", "re", "shlex", "statistics", "string", "struct",
     "textwrap", "unicodedata", "urllib.parse"}
)  # fmt: skip
TELLING: Final = frozenset(
    {"breakpoint", "classmethod", "compile", "delattr", "eval", "exec", "getattr", "globals",
     "hash", "help", "id", "input", "locals", "memoryview", "object", "open", "print", "setattr",
     "staticmethod", "super", "vars"}
)  # fmt: skip
"""Builtins that see or do more than their arguments; also where they are only handed on."""
FORBIDDEN: Final = (
    ast.Global, ast.Nonlocal, ast.Await, ast.Yield, ast.YieldFrom, ast.AsyncFor, ast.AsyncWith,
    ast.AsyncFunctionDef, ast.With, ast.Import, ast.ImportFrom, ast.Delete, ast.ClassDef,
)  # fmt: skip


def pure_functions(module: ast.Module) -> dict[str, ast.FunctionDef]:
    """The pure functions at the top of a file, by name."""
    functions = {
        node.name: node
        for node in module.body
        if isinstance(node, ast.FunctionDef) and not node.decorator_list
    }
    known = set(BUILTINS) | _safe_imports(module)
    # Begin with all and take away until nothing changes: functions may call each other.
    pure = {name: node for name, node in functions.items() if not _is_tainted(node)}
    while True:
        bad = [name for name, node in pure.items() if not _calls(node) <= known | set(pure)]
        if not bad:
            return pure
        for name in bad:
            del pure[name]


def callees(node: ast.FunctionDef) -> set[str]:
    """The names of functions that it calls."""
    return _calls(node)


def _safe_imports(module: ast.Module) -> set[str]:
    found = set()
    for node in module.body:
        if isinstance(node, ast.Import):
            found |= {a.asname or a.name for a in node.names if a.name in MODULES}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module in MODULES:
            found |= {a.asname or a.name for a in node.names}
    return found


def _is_tainted(node: ast.FunctionDef) -> bool:
    """Whether it writes outside of itself, or is more than a plain function."""
    own = set(_own_names(node))
    for inner in ast.walk(node):
        if isinstance(inner, FORBIDDEN):
            return True
        if isinstance(inner, ast.Attribute | ast.Subscript) and isinstance(inner.ctx, ast.Store):
            if isinstance(inner, ast.Attribute) or _root(inner) not in own:
                return True
        elif isinstance(inner, ast.Name) and (
            inner.id.startswith("__") or (inner.id in TELLING and inner.id not in own)
        ):
            return True
    return False


def _own_names(node: ast.FunctionDef) -> Iterator[str]:
    """Names that are bound in the function itself, without its parameters."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
            yield inner.id


def _calls(node: ast.FunctionDef) -> set[str]:
    """The first names of what it calls; methods of values of its own count as nothing."""
    bound = {a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg)} | set(_own_names(node))
    bound |= {inner.name for inner in ast.walk(node) if isinstance(inner, ast.FunctionDef)}
    found = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.Call):
            root = _root(inner.func)
            dotted = ast.unparse(inner.func).rpartition(".")[0]
            if root is not None and root not in bound - {node.name}:
                found.add(dotted if dotted.startswith("urllib.") else root)
    return found


def _root(node: ast.expr) -> str | None:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None
