"""What the parser must know of each language: a tree-sitter grammar, the patterns to look for, how
an import reads.

One seam for all languages: `GRAMMARS` maps a language's name to a factory; a new language is a new
entry. Does not walk trees: `coding.parse` does that, the same way for all.
"""

from collections.abc import Callable
from typing import Final

from twin.coding.grammars import python
from twin.coding.grammars.grammar import Grammar

GRAMMARS: Final[dict[str, Callable[[], Grammar]]] = {
    "python": python.grammar,
}

__all__ = ["GRAMMARS", "Grammar"]
