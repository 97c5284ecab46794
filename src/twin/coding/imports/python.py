"""Python imports to files: several roots, `src` layouts, namespace packages, relative imports.

Python finds a module on `sys.path`, which a repository does not show. A *root* is a folder that
could stand on that path: the candidates for `import a.b` are the folders that hold an `a`, and the
first in order of plausibility where `a.b` is a file wins.
"""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from twin.coding.imports.paths import nearness
from twin.records import Import

_SUFFIXES: Final = (".py", "/__init__.py", ".pyi", "/__init__.pyi", ".pyw")
_ROOT_FILES: Final = ("setup.py", "conftest.py", "noxfile.py", "manage.py")
"""A folder that holds one of these is put on the path by the tool that reads it."""


def resolver(files: Mapping[str, object]) -> Callable[[str, Import], Iterable[str]]:
    return _Resolver(files).resolve


class _Resolver:
    def __init__(self, files: Mapping[str, object]) -> None:
        self.paths = files.keys()
        self.packages = {
            path.rpartition("/")[0]
            for path in files
            if path.rpartition("/")[2].startswith("__init__.")
        }
        self.holders: defaultdict[str, set[str]] = defaultdict(set)
        """Name to the folders that hold a module or folder of that name."""
        self.roots = {""}
        folders = set()
        for path in files:
            folder, _, name = path.rpartition("/")
            folders.add(folder)
            self.holders[name.rpartition(".")[0]].add(folder)
            if name in _ROOT_FILES:
                self.roots.add(folder)
        for folder in folders:
            while folder:
                parent, _, name = folder.rpartition("/")
                held = self.holders[name]
                if parent in held:
                    break
                held.add(parent)
                if name == "src":
                    self.roots.add(folder)
                if folder in self.packages:
                    self.roots.add(parent)
                folder = parent
        self.roots -= self.packages
        self.ordered: dict[tuple[str, str], list[str]] = {}
        self.found: dict[tuple[str, str, tuple[str, ...], int], tuple[str, ...]] = {}

    def resolve(self, importer: str, item: Import) -> Iterable[str]:
        folder = importer.rpartition("/")[0]
        key = (folder, item.module, item.names, item.level)
        known = self.found.get(key)
        if known is None:
            known = self.found[key] = self._find(folder, item)
        return known

    def _find(self, folder: str, item: Import) -> tuple[str, ...]:
        if item.level:
            for _ in range(item.level - 1):
                if not folder:
                    return ()
                folder = folder.rpartition("/")[0]
            return self._under(folder, item)
        if not item.module:
            return ()
        for root in self._roots_for(item.module, folder):
            found = self._under(root, item)
            if found:
                return found
        return ()

    def _under(self, base: str, item: Import) -> tuple[str, ...]:
        """The files that an import means if its module is looked for in `base`."""
        inner = item.module.replace(".", "/")
        where = f"{base}/{inner}" if base and inner else base or inner
        module = self._file(where)
        if not item.names:
            return (module,) if module else ()
        found: dict[str, None] = {}
        for name in item.names:
            target = self._file(f"{where}/{name}" if where else name) or module
            if target:
                found[target] = None
        return tuple(found)

    def _file(self, stem: str) -> str | None:
        """The file of a module given as a path without suffix."""
        for suffix in _SUFFIXES:
            if stem + suffix in self.paths:
                return stem + suffix
        # The repository's top folder is the package itself: `from . import x` at the top.
        return "__init__.py" if not stem and "__init__.py" in self.paths else None

    def _roots_for(self, module: str, folder: str) -> list[str]:
        """The folders in which to look, the most plausible first."""
        top, _, inner = module.partition(".")
        key = (folder, top + "." * bool(inner))
        known = self.ordered.get(key)
        if known is not None:
            return known
        standard = top in sys.stdlib_module_names
        scored = []
        for root in self.holders.get(top, ()):
            if root in self.packages:
                continue  # `import logging` next to the package's own `logging.py` means the other
            above = not root or folder == root or folder.startswith(root + "/")
            listed = root in self.roots
            if standard and not listed:
                continue
            if not (above or listed or inner):
                continue
            scored.append((not above, not listed, -nearness(root, folder), root.count("/"), root))
        known = self.ordered[key] = [entry[-1] for entry in sorted(scored)]
        return known
