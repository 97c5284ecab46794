"""Which language a path is written in, by its name alone.

Owns the list of languages that the index understands. Does not look at contents and does not judge
whether a file is source, test or vendored: `paths` does that.
"""

from typing import Final

EXTENSIONS: Final = {
    ".c": "c",
    ".c++": "cpp",
    ".cc": "cpp",
    ".cjs": "javascript",
    ".cpp": "cpp",
    ".cts": "typescript",
    ".cxx": "cpp",
    ".go": "go",
    # A C header reads well with the C++ grammar; a C++ header is lost on the C one.
    ".h": "cpp",
    ".h++": "cpp",
    ".hh": "cpp",
    ".hpp": "cpp",
    ".hxx": "cpp",
    ".inl": "cpp",
    ".ipp": "cpp",
    ".java": "java",
    ".js": "javascript",
    ".jsx": "javascript",
    ".mjs": "javascript",
    ".mts": "typescript",
    ".py": "python",
    ".pyi": "python",
    ".pyw": "python",
    ".rs": "rust",
    ".tpp": "cpp",
    ".ts": "typescript",
    ".tsx": "tsx",
}

NAMES: Final = {"SConscript": "python", "SConstruct": "python", "wscript": "python"}
"""Build files that are Python without saying so."""

LANGUAGES: Final = tuple(sorted(set(EXTENSIONS.values())))


def language_of(path: str) -> str | None:
    """The language of a file, None where the index does not read it."""
    name = path.rpartition("/")[2]
    stem, dot, extension = name.rpartition(".")
    if not dot:
        return NAMES.get(name)
    if not stem:
        return None  # `.py` alone is a hidden file, not a module
    return EXTENSIONS.get("." + extension.lower())
