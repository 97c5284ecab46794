"""C and C++ includes to files: beside the file, then the file whose path ends with what is written.

The include path stands in build files, which are not read.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from twin.coding.imports.paths import Endings, joined, nearest
from twin.records import Import

_PUBLIC: Final = frozenset({"include", "inc", "src", ""})
"""Folders from which `<name.h>` is found; elsewhere a bare name in brackets is the system's."""


def resolver(files: Mapping[str, object]) -> Callable[[str, Import], Iterable[str]]:
    endings = Endings(files)

    def resolve(importer: str, item: Import) -> Iterable[str]:
        folder = importer.rpartition("/")[0]
        if item.level:
            beside = joined(folder, item.module)
            if beside in files:
                return (beside,) if beside else ()
        ending = joined("", item.module.lstrip("./"))
        if not ending:
            return ()
        found = endings.matching(ending)
        if not item.level and "/" not in ending:
            found = [
                path for path in found if path.rpartition("/")[0].rpartition("/")[2] in _PUBLIC
            ]
        best = nearest(found, importer)
        return (best,) if best is not None else ()

    return resolve
