"""JavaScript, TypeScript and TSX: declarations, classes, functions held in constants, modules."""

import re
from typing import Final

import tree_sitter_javascript
import tree_sitter_typescript
from tree_sitter import Language

from twin.coding.grammars.grammar import Grammar, RawImport

_SHARED: Final = (
    ("reference", "(call_expression function: (identifier) @name)"),
    (
        "reference",
        "(call_expression function: (member_expression property: (property_identifier) @name))",
    ),
    ("reference", "(new_expression constructor: (identifier) @name)"),
    ("comment", "(comment) @node"),
    (
        "function",
        """(function_declaration
            name: (identifier) @name body: (statement_block) @body) @node""",
    ),
    (
        "function",
        """(generator_function_declaration
            name: (identifier) @name body: (statement_block) @body) @node""",
    ),
    (
        "method",
        """(method_definition
            name: [(property_identifier) (private_property_identifier)] @name
            body: (statement_block) @body) @node""",
    ),
    (
        "function",
        """(variable_declarator
            name: (identifier) @name
            value: [(arrow_function body: (_) @body)
                    (function_expression body: (_) @body)]) @node""",
    ),
    (
        "function",
        """(assignment_expression
            left: (member_expression property: (property_identifier) @name)
            right: [(arrow_function body: (_) @body)
                    (function_expression body: (_) @body)]) @node""",
    ),
    (
        "function",
        """(pair
            key: (property_identifier) @name
            value: [(arrow_function body: (_) @body)
                    (function_expression body: (_) @body)]) @node""",
    ),
    (
        "constant",
        "(program (lexical_declaration (variable_declarator name: (identifier) @name)) @node)",
    ),
    (
        "constant",
        """(program (export_statement declaration: (lexical_declaration
            (variable_declarator name: (identifier) @name)) @node))""",
    ),
    ("outer", "(export_statement declaration: (_) @inner) @node"),
    ("outer", "(lexical_declaration . (variable_declarator) @inner) @node"),
    ("outer", "(variable_declaration . (variable_declarator) @inner) @node"),
    ("import", "(import_statement) @node"),
    ("import", "(export_statement source: (string)) @node"),
    (
        "import",
        # Any call of one string; `read_import` sorts out the others.
        """(call_expression
            function: [(identifier) (import)]
            arguments: (arguments . (string) .)) @node""",
    ),
)

_JAVASCRIPT: Final = (
    *_SHARED,
    ("class", "(class_declaration name: (identifier) @name body: (class_body) @body) @node"),
    ("reference", "(class_heritage (identifier) @name)"),
    (
        "method",
        """(field_definition
            property: (property_identifier) @name
            value: (arrow_function body: (_) @body)) @node""",
    ),
)

_TYPESCRIPT: Final = (
    *_SHARED,
    ("class", "(class_declaration name: (type_identifier) @name body: (class_body) @body) @node"),
    (
        "class",
        """(abstract_class_declaration
            name: (type_identifier) @name body: (class_body) @body) @node""",
    ),
    (
        "interface",
        "(interface_declaration name: (type_identifier) @name body: (_) @body) @node",
    ),
    (
        "method",
        """(public_field_definition
            name: (property_identifier) @name
            value: (arrow_function body: (_) @body)) @node""",
    ),
    ("type", "(type_alias_declaration name: (type_identifier) @name) @node"),
    ("enum", "(enum_declaration name: (identifier) @name body: (_) @body) @node"),
    ("module", "(internal_module name: (_) @name body: (_) @body) @node"),
    ("function", "(function_signature name: (identifier) @name) @node"),
    ("reference", "(extends_clause value: (identifier) @name)"),
    ("reference", "(implements_clause (type_identifier) @name)"),
)

_SOURCE: Final = re.compile(
    r"""(?:\bfrom|\bimport|\brequire\s*\(|\bimport\s*\()\s*["']([^"'\n]+)["']"""
)
_NAMES: Final = re.compile(r"\{([^}]*)\}")
_CONSTANT: Final = re.compile(r"_*[A-Z][A-Z0-9_]*\Z")


def javascript() -> Grammar:
    return _grammar(tree_sitter_javascript.language(), _JAVASCRIPT)


def typescript() -> Grammar:
    return _grammar(tree_sitter_typescript.language_typescript(), _TYPESCRIPT)


def tsx() -> Grammar:
    return _grammar(tree_sitter_typescript.language_tsx(), _TYPESCRIPT)


def _grammar(capsule: object, patterns: tuple[tuple[str, str], ...]) -> Grammar:
    return Grammar(
        language=Language(capsule),
        patterns=patterns,
        read_import=read_import,
        is_constant=is_constant,
    )


def read_import(text: str) -> list[RawImport]:
    """Reads `import`, `export ... from`, `require("x")` and `import("x")`."""
    source = _SOURCE.search(text)
    if source is None:
        return []
    listed = _NAMES.search(text[: source.start()])
    parts = (part.split() for part in listed[1].split(",")) if listed else ()
    names = (part[1] if part[0] == "type" and len(part) > 1 else part[0] for part in parts if part)
    return [(source[1], tuple(names), 0)]


def is_constant(statement: bytes, name: str) -> bool:
    """`const` in capitals; other top-level variables are wiring."""
    return statement.startswith(b"const") and _CONSTANT.match(name) is not None
