"""The record that describes one language to the parser, and nothing that does work."""

from collections.abc import Callable
from dataclasses import dataclass

from tree_sitter import Language

RawImport = tuple[str, tuple[str, ...], int]
"""Module, names, level: an `Import` without its line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """One language as the parser needs it.

    `patterns` are pairs (what, tree-sitter pattern); exactly one pattern each. `what` is one of

    - a `SymbolKind`: captures `node` and `name`; `body` where the signature ends before it;
      `parent` where the source names the owner itself (a Go receiver)
    - `scope`: as a symbol, but only lends its name to what is inside (a Rust `impl`)
    - `outer`: captures `node` and `inner`; the span and the comments of the symbol at `inner` start
      at `node` (decorators, `export`)
    - `import`: captures `node`
    - `reference`: captures `name`
    - `comment`: captures `node`

    Where two patterns define the same name, the earlier one wins.
    """

    language: Language
    patterns: tuple[tuple[str, str], ...]
    read_import: Callable[[str], list[RawImport]]
    """From the text of one import statement."""
    read_docstring: Callable[[bytes, int], bytes] | None = None
    """From the source and the offset of a body; None where the comment before a definition is its
    documentation."""
    read_name: Callable[[str], tuple[str, str]] | None = None
    """From a captured name that holds its owner too (`Owner::name`) to (owner, name)."""
    is_constant: Callable[[bytes, str], bool] | None = None
    """From the statement and the name: which top-level assignments count."""
