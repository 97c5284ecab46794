"""A stranger's Python as a syntax tree."""

import ast
import warnings
from typing import Final

MAX_BYTES: Final = 1_000_000


def parsed(source: str | bytes) -> ast.Module | None:
    """None for what is no Python, or more than a person writes."""
    if len(source) > MAX_BYTES:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a stranger's literals
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
