"""Java: types, methods, constants, imports."""

from typing import Final

import tree_sitter_java
from tree_sitter import Language

from twin.coding.grammars.grammar import Grammar, RawImport

PATTERNS: Final = (
    ("reference", "(method_invocation name: (identifier) @name)"),
    ("reference", "(object_creation_expression type: (type_identifier) @name)"),
    (
        "reference",
        "(object_creation_expression type: (generic_type . (type_identifier) @name))",
    ),
    ("reference", "(superclass (type_identifier) @name)"),
    ("reference", "(super_interfaces (type_list (type_identifier) @name))"),
    ("reference", "(marker_annotation name: (identifier) @name)"),
    ("reference", "(annotation name: (identifier) @name)"),
    ("comment", "(line_comment) @node"),
    ("comment", "(block_comment) @node"),
    ("class", "(class_declaration name: (identifier) @name body: (_) @body) @node"),
    ("class", "(record_declaration name: (identifier) @name body: (_) @body) @node"),
    ("interface", "(interface_declaration name: (identifier) @name body: (_) @body) @node"),
    ("interface", "(annotation_type_declaration name: (identifier) @name body: (_) @body) @node"),
    ("enum", "(enum_declaration name: (identifier) @name body: (_) @body) @node"),
    ("method", "(method_declaration name: (identifier) @name body: (_)? @body) @node"),
    ("method", "(constructor_declaration name: (identifier) @name body: (_) @body) @node"),
    (
        "constant",
        "(field_declaration declarator: (variable_declarator name: (identifier) @name)) @node",
    ),
    ("import", "(import_declaration) @node"),
)


def grammar() -> Grammar:
    return Grammar(
        language=Language(tree_sitter_java.language()),
        patterns=PATTERNS,
        read_import=read_import,
        is_constant=is_constant,
    )


def read_import(text: str) -> list[RawImport]:
    """`import a.b.C;` is module `a.b`, name `C`; `import a.b.*` has the name `*`."""
    words = text.rstrip("; \r\n").split()[1:]
    if words[:1] == ["static"]:
        words = words[1:]
    module, _, name = "".join(words).rpartition(".")
    return [(module, (name,), 0)] if name else []


def is_constant(statement: bytes, name: str) -> bool:
    """`static final` in capitals; other fields are state."""
    head = statement.partition(b"=")[0]
    return name.isupper() and b"static" in head and b"final" in head
