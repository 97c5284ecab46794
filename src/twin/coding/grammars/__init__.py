"""What the parser must know of each language: a tree-sitter grammar, the patterns to look for, how
an import reads.

One seam for all languages: `GRAMMARS` maps a language's name to a factory; a new language is a new
entry. Does not walk trees: `coding.parse` does that, the same way for all.
"""

from collections.abc import Callable
from typing import Final

from twin.coding.grammars import c, go, java, javascript, python, rust
from twin.coding.grammars.grammar import Grammar

GRAMMARS: Final[dict[str, Callable[[], Grammar]]] = {
    "c": c.c,
    "cpp": c.cpp,
    "go": go.grammar,
    "java": java.grammar,
    "javascript": javascript.javascript,
    "python": python.grammar,
    "rust": rust.grammar,
    "tsx": javascript.tsx,
    "typescript": javascript.typescript,
}

__all__ = ["GRAMMARS", "Grammar"]
