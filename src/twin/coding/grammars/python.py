"""Python, complete: nested definitions, decorators, docstrings, constants, every form of import."""

import re
from typing import Final

import tree_sitter_python
from tree_sitter import Language

from twin.coding.grammars.grammar import Grammar, RawImport

PATTERNS: Final = (
    ("reference", "(call function: (identifier) @name)"),
    ("reference", "(call function: (attribute attribute: (identifier) @name))"),
    ("comment", "(comment) @node"),
    ("function", "(function_definition name: (identifier) @name body: (block) @body) @node"),
    ("class", "(class_definition name: (identifier) @name body: (block) @body) @node"),
    ("outer", "(decorated_definition definition: (_) @inner) @node"),
    (
        "constant",
        "(module (expression_statement (assignment left: (identifier) @name) @node))",
    ),
    (
        "type",
        """(type_alias_statement left: (type [
            (identifier) @name
            (generic_type . (identifier) @name)
        ])) @node""",
    ),
    ("import", "(import_statement) @node"),
    ("import", "(import_from_statement) @node"),
    ("import", "(future_import_statement) @node"),
    (
        "reference",
        """(class_definition superclasses: (argument_list [
            (identifier) @name
            (attribute attribute: (identifier) @name)
            (subscript value: (identifier) @name)
            (subscript value: (attribute attribute: (identifier) @name))
        ]))""",
    ),
    (
        "reference",
        "(decorator [(identifier) @name (attribute attribute: (identifier) @name)])",
    ),
)

_COMMENT_OR_FOLD: Final = re.compile(r"#[^\n]*|\\\r?\n")
_FROM: Final = re.compile(r"from\s*([.\s]*)([\w.\s]*?)\s*\bimport\b(.*)", re.DOTALL)
_DOCSTRING: Final = re.compile(
    rb"(?:\s*#[^\n]*\n)*\s*[rRuU]?"
    rb"""(?:\"{3}(.*?)\"{3}|'{3}(.*?)'{3}|"((?:[^"\\\n]|\\.)*)"|'((?:[^'\\\n]|\\.)*)')"""
    rb"[ \t]*(?=[\r\n;#]|\Z)",
    re.DOTALL,
)
_CONSTANT: Final = re.compile(r"_*[A-Z][A-Z0-9_]*\Z")


def grammar() -> Grammar:
    return Grammar(
        language=Language(tree_sitter_python.language()),
        patterns=PATTERNS,
        read_import=read_import,
        read_docstring=read_docstring,
        is_constant=is_constant,
    )


def read_import(text: str) -> list[RawImport]:
    """Reads any import statement. Broken ones give what can be read of them."""
    if "#" in text or "\\" in text:
        text = _COMMENT_OR_FOLD.sub(" ", text)
    if text.startswith("import"):
        modules = ("".join(part.split(" as ")[0].split()) for part in text[6:].split(","))
        return [(module, (), 0) for module in modules if module]
    found = _FROM.match(text)
    if found is None:
        return []
    dots, module, rest = found.groups()
    parts = (part.split() for part in rest.strip().strip("()").split(","))
    names = tuple(part[0] for part in parts if part)
    return [("".join(module.split()), names, dots.count("."))]


def read_docstring(source: bytes, start: int) -> bytes:
    """The docstring of the block that starts at `start`, raw, empty where there is none.

    Read from the text: a tree-sitter pattern would be tried on every block and every string.
    """
    found = _DOCSTRING.match(source, start)
    return (found[found.lastindex or 0]) if found else b""


def is_constant(statement: bytes, name: str) -> bool:
    """UPPER_CASE, or annotated."""
    if _CONSTANT.match(name):
        return True
    return statement[len(name.encode()) :].lstrip()[:1] == b":"
