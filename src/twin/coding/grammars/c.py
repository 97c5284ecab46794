"""C and C++: functions, types, namespaces, macros, includes."""

import re
from typing import Final

import tree_sitter_c
import tree_sitter_cpp
from tree_sitter import Language

from twin.coding.grammars.grammar import Grammar, RawImport

_SHARED: Final = (
    ("reference", "(call_expression function: (identifier) @name)"),
    ("reference", "(call_expression function: (field_expression field: (field_identifier) @name))"),
    ("comment", "(comment) @node"),
    (
        "function",
        """(function_definition
            declarator: (function_declarator declarator: (_) @name)
            body: (_) @body) @node""",
    ),
    (
        "function",
        """(function_definition
            declarator: (pointer_declarator
                declarator: (function_declarator declarator: (_) @name))
            body: (_) @body) @node""",
    ),
    (
        "function",
        """(function_definition
            declarator: (pointer_declarator declarator: (pointer_declarator
                declarator: (function_declarator declarator: (_) @name)))
            body: (_) @body) @node""",
    ),
    (
        "function",
        "(declaration declarator: (function_declarator declarator: (identifier) @name)) @node",
    ),
    (
        "function",
        """(declaration declarator: (pointer_declarator
            declarator: (function_declarator declarator: (identifier) @name))) @node""",
    ),
    ("struct", "(struct_specifier name: (type_identifier) @name body: (_) @body) @node"),
    ("struct", "(union_specifier name: (type_identifier) @name body: (_) @body) @node"),
    ("enum", "(enum_specifier name: (type_identifier) @name body: (_) @body) @node"),
    ("type", "(type_definition declarator: (type_identifier) @name) @node"),
    ("macro", "(preproc_def name: (identifier) @name) @node"),
    ("macro", "(preproc_function_def name: (identifier) @name) @node"),
    ("import", "(preproc_include) @node"),
)

_CPP: Final = (
    *_SHARED,
    ("reference", "(call_expression function: (qualified_identifier name: (identifier) @name))"),
    ("reference", "(base_class_clause (type_identifier) @name)"),
    ("class", "(class_specifier name: (type_identifier) @name body: (_) @body) @node"),
    (
        "function",
        """(function_definition
            declarator: (reference_declarator
                (function_declarator declarator: (_) @name))
            body: (_) @body) @node""",
    ),
    (
        "method",
        """(field_declaration
            declarator: (function_declarator declarator: (field_identifier) @name)) @node""",
    ),
    ("module", "(namespace_definition name: (_) @name body: (_) @body) @node"),
    ("type", "(alias_declaration name: (type_identifier) @name) @node"),
    ("outer", "(template_declaration (_) @inner .) @node"),
)

_INCLUDE: Final = re.compile(r"""\binclude\s*(?:"([^"\n]+)"|<([^>\n]+)>)""")
_QUALIFIED: Final = re.compile(r"(.*)::(~?\w+|operator\b.*)\Z", re.DOTALL)
_NAME: Final = re.compile(r"~?\w+\Z|operator\b")


def c() -> Grammar:
    return Grammar(
        language=Language(tree_sitter_c.language()),
        patterns=_SHARED,
        read_import=read_import,
        read_name=read_name,
    )


def cpp() -> Grammar:
    return Grammar(
        language=Language(tree_sitter_cpp.language()),
        patterns=_CPP,
        read_import=read_import,
        read_name=read_name,
    )


def read_import(text: str) -> list[RawImport]:
    """`#include "x.h"` has level 1: looked for next to the file first; `<x.h>` has level 0."""
    found = _INCLUDE.search(text)
    if found is None:
        return []
    return [(found[1], (), 1)] if found[1] else [(found[2], (), 0)]


def read_name(text: str) -> tuple[str, str]:
    """(owner, name) of a declarator; no name for what is not a plain one (function pointers)."""
    found = _QUALIFIED.match(text)
    if found is not None:
        return ".".join(found[1].split("::")), found[2]
    return "", text if _NAME.match(text) else ""
