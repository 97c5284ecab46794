"""Go: functions, methods with their receivers, types, constants, imports."""

import re
from typing import Final

import tree_sitter_go
from tree_sitter import Language

from twin.coding.grammars.grammar import Grammar, RawImport

PATTERNS: Final = (
    ("reference", "(call_expression function: (identifier) @name)"),
    (
        "reference",
        "(call_expression function: (selector_expression field: (field_identifier) @name))",
    ),
    ("comment", "(comment) @node"),
    ("function", "(function_declaration name: (identifier) @name body: (block)? @body) @node"),
    (
        "method",
        """(method_declaration
            receiver: (parameter_list (parameter_declaration type: [
                (type_identifier) @parent
                (pointer_type (type_identifier) @parent)
                (generic_type type: (type_identifier) @parent)
                (pointer_type (generic_type type: (type_identifier) @parent))
            ]))
            name: (field_identifier) @name
            body: (block) @body) @node""",
    ),
    (
        "struct",
        "(type_spec name: (type_identifier) @name type: (struct_type (_) @body)) @node",
    ),
    (
        "interface",
        "(type_spec name: (type_identifier) @name type: (interface_type)) @node",
    ),
    ("type", "(type_spec name: (type_identifier) @name) @node"),
    ("type", "(type_alias name: (type_identifier) @name) @node"),
    ("outer", "(type_declaration . (type_spec) @inner) @node"),
    (
        "constant",
        "(source_file (const_declaration (const_spec . name: (identifier) @name) @node))",
    ),
    (
        "variable",
        "(source_file (var_declaration (var_spec . name: (identifier) @name) @node))",
    ),
    ("import", "(import_spec) @node"),
)

_PATH: Final = re.compile(r"""["`]([^"`\n]+)["`]""")


def grammar() -> Grammar:
    return Grammar(
        language=Language(tree_sitter_go.language()), patterns=PATTERNS, read_import=read_import
    )


def read_import(text: str) -> list[RawImport]:
    """Reads one line of an import block: an optional name, a path in quotes."""
    found = _PATH.search(text)
    return [(found[1], (), 0)] if found else []
