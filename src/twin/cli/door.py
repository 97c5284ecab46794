"""What every command is given: which repository, which configuration, and the way to its store.

Owns the shared option `--json` and the opening of the store in the right place. Opens nothing
before a command asks for it, so that `doctor` works where the store does not.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from twin.config import Config, load_config
from twin.errors import RepositoryError

if TYPE_CHECKING:
    from twin.store.database import Store

Command = TypeVar("Command", bound=Callable[..., Any])


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


pass_door = click.make_pass_decorator(Door)
