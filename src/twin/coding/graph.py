"""How the files of a repository hang together: who imports whom, which test mirrors which source,
which files change together.

Works on paths, parsed files and lists of changed paths; reads no repository and no store. How one
language finds the file behind an import is in `imports`.
"""

from collections.abc import Mapping
from typing import TypeVar

from twin.coding.imports import FAMILIES, RESOLVERS, Importing

__all__ = ["resolve_imports"]

File = TypeVar("File", bound=Importing)


def resolve_imports(files: Mapping[str, File]) -> dict[str, frozenset[str]]:
    """From each path to the paths it imports, within `files`; never to itself.

    `files` maps paths to parsed files (or to anything with their `language` and `imports`). Every
    path of `files` is a key of the result, in the same order.
    """
    families: dict[str, dict[str, File]] = {}
    for path, file in files.items():
        families.setdefault(FAMILIES.get(file.language, ""), {})[path] = file
    resolvers = {
        family: RESOLVERS[family](members)
        for family, members in families.items()
        if family in RESOLVERS
    }
    edges: dict[str, frozenset[str]] = {}
    for path, file in files.items():
        resolve = resolvers.get(FAMILIES.get(file.language, ""))
        found: set[str] = set()
        if resolve is not None:
            for item in file.imports:
                found.update(resolve(path, item))
            found.discard(path)
        edges[path] = frozenset(found)
    return edges
