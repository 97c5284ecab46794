"""Go imports to files: a package is a folder, its import path ends with the folder's path.

`go.mod` is not read: the module's path is what most imports that end with a folder of this
repository have before it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from twin.records import Import


class _HasImports(Protocol):
    @property
    def imports(self) -> tuple[Import, ...]: ...


def resolver(files: Mapping[str, _HasImports]) -> Callable[[str, Import], Iterable[str]]:
    folders: dict[str, list[str]] = {}
    for path in files:
        if not path.endswith("_test.go"):
            folders.setdefault(path.rpartition("/")[0], []).append(path)
    prefixes = _module_paths(files, folders)

    def resolve(_importer: str, item: Import) -> Iterable[str]:
        for prefix in prefixes:
            if item.module == prefix:
                return folders.get("", ())
            if item.module.startswith(prefix + "/"):
                return folders.get(item.module[len(prefix) + 1 :], ())
        return ()

    return resolve


def _module_paths(
    files: Mapping[str, _HasImports], folders: Mapping[str, list[str]]
) -> tuple[str, ...]:
    """The path of the repository's module; empty where no import fits."""
    votes: Counter[str] = Counter()
    for module in {item.module for file in files.values() for item in file.imports}:
        parts = module.split("/")
        if "." not in parts[0]:
            continue  # the standard library
        for cut in range(1, len(parts)):
            if "/".join(parts[cut:]) in folders:
                # Longer ends are rarer by chance.
                votes["/".join(parts[:cut])] += len(parts) - cut
    if not votes:
        return ()
    return (min(votes, key=lambda prefix: (-votes[prefix], len(prefix), prefix)),)
