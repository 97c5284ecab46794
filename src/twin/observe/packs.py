"""A repository with everything its tests need, in one folder that works without a network.

    NAME/manifest.json   what is in it: commits, environments, a checksum of every file
    NAME/repo/           a bare clone
    NAME/packages/       wheels, each once
    NAME/locks/          exact versions, one file an environment
    NAME/built/          what the project's own build adds to its tree, one folder an environment

Owns the use of one: `open_pack` refuses what was damaged or edited. `packing` makes them.
"""

import errno
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from twin.coding.git import GitRepository
from twin.coding.gitprocess import surroundings
from twin.coding.testing.results import TestEnvironment
from twin.errors import PackDamaged, RepositoryError, UsageError
from twin.observe import environments
from twin.observe.environments import NO_SPACE, Lock
from twin.observe.interpreters import find_interpreter
from twin.observe.manifest import MANIFEST, Manifest, digests, machine, read_manifest

PRETENDED: Final = "999.0.0"
"""For projects that ask git for their version: newer than any that their own tests require."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """An opened pack, with a place of its own for environments."""

    folder: Path
    manifest: Manifest | None
    place: Path
    pythons: Mapping[str, Path]
    """The interpreters that its environments need, by major and minor version."""

    def repository(self) -> GitRepository:
        """Its repository; the caller closes it."""
        assert self.manifest is not None
        return GitRepository.bare(self.folder / "repo", self.manifest.name)

    def environment(self, key: str) -> TestEnvironment:
        """An environment, made from the pack's wheels where it is not there yet. Raises
        EnvironmentFailed."""
        lock = self.lock(key)
        packages, python = self.folder / "packages", self.pythons[lock.python]
        made = environments.make(lock, packages, self.place, python)
        return self.environment_in(key, made)

    def lock(self, key: str) -> Lock:
        """The exact versions of an environment of its manifest."""
        assert self.manifest is not None
        told = self.manifest.environment(key)
        assert told is not None
        text = (self.folder / "locks" / f"{key}.txt").read_text()
        return Lock(text=text, until=told.until, python=told.python)

    def environment_in(self, key: str, python: Path) -> TestEnvironment:
        """The same, of a Python that is there."""
        built = self.folder / "built" / key
        within = built / "within"
        return TestEnvironment(
            python=python,
            last=(built / "beside",),
            files={
                str(path.relative_to(within)): path.read_bytes()
                for path in sorted(within.rglob("*"))
                if path.is_file()
            },
            variables={"SETUPTOOLS_SCM_PRETEND_VERSION": PRETENDED},
        )


def open_pack(folder: Path, place: Path, *, check: bool = True) -> Packed:
    """A pack whose every file is as it was written (not looked at again without `check`). `place`
    is for its environments.

    Raises UsageError where there is none, PackDamaged where something is missing, altered or added,
    and where it is for another kind of machine, MissingRequirement where no interpreter of its
    versions is found here.
    """
    manifest = read_manifest(folder)
    if manifest.machine != machine():
        raise PackDamaged(
            f"{folder} is for {manifest.machine}, and this is {machine()}. Pack the repository "
            "again on such a machine."
        )
    pythons = {version: find_interpreter(version).path for version in manifest.pythons}
    found = {str(path): digest for path, digest in digests(folder)} if check else manifest.files
    for path in sorted(found.keys() | manifest.files.keys()):
        if found.get(path) != manifest.files.get(path):
            what = "is missing" if path not in found else "is not as it was packed"
            raise PackDamaged(f"{folder / path} {what}. Copy the pack again, or make it anew.")
    return Packed(
        folder=folder.absolute(), manifest=manifest, place=place.absolute(), pythons=pythons
    )


def clone(root: Path, place: Path, *options: str) -> None:
    """A clone that shares nothing with the original and has no hook of anybody's. Raises
    RepositoryError."""
    done = subprocess.run(
        ["git", "clone", "--quiet", "--no-hardlinks", "--template=", *options, "--",
         str(root), str(place)],
        env=surroundings() | {"GIT_ALLOW_PROTOCOL": "file"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    if done.returncode != 0:
        if NO_SPACE in done.stderr:
            raise OSError(errno.ENOSPC, NO_SPACE, str(place))
        raise RepositoryError(
            f"git cannot clone {root}: {done.stderr.strip()}. `git -C {root} fsck` says more."
        )


def find_packs(folder: Path) -> Iterator[tuple[Path, Manifest | str]]:
    """Every pack in a folder, or the folder itself; a damaged one with the reason."""
    for path in sorted({folder, *(entry for entry in folder.iterdir() if entry.is_dir())}):
        if (path / MANIFEST).is_file():
            try:
                yield path, read_manifest(path)
            except (PackDamaged, UsageError) as error:
                yield path, str(error)
