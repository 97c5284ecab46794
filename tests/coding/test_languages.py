"""Which language a path is written in."""

import pytest

from twin.coding.grammars import GRAMMARS
from twin.coding.imports import FAMILIES, RESOLVERS
from twin.coding.languages import LANGUAGES, language_of

CASES = {
    "python": "a.py src/a/b.pyi tools/run.pyw SConstruct wscript UPPER.PY",
    "javascript": "a.js a.mjs a.cjs ui/App.jsx",
    "typescript": "a.ts types.d.ts a.mts a.cts",
    "tsx": "App.tsx",
    "go": "main.go",
    "rust": "src/lib.rs",
    "java": "a/B.java",
    "c": "jq.c",
    "cpp": "a.cc a.cpp a.cxx a.hpp a.hh jq.h a.inl",
}


@pytest.mark.parametrize(
    ("path", "language"),
    [(path, language) for language, paths in CASES.items() for path in paths.split()],
)
def test_the_name_tells_the_language(path: str, language: str) -> None:
    assert language_of(path) == language


@pytest.mark.parametrize(
    "path",
    ["", "/", "README.md", "Makefile", ".py", "dir/.py", "a.py/", "a.pyc", "a.", "py", "\udcff"],
)
def test_anything_else_has_none(path: str) -> None:
    assert language_of(path) is None


def test_every_language_has_a_grammar_and_a_way_to_resolve_its_imports() -> None:
    assert set(LANGUAGES) == set(GRAMMARS) == set(FAMILIES)
    assert set(FAMILIES.values()) == set(RESOLVERS)
