"""Rust: items, methods under their `impl`, macros, modules and `use` trees."""

import re
from typing import Final

import tree_sitter_rust
from tree_sitter import Language

from twin.coding.grammars.grammar import Grammar, RawImport

PATTERNS: Final = (
    ("reference", "(call_expression function: (identifier) @name)"),
    ("reference", "(call_expression function: (field_expression field: (field_identifier) @name))"),
    ("reference", "(call_expression function: (scoped_identifier name: (identifier) @name))"),
    ("reference", "(macro_invocation macro: (identifier) @name)"),
    ("comment", "(line_comment) @node"),
    ("comment", "(block_comment) @node"),
    ("function", "(function_item name: (identifier) @name body: (block) @body) @node"),
    ("function", "(function_signature_item name: (identifier) @name) @node"),
    ("struct", "(struct_item name: (type_identifier) @name body: (_)? @body) @node"),
    ("struct", "(union_item name: (type_identifier) @name body: (_) @body) @node"),
    ("enum", "(enum_item name: (type_identifier) @name body: (_) @body) @node"),
    ("trait", "(trait_item name: (type_identifier) @name body: (_) @body) @node"),
    ("scope", "(impl_item type: (type_identifier) @name) @node"),
    ("scope", "(impl_item type: (generic_type type: (type_identifier) @name)) @node"),
    ("type", "(source_file (type_item name: (type_identifier) @name) @node)"),
    ("constant", "(const_item name: (identifier) @name) @node"),
    ("constant", "(static_item name: (identifier) @name) @node"),
    ("macro", "(macro_definition name: (identifier) @name) @node"),
    ("module", "(mod_item name: (identifier) @name body: (_) @body) @node"),
    ("import", "(mod_item name: (identifier) !body) @node"),
    ("import", "(use_declaration) @node"),
    ("import", "(extern_crate_declaration) @node"),
)

_MODULE: Final = re.compile(r"\bmod\s+(?:r#)?(\w+)\s*;?\s*\Z")
_USE: Final = re.compile(r"\buse\s+(.*?);?\s*\Z", re.DOTALL)
_CRATE: Final = re.compile(r"\bextern\s+crate\s+(\w+)")
_COMMENT: Final = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_TOKEN: Final = re.compile(r"[{},]|[^\s{},]+")
_MAX_PATHS: Final = 500


def grammar() -> Grammar:
    return Grammar(
        language=Language(tree_sitter_rust.language()), patterns=PATTERNS, read_import=read_import
    )


def read_import(text: str) -> list[RawImport]:
    """`mod x;` is module `self::x`; a `use` tree gives one import per leading path."""
    text = _COMMENT.sub(" ", text)
    if found := _MODULE.search(text):
        return [("self::" + found[1], (), 0)]
    if found := _CRATE.search(text):
        return [(found[1], (), 0)]
    if not (found := _USE.search(text)):
        return []
    grouped: dict[str, list[str]] = {}
    for path in _leaves(found[1]):
        module, _, name = path.rpartition("::")
        if module:
            grouped.setdefault(module, []).append(name)
        else:
            grouped.setdefault(name, [])
    return [(module, tuple(names), 0) for module, names in grouped.items()]


def _leaves(tree: str) -> list[str]:
    """The full paths of a `use` tree: `a::{b, c::{d, e as f}}` is a::b, a::c::d, a::c::e."""
    leaves: list[str] = []
    prefixes = [""]
    current = ""
    renamed = False
    for token in _TOKEN.findall(tree):
        if token == "{":
            prefixes.append(prefixes[-1] + current)
            current = ""
        elif token in (",", "}"):
            if current:
                leaves.append(prefixes[-1] + current)
            current, renamed = "", False
            if token == "}" and len(prefixes) > 1:
                prefixes.pop()
        elif token == "as":
            renamed = True
        elif not renamed:
            current += token
        if len(leaves) >= _MAX_PATHS:
            break
    if current:
        leaves.append(prefixes[-1] + current)
    # `a::b::{self}` names `a::b`.
    return [leaf.removesuffix("::self").removeprefix("::") for leaf in leaves]
