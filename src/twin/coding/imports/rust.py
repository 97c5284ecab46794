"""Rust paths to files: `mod`, `crate::`, `super::`, `self::`, the other crates of a workspace."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from twin.records import Import

_CRATE_FILES: Final = ("lib.rs", "main.rs")
_OWN_FOLDER: Final = ("lib.rs", "main.rs", "mod.rs", "build.rs")
"""Files whose submodules lie beside them; those of `a.rs` lie in `a/`."""


def resolver(files: Mapping[str, object]) -> Callable[[str, Import], Iterable[str]]:
    return _Resolver(files).resolve


class _Resolver:
    def __init__(self, files: Mapping[str, object]) -> None:
        self.files = files
        self.crates: dict[str, str] = {}
        """Name of a crate to the folder of its sources."""
        for path in files:
            folder, _, name = path.rpartition("/")
            if name in _CRATE_FILES and (folder == "src" or folder.endswith("/src")):
                crate = folder.removesuffix("src").rstrip("/").rpartition("/")[2]
                self.crates.setdefault(crate.replace("-", "_"), folder)
        self.sources = {
            path.rpartition("/")[0] for path in files if path.rpartition("/")[2] in _CRATE_FILES
        }

    def resolve(self, importer: str, item: Import) -> Iterable[str]:
        head, *rest = item.module.split("::")
        folder, _, name = importer.rpartition("/")
        own = folder if name in _OWN_FOLDER else importer.removesuffix(".rs")
        if head == "crate":
            base = self._crate_folder(folder)
        elif head == "self":
            base = own
        elif head == "super":
            base = own.rpartition("/")[0]
            while rest[:1] == ["super"]:
                base, rest = base.rpartition("/")[0], rest[1:]
        elif head in self.crates:
            base = self.crates[head]
        else:
            # Since 2018 a path may start at a module declared in this very file.
            base, rest = own, [head, *rest]
            if self._file(_under(own, head)) is None:
                return ()
        found: dict[str, None] = {}
        for last in item.names or ("",):
            target = self._deepest(base, [*rest, last] if last not in ("", "*") else rest)
            if target is not None:
                found[target] = None
        return found

    def _crate_folder(self, folder: str) -> str:
        while folder and folder not in self.sources:
            folder = folder.rpartition("/")[0]
        return folder

    def _deepest(self, base: str, parts: list[str]) -> str | None:
        """The file of the longest leading part of a path: what follows are items inside it."""
        for length in range(len(parts), 0, -1):
            found = self._file(_under(base, "/".join(parts[:length])))
            if found is not None:
                return found
        for name in _CRATE_FILES:
            if _under(base, name) in self.files:
                return _under(base, name)
        return self._file(base)

    def _file(self, stem: str) -> str | None:
        for path in (stem + ".rs", stem + "/mod.rs"):
            if path in self.files:
                return path
        return None


def _under(folder: str, inner: str) -> str:
    return f"{folder}/{inner}" if folder else inner
