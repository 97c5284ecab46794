"""JavaScript and TypeScript imports to files: relative paths, left-out extensions, index files, the
usual aliases of the source folder."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from twin.coding.imports.paths import joined
from twin.records import Import

_SUFFIXES: Final = (
    "", ".ts", ".tsx", ".d.ts", ".js", ".jsx", ".mjs", ".cjs", ".mts", ".cts",
    "/index.ts", "/index.tsx", "/index.d.ts", "/index.js", "/index.jsx", "/index.mjs", "/index.cjs",
)  # fmt: skip
_WRITTEN_AS: Final = {
    ".js": (".ts", ".tsx"),
    ".jsx": (".tsx",),
    ".mjs": (".mts",),
    ".cjs": (".cts",),
}
"""TypeScript imports name the file that the compiler will write."""
_ALIASES: Final = ("@/", "~/", "#/")
_BASES: Final = ("src", "app", "lib", "")


def resolver(files: Mapping[str, object]) -> Callable[[str, Import], Iterable[str]]:
    def resolve(importer: str, item: Import) -> Iterable[str]:
        folder = importer.rpartition("/")[0]
        module = item.module.partition("?")[0]
        if module.startswith("."):
            stems = [joined(folder, module)]
        elif module.startswith("/"):
            return ()
        else:
            for alias in _ALIASES:
                module = module.removeprefix(alias)
            if "/" not in module and module == item.module:
                return ()  # a package's name; a file of that name at the top is not meant
            stems = [f"{base}/{module}" if base else module for base in _BASES]
        for stem in stems:
            if stem is not None and (found := _file(stem, files)):
                return (found,)
        return ()

    return resolve


def _file(stem: str, files: Mapping[str, object]) -> str | None:
    stem = stem.rstrip("/")
    for suffix in _SUFFIXES:
        if (path := (stem + suffix).lstrip("/")) in files:
            return path
    bare, dot, extension = stem.rpartition(".")
    for written in _WRITTEN_AS.get(dot + extension, ()):
        if bare + written in files:
            return bare + written
    return None
