"""Makes a place to work by hand from a pack: a clone with a work tree, and an environment in it.

For whoever wants to see why a commit's tests do what they do: the same versions, the same paths to
import from, no sandbox. Runs nothing of the project; what is run later by hand runs unconfined.
"""

import os
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from twin.coding.git import GitRepository
from twin.coding.gitprocess import ask
from twin.coding.history import read_history
from twin.coding.paths import role_of
from twin.coding.testing.options import FILES, own_options
from twin.coding.testing.trees import Tree
from twin.errors import EnvironmentFailed, PackDamaged, RepositoryError, UsageError
from twin.observe import environments
from twin.observe.drafts import draft_of
from twin.observe.interpreters import find_interpreter
from twin.observe.manifest import Manifest, PackedEnvironment
from twin.observe.packs import Packed, clone, open_pack
from twin.observe.validate import TEST_MODULE

VENV: Final = ".venv"
BESIDE: Final = "project"
"""In the environment: what the project's build adds beside its tree."""
NO_LFS: Final = ("-c", "filter.lfs.required=false", "-c", "filter.lfs.smudge=", "-c",
                 "filter.lfs.process=")  # fmt: skip
"""Large files lie on a server that is not asked: their pointers are what is checked out."""
STEADY: Final = {"PYTHONHASHSEED": "0", "TZ": "UTC", "LC_ALL": "C.UTF-8"}
# As in runs: the tree comes before whatever else is installed. Found from where the environment
# is, so that the folder can be moved.
PTH: Final = (
    "import os, sys; sys.path[:0] = [os.path.normpath(os.path.join(sys.prefix, path)) "
    "for path in {paths!r}]\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpacked:
    """A folder to work in."""

    folder: Path
    commit_id: str
    environment: str
    """The key of its environment."""
    python: Path
    fault: str
    """Why the environment does not count; empty where it does."""
    is_own: bool
    """Whether it was resolved for this very commit; else it is of the nearest one that was."""
    tests: tuple[str, ...]
    """The test files that the commit changed; none means the whole suite."""
    command: str
    """Runs these tests; for a shell."""


def unpack(pack: Path, into: Path | None = None, *, at: str = "HEAD") -> Unpacked:
    """Unpacks a pack `at` a commit `into` a folder that must not exist (by default one with the
    project's name, here). Complete or absent: it is made beside it and renamed at the end.

    Raises what `open_pack` raises; UsageError, RepositoryError for a commit that is not in it,
    EnvironmentFailed where no environment can be made.
    """
    # The place is for runs in the sandbox, of which there are none.
    packed = open_pack(pack, Path(os.devnull))
    assert packed.manifest is not None
    folder = (into or Path(packed.manifest.name)).absolute()
    with (
        draft_of(folder, "Give another one with `--into`.") as draft,
        packed.repository() as repository,
    ):
        return _Unpacking(packed, packed.manifest, repository, draft, folder).at(at)


class _Unpacking:
    def __init__(
        self,
        packed: Packed,
        manifest: Manifest,
        repository: GitRepository,
        draft: Path,
        folder: Path,
    ) -> None:
        self.packed = packed
        self.manifest = manifest
        self.repository = repository
        self.draft = draft
        self.folder = folder

    def at(self, revision: str) -> Unpacked:
        commit_id = self.repository.resolve(revision)
        told, is_own = self._environment(commit_id)
        self._clone(commit_id, is_head=revision == "HEAD")
        lock = self.packed.lock(told.key)
        python = find_interpreter(told.python).path
        packages = self.packed.folder / "packages"
        environments.install(lock, packages, self.draft / VENV, python, is_shared=False)
        tree = Tree(self.repository.archive(commit_id))
        environment = self.packed.environment_in(told.key, python)
        self._add(environment.files)
        self._make_importable(tree, environment.last)
        tests = self._tests(commit_id)
        return Unpacked(
            folder=self.folder,
            commit_id=commit_id,
            environment=told.key,
            python=self.folder / VENV / "bin" / "python",
            fault=told.fault,
            is_own=is_own,
            tests=tests,
            command=self._command(tree, tests, environment.variables),
        )

    def _environment(self, commit_id: str) -> tuple[PackedEnvironment, bool]:
        """The commit's own environment, or that of the packed commit nearest in time."""
        whole = {
            one.key: one
            for one in self.manifest.environments
            if (self.packed.folder / "locks" / f"{one.key}.txt").is_file()
        }
        having = [one for one in self.manifest.commits if one.environment in whole]
        for one in having:
            if one.commit_id == commit_id:
                return whole[one.environment], True
        having = [one for one in having if not whole[one.environment].fault] or having
        if not having:
            faults = [one.fault for one in self.manifest.environments]
            why = next(iter([*self.manifest.failed.values(), *faults]), "it has no commit")
            raise EnvironmentFailed(
                f"{self.packed.folder} has no environment: {why}. Pack the repository again."
            )
        moment = int(ask(self.repository.root, "show", "-s", "--format=%ct", commit_id).text)
        return whole[min(having, key=lambda one: abs(one.time - moment)).environment], False

    def _clone(self, commit_id: str, *, is_head: bool) -> None:
        """A clone of its own, with no hook of anybody's."""
        clone(self.repository.root, self.draft, "--no-checkout")
        where = [] if is_head else ["--detach", commit_id]
        done = ask(self.draft, *NO_LFS, "checkout", "--quiet", *where)
        if done.returncode != 0:
            raise RepositoryError(
                f"git cannot check out {commit_id[:10]}: {done.stderr.strip()}. Look at the disk, "
                "or make the pack anew."
            )
        if os.path.lexists(self.draft / VENV):
            raise UsageError(
                f"Commit {commit_id[:10]} has a {VENV} of its own, and the environment goes there. "
                "Clone the pack's `repo` by hand."
            )

    def _add(self, files: Mapping[str, bytes]) -> None:
        """What only a build writes into the tree, kept out of git's sight as the environment is."""
        hidden = [f"/{VENV}/"]
        for name, content in files.items():
            path = self.draft / name
            if os.path.lexists(path):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.parent.resolve().is_relative_to(self.draft.resolve()):
                raise PackDamaged(f"{name} leads out of the work tree. Make the pack anew.")
            path.write_bytes(content)
            hidden.append(f"/{name}")
        (self.draft / ".git" / "info").mkdir(exist_ok=True)
        (self.draft / ".git" / "info" / "exclude").write_text("\n".join(hidden) + "\n")

    def _make_importable(self, tree: Tree, beside: tuple[Path, ...]) -> None:
        home = self.draft / VENV
        for folder in beside:
            shutil.copytree(folder, home / BESIDE, dirs_exist_ok=True)
        (packages,) = home.glob("lib/python3*/site-packages")
        paths = [*(f"../{root}" for root in tree.roots), BESIDE]
        (packages / "twin_project.pth").write_text(PTH.format(paths=paths))

    def _tests(self, commit_id: str) -> tuple[str, ...]:
        if not any(one.commit_id == commit_id for one in self.manifest.commits):
            return ()
        (commit,) = read_history(self.repository, revision=commit_id, since=f"{commit_id}^")
        return tuple(
            change.path
            for change in commit.changes
            if change.status != "D"
            and role_of(change.path) == "test"
            and TEST_MODULE.fullmatch(change.path)
        )

    def _command(self, tree: Tree, tests: tuple[str, ...], variables: Mapping[str, str]) -> str:
        told = [f"{name}={value}" for name, value in {**STEADY, **variables}.items()]
        options = own_options(tree.texts(FILES))
        line = [f"{VENV}/bin/pytest", "-p", "no:randomly", "-o", "addopts=", *options, "--", *tests]
        place = shlex.quote(str(self.folder))
        return f"cd {place} && {' '.join(told)} {shlex.join(line if tests else line[:-1])}"
