"""Which files of a repository an import means, by each language's own rules.

One seam: `RESOLVERS` maps a family of languages to a factory; the factory sees the family's files
once and returns a function from (importing path, import) to paths. All of them work on paths alone:
no build file is read and nothing is run, so a file that only a build step makes is not found.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

from twin.coding.imports import c, go, java, javascript, python, rust
from twin.records import Import


class Importing(Protocol):
    """A file's imports; a `ParsedFile` is one, a cached outline another."""

    @property
    def language(self) -> str: ...
    @property
    def imports(self) -> tuple[Import, ...]: ...


Resolve = Callable[[str, Import], Iterable[str]]
"""From the importing path and one of its imports to the files that it means, none if foreign."""

RESOLVERS: Final[dict[str, Callable[[Mapping[str, Importing]], Resolve]]] = {
    "c": c.resolver,
    "go": go.resolver,
    "java": java.resolver,
    "javascript": javascript.resolver,
    "python": python.resolver,
    "rust": rust.resolver,
}

FAMILIES: Final = {
    "c": "c",
    "cpp": "c",
    "go": "go",
    "java": "java",
    "javascript": "javascript",
    "python": "python",
    "rust": "rust",
    "tsx": "javascript",
    "typescript": "javascript",
}
"""Languages that import one another's files."""
