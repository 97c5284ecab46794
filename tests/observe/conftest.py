"""Histories whose commits have tests, a validator for them, and a pack."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tests.coding.conftest import World
from tests.conftest import no_network
from tests.observe.small_project import FIRST, SECOND

from twin.coding.git import GitRepository
from twin.coding.history import read_history
from twin.coding.sandbox.cell import Sandbox, open_sandbox
from twin.coding.testing.results import TestEnvironment
from twin.config import MineConfig
from twin.cycle.harness import all_sides_of
from twin.observe.interpreters import Interpreter
from twin.observe.manifest import Manifest
from twin.observe.mine import mine
from twin.observe.packing import pack
from twin.observe.provable import qualifying
from twin.observe.validate import Validator
from twin.records import Validation


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "world")


@pytest.fixture(scope="session")
def sandbox() -> Sandbox:
    return open_sandbox()


@pytest.fixture
def validated(
    world: World, sandbox: Sandbox, small_environment: TestEnvironment
) -> Callable[..., Validation]:
    """Validates the newest commit of the world."""

    def validate(**how: object) -> Validation:
        with GitRepository.open(world.root) as repository:
            *_, newest = read_history(repository)
            return Validator(repository, sandbox, small_environment, **how).validate(newest)  # type: ignore[arg-type]

    return validate


@pytest.fixture(scope="session")
def original(sandbox: Sandbox, wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack that many tests copy."""
    root = tmp_path_factory.mktemp("original")
    with pytest.MonkeyPatch.context() as patched:
        no_network(patched, wheels)
        packing(World(root / "world"), sandbox, root / "world.pack", FIRST, SECOND)
    return root / "world.pack"


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A pack of one commit."""
    return Path(shutil.copytree(original, tmp_path / "world.pack", symlinks=True))


def packing(
    world: World,
    sandbox: Sandbox,
    out: Path,
    *commits: dict[str, str | None],
    pythons: tuple[Interpreter, ...] = (),
) -> Manifest:
    world.grow(*(("Make add add its numbers instead", files) for files in commits))
    with GitRepository.open(world.root) as repository:
        mined = list(mine(read_history(repository), MineConfig()))
        wanted, counts = qualifying(mined, MineConfig(), partial(all_sides_of, repository))
        return pack(repository, wanted, out, sandbox, pythons=pythons, counts=counts)
