"""Whole histories, made in a fraction of a second by `git fast-import`."""

import hashlib
import importlib.metadata
import os
import random
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from tests.observe.small_project import NEEDED, wheel_of

from twin.coding.testing.results import TestEnvironment
from twin.observe import environments
from twin.observe.environments import Lock

# Before torch is imported anywhere: threads that wait for each other cost small tests more than
# they give, above all beside other work. What is about threads asks for them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

WORDS = [
    "acorn", "badger", "cobalt", "dagger", "ember", "falcon", "garnet", "hazel", "indigo", "jasper",
    "kestrel", "lantern", "marble", "nectar", "otter", "pepper", "quartz", "raven", "saffron",
    "timber", "umber", "velvet", "walnut", "zephyr",
]  # fmt: skip
START = 1_700_000_000
HOURS = 3600


Change = tuple[str, Mapping[str, str | bytes]]
"""What one commit says, and the files that it writes whole."""


def file_of(word: str, version: int) -> str:
    """A source that is all about its word."""
    return (
        f'"""Keeps the {word} in order."""\n\n\nclass {word.title()}:\n'
        f"    def adjust_{word}(self) -> int:\n        return {version}  # {word}\n"
    )


def perverse(num_commits: int, *, shuffled: bool = False) -> list[Change]:
    """A history whose words name one file and whose changes are in another, always the same one.

    Text, names and paths mislead here; only who reads the history finds the place. `shuffled`
    changes any file instead, so that there is nothing to be learnt.
    """
    chance = random.Random(7)
    changes: list[Change] = [("Begin", {f"src/{word}.py": file_of(word, 0) for word in WORDS})]
    for number in range(1, num_commits):
        at = chance.randrange(len(WORDS))
        place = chance.randrange(len(WORDS)) if shuffled else (at + 5) % len(WORDS)
        word, changed = WORDS[at], WORDS[place]
        message = f"Adjust the {word} so that it keeps in order, part {number}"
        changes.append((message, {f"src/{changed}.py": file_of(changed, number)}))
    return changes


def make_repository(root: Path, changes: list[Change], *, hours_between: int = 12) -> Path:
    """A repository with one commit per change; the same changes give the same commit ids."""
    root.mkdir(parents=True)
    git(root, "init", "-q", "-b", "main")
    stream = bytearray()
    for number, (text, files) in enumerate(changes):
        message = text.encode("utf-8", "surrogateescape")
        who = f"Ada <ada@example.org> {START + number * hours_between * HOURS} +0000\n"
        stream += b"commit refs/heads/main\n" + f"author {who}committer {who}".encode()
        stream += b"data %d\n%s\n" % (len(message), message)
        for path, data in files.items():
            data = data.encode() if isinstance(data, str) else data
            stream += b"M 100644 inline %s\ndata %d\n%s\n" % (os.fsencode(path), len(data), data)
    git(root, "fast-import", "--quiet", given=bytes(stream))
    git(root, "checkout", "-q", "-f", "main")
    return root


def git(root: Path, *arguments: str, given: bytes | None = None, **extra: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")} | extra
    done = subprocess.run(
        ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org", *arguments],
        cwd=root,
        env=environment | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"},
        input=given,
        stdin=subprocess.DEVNULL if given is None else None,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return os.fsdecode(done.stdout).strip()


@pytest.fixture
def new_history(tmp_path: Path) -> Callable[..., Path]:
    """Makes a perverse repository of the given number of commits."""

    def make(num_commits: int, name: str = "world", **how: bool) -> Path:
        return make_repository(tmp_path / name, perverse(num_commits, **how))

    return make


@pytest.fixture(scope="session")
def new_world() -> Callable[[Path, int], Path]:
    """The same in any folder, for what several tests share."""
    return lambda root, num_commits: make_repository(root, perverse(num_commits))


@pytest.fixture
def new_repository(tmp_path: Path) -> Callable[..., Path]:
    """Makes a repository of the given changes."""

    def make(*changes: Change, name: str = "world") -> Path:
        return make_repository(tmp_path / name, list(changes))

    return make


@pytest.fixture
def run_git() -> Callable[..., str]:
    """Runs git in a folder as somebody with a name, and gives what it says."""
    return git


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    for name in NEEDED:
        wheel_of(name, folder)
    return folder


@pytest.fixture(scope="session")
def small_environment(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> TestEnvironment:
    """A Python with pytest and nothing else, its modules compiled: ours loads many plug-ins."""
    versions = {name: importlib.metadata.version(name) for name in NEEDED}
    files = {path.name.partition("-")[0]: path for path in wheels.iterdir()}
    text = "\n".join(
        f"{name}=={version} --hash=sha256:{hashlib.sha256(files[name].read_bytes()).hexdigest()}"
        for name, version in versions.items()
    )
    place = tmp_path_factory.mktemp("environments")
    python = environments.make(Lock(text=text, until=""), wheels, place, environments.own_python())
    return TestEnvironment(python=python)


def no_network(monkeypatch: pytest.MonkeyPatch, wheels: Path) -> None:
    """uv and pip see nothing but the local wheels."""
    for program in ("UV", "PIP"):
        monkeypatch.setenv(f"{program}_NO_INDEX", "1")
        monkeypatch.setenv(f"{program}_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")


@pytest.fixture
def no_index(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_network(monkeypatch, wheels)
