"""Java imports to files: the package is the end of the folder's path, the class is the file."""

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Final

from twin.coding.imports.paths import Endings, nearest
from twin.records import Import

_MAX_STAR: Final = 40
"""`import a.b.*` of a larger package says nothing about any one file."""


def resolver(files: Mapping[str, object]) -> Callable[[str, Import], Iterable[str]]:
    endings = Endings(files)
    folders: dict[str, list[str]] = {}
    for path in files:
        folders.setdefault(path.rpartition("/")[0], []).append(path)
    packages = Endings(folders)

    @cache
    def find(importer: str, module: str, names: tuple[str, ...]) -> tuple[str, ...]:
        inner = module.replace(".", "/")
        if names == ("*",):
            folder = nearest(packages.matching(inner), importer)
            members = folders.get(folder, []) if folder is not None else []
            if members:
                return tuple(members) if len(members) <= _MAX_STAR else ()
        # The last parts may be a member or an inner class: shorten until a file fits.
        parts = [*inner.split("/"), *(name for name in names if name != "*")]
        while len(parts) > 1:
            found = nearest(endings.matching("/".join(parts) + ".java"), importer)
            if found is not None:
                return (found,)
            parts.pop()
        return ()

    def resolve(importer: str, item: Import) -> Iterable[str]:
        # All files of a folder see the same nearest file.
        return find(importer.rpartition("/")[0] + "/", item.module, item.names)

    return resolve
