"""What every command is given: which repository, which configuration, and the way to its store.

Owns the shared option `--json` and the opening of the store in the right place. Opens nothing
before a command asks for it, so that `doctor` works where the store does not.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from twin.config import Config, load_config
from twin.errors import RepositoryError

if TYPE_CHECKING:
    from twin.coding.git import GitRepository
    from twin.store.database import Store

MAX_STDIN = 1_000_000
"""Bytes of a task that are read; what is longer is no task."""

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A repository that can be learnt from, its configuration and its open store."""

    repository: "GitRepository"
    store: "Store"
    config: Config


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """The options before the command's name."""

    repo: Path
    config_file: Path | None

    def root(self) -> Path:
        """The repository's top folder. Raises RepositoryError where there is none."""
        if not self.repo.is_dir():
            raise RepositoryError(
                f"{self.repo} is not a folder. Give `--repo` a repository's path."
            )
        return top_level(self.repo.resolve())

    def home(self) -> Path:
        """The repository's top folder or, outside of any, the folder itself: whoever serves or
        looks up calls need not stand in a repository."""
        try:
            return self.root()
        except RepositoryError:
            if not self.repo.is_dir():
                raise
            return self.repo.resolve()

    @contextmanager
    def home_store(self) -> Iterator[tuple[Path, Config, "Store"]]:
        """The folder of `home`, its configuration and its open store, closed at the end."""
        from twin.store.database import open_store

        home = self.home()
        config = load_config(home, self.config_file)
        with open_store(home, config.store.url) as store:
            yield home, config, store

    def config(self) -> Config:
        """The configuration of this repository."""
        return load_config(self.root(), self.config_file)

    @contextmanager
    def store(self) -> Iterator["Store"]:
        """The open store of this repository, closed at the end."""
        from twin.store.database import open_store

        store = open_store(self.root(), self.config().store.url)
        try:
            yield store
        finally:
            store.close()

    @contextmanager
    def place(self, path: Path | None = None, *, needs_sources: bool = True) -> Iterator[Place]:
        """The repository around `path`, or around `--repo`, with its store; closed at the end.

        Everything that can be wrong with the repository or its configuration is found before the
        store is made, so that a wrong path leaves nothing behind.
        """
        from twin.coding.git import GitRepository
        from twin.cycle.past import require_sources
        from twin.store.database import open_store

        with GitRepository.open(self.repo if path is None else path) as repository:
            config = load_config(repository.root, self.config_file)
            if needs_sources:
                require_sources(repository)
            with open_store(repository.root, config.store.url) as store:
                yield Place(repository=repository, store=store, config=config)


def top_level(folder: Path) -> Path:
    """The nearest folder upwards that holds `.git`, found without starting git.

    Commands that only look things up need no more; `coding.git` checks the repository thoroughly
    before anything is learnt from it.
    """
    for candidate in (folder, *folder.parents):
        if (candidate / ".git").exists():
            return candidate
    raise RepositoryError(
        f"{folder} is not inside a git repository. Give `--repo` the path of one, or run "
        "`git init` there."
    )


def json_option(command: Command) -> Command:
    """Adds `--json` to a command; its function receives `as_json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print JSON on stdout, for programs."
    )(command)


def path_argument(command: Command) -> Command:
    """Adds PATH to a command; its function receives `path`, None where `--repo` decides."""
    return click.argument("path", required=False, type=click.Path(path_type=Path))(command)


def task_argument(command: Command) -> Command:
    """Adds TASK to a command; its function receives `task`, read from stdin where it is `-`."""
    return click.argument("task", callback=_task)(command)


def _task(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    if value != "-":
        return value
    return sys.stdin.buffer.read(MAX_STDIN).decode("utf-8", "replace")


pass_door = click.make_pass_decorator(Door)
