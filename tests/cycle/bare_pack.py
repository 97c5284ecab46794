"""A pack of two commits without environments: for what runs no tests."""

import hashlib
import subprocess
from itertools import pairwise
from pathlib import Path

from tests.coding.conftest import World

from twin.observe.interpreters import own_interpreter
from twin.observe.manifest import FORMAT, MANIFEST, Manifest, PackedCommit, machine, sealed

FIRST = {
    "calc/core.py": "def add(a, b):\n    return a - b\n\n\ndef sub(a, b):\n    return a - b\n",
    "calc/more.py": "from calc.core import add\n\n\ndef twice(a):\n    return add(a, a)\n",
    "tests/test_core.py": "def test_sub(): pass\n",
}
SECOND = {
    "calc/core.py": FIRST["calc/core.py"].replace("a - b", "a + b  # SECRET_OF_IT", 1)
    + "\n\ndef secret(): pass\n",
    "calc/secret.py": "def helper(): pass\n",
    "tests/test_core.py": "def test_add(): pass\n",
    "tests/test_hidden.py": "def test_hidden(): pass\n",
}
THIRD = {
    "calc/more.py": FIRST["calc/more.py"].replace("add(a, a)", "2 * a  # FUTURE"),
    "calc/future.py": "def add_future(): pass\n",
    "tests/test_core.py": "def test_twice(): pass\n",
}
MESSAGES = ("Begin", "Make add add its numbers instead", "Multiply instead of adding in twice")


def write_pack(place: Path) -> list[str]:
    """Makes `calc.pack` of a small world; its commits, the first of which is only a parent."""
    world = World(place / "world")
    made = world.grow(*zip(MESSAGES, (FIRST, SECOND, THIRD), strict=True))
    folder = place / "calc.pack"
    subprocess.run(
        ["git", "clone", "-q", "--bare", str(world.root), str(folder / "repo")], check=True
    )
    manifest = Manifest(
        format=FORMAT,
        name="ada/calc",
        head=made[-1],
        python=own_interpreter().version,
        machine=machine(),
        made_at=0.0,
        commits=[
            PackedCommit(
                commit_id=commit, parent_id=parent, time=number, environment="e", labels=(),
                message_score=1.0, num_source_files=1, num_test_files=1,
            )
            for number, (parent, commit) in enumerate(pairwise(made))
        ],
        environments=[],
        failed={},
        files={
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*")
            if path.is_file()
        },
    )  # fmt: skip
    (folder / MANIFEST).write_bytes(sealed(manifest))
    return made
