"""Imports point down: a room imports only lower rooms, and the stages never import one another.

docs/architecture.md draws the picture that this test holds. Imports inside functions count too.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "twin"
LAYERS = [
    {"cli"},
    {"cycle"},
    {"observe", "curate", "train", "gate", "serve"},
    {"coding"},
    {"backends"},
    {"store", "specialists", "lm"},
    {"config"},
    {"records"},
    {"errors"},
]
HEIGHT = {room: -depth for depth, rooms in enumerate(LAYERS) for room in rooms}
SEALED = {("lm", "config"), ("lm", "records"), ("lm", "errors")}
"""`lm` could be lifted out whole: it imports nothing of ours, not even the nouns."""


def room_of(path: Path, src: Path) -> str:
    return path.relative_to(src).parts[0].removesuffix(".py")


def imported_modules(path: Path, src: Path) -> Iterator[str]:
    """Every module that a file imports anywhere in it, relative imports made absolute."""
    package = ("twin", *path.relative_to(src).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            # `from twin import gate` names a room after the `import`.
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            yield from (a.value for a in node.args[:1] if isinstance(a, ast.Constant))


def faults(src: Path) -> list[str]:
    found = []
    for path in sorted(src.rglob("*.py")):
        here = room_of(path, src)
        for module in imported_modules(path, src):
            first, _, rest = module.partition(".")
            there = rest.partition(".")[0]
            if first == "torch" and here == "serve":
                found.append(f"{path}: serve imports torch; it comes only through backends")
            if first != "twin" or here == there or there not in HEIGHT or here not in HEIGHT:
                continue
            if HEIGHT[there] >= HEIGHT[here] or (here, there) in SEALED:
                found.append(f"{path}: {here} imports {there}")
    return found


def test_imports_point_down() -> None:
    assert not faults(SRC), "\n".join(faults(SRC))


def test_every_room_has_a_height() -> None:
    rooms = {room_of(path, SRC) for path in SRC.rglob("*.py")} - {"__init__"}
    assert rooms <= HEIGHT.keys(), f"give {rooms - HEIGHT.keys()} a height in LAYERS"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("gate/promote.py", "from twin.train import relevance"),
        ("gate/promote.py", "def late():\n    import twin.train.relevance"),
        ("gate/promote.py", "from ..train import relevance"),
        ("gate/promote.py", "from .. import train"),
        ("gate/promote.py", "import importlib\nimportlib.import_module('twin.train.relevance')"),
        (
            "gate/promote.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import twin.cli",
        ),
        ("records.py", "import twin.config"),
        ("store/runs.py", "from twin import coding"),
        ("serve/gateway.py", "def late():\n    import torch.nn"),
        ("lm/layers.py", "from twin.errors import TwinError"),
        ("cycle.py", "import twin.cli.show"),
    ],
)
def test_an_import_that_points_up_is_found(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text, encoding="utf-8")
    assert len(faults(tmp_path)) == 1


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("gate/promote.py", "from twin.records import Verdict\nimport twin.store.registry"),
        ("gate/promote.py", "from twin.gate import metrics\nfrom . import verdict\nimport numpy"),
        ("lm/layers.py", "import torch\nfrom twin.lm import rwkv"),
        ("cli/main.py", "from twin import __version__\nimport twin.cycle"),
    ],
)
def test_an_import_that_points_down_is_fine(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text, encoding="utf-8")
    assert not faults(tmp_path)
