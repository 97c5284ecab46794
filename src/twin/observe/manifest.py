"""What a pack says of itself: its commits, its environments, a checksum of every file.

Owns the format of `manifest.json` and its checks. An environment is listed with its verdict: it
counts only if most of the tests pass in it, and commits of one that does not say why. Format 1,
which knew one interpreter and no attrition, is still read.
"""

import hashlib
import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from twin.errors import PackDamaged, UsageError
from twin.observe.mine import AttritionRow

FORMAT: Final = 2
READABLE: Final = (1, FORMAT)
MANIFEST: Final = "manifest.json"


class PackedCommit(msgspec.Struct, frozen=True, kw_only=True):
    """A commit worth validating."""

    commit_id: str
    parent_id: str
    time: int
    environment: str
    """The key of its environment; empty where none could be made."""
    labels: tuple[str, ...]
    message_score: float
    num_source_files: int
    num_test_files: int


class PackedEnvironment(msgspec.Struct, frozen=True, kw_only=True):
    """The versions that a span of commits is tested with."""

    key: str
    python: str = ""
    """Major and minor version of its interpreter, as `3.11`."""
    until: str
    """The day as of which they were resolved."""
    packages: dict[str, str]
    left_out: list[str]
    """Needs that could not be met together with the others."""
    num_commits: int
    tried_on: str
    """The commit whose suite decided."""
    num_tests: int = 0
    num_passing: int = 0
    built: str = ""
    """Why the project itself could not be built; empty where it was."""
    fault: str = ""
    """Why it does not count; empty where it does."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a pack says of itself."""

    format: int
    name: str
    head: str
    python: str
    """The first of its interpreters, as `3.11`; each environment has one of its own."""
    machine: str
    """`Linux-x86_64`: wheels are for one kind of machine."""
    made_at: float
    commits: list[PackedCommit]
    environments: list[PackedEnvironment]
    failed: dict[str, str]
    """Commit id -> why no environment could be resolved for it."""
    attrition: list[AttritionRow] = []
    """From all commits of the history to those that were packed, one row a rule; empty where it was
    not counted."""
    files: dict[str, str]
    """Path in the pack -> SHA-256."""
    checksum: str = ""
    """Of all the rest, so that an edited manifest shows."""

    def environment(self, key: str) -> PackedEnvironment | None:
        """The environment of that key."""
        return next((one for one in self.environments if one.key == key), None)

    @property
    def pythons(self) -> list[str]:
        """The versions of the interpreters that its environments need."""
        needed = [one.python for one in self.environments if not one.fault]
        return list(dict.fromkeys(needed)) or [self.python]


def sealed(manifest: Manifest) -> bytes:
    """The manifest as it is written, with its checksum."""
    told = msgspec.to_builtins(manifest)
    whole = msgspec.structs.replace(manifest, checksum=_digest(told))
    return msgspec.json.format(msgspec.json.encode(whole))


def _digest(told: dict[str, Any]) -> str:
    """Of what stands there, not of what this version knows of it: other formats keep theirs."""
    bare = json.dumps(told | {"checksum": ""}, sort_keys=True)
    return hashlib.sha256(bare.encode()).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """The manifest alone, checked. Raises UsageError or PackDamaged."""
    path = folder / MANIFEST
    try:
        data = path.read_bytes()
        manifest = msgspec.json.decode(data, type=Manifest)
        told = json.loads(data)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(
            f"{folder} is no pack: it has no {MANIFEST}. `twin pack` makes one."
        ) from error
    except (msgspec.DecodeError, ValueError) as error:
        raise PackDamaged(f"{path} cannot be read: {error}. Copy the pack again.") from error
    if manifest.format not in READABLE:
        raise PackDamaged(f"{path} has format {manifest.format}, not {FORMAT}. Pack it again.")
    if manifest.checksum != _digest(told):
        raise PackDamaged(f"{path} was edited after it was written. Pack the repository again.")
    each = [
        msgspec.structs.replace(one, python=one.python or manifest.python)
        for one in manifest.environments
    ]
    return msgspec.structs.replace(manifest, environments=each)


def machine() -> str:
    """What wheels are for: system and processor."""
    return f"{platform.system()}-{platform.machine()}"


def digests(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every file of a pack but the manifest, by its path in the pack, with its SHA-256. Raises
    PackDamaged for a link, which could lead out."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise PackDamaged(f"{path} is a link, which no pack has. Copy the pack again.")
        if path.is_file() and path.relative_to(folder) != Path(MANIFEST):
            with open(path, "rb") as file:
                yield path.relative_to(folder), hashlib.file_digest(file, "sha256").hexdigest()
