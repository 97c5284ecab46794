"""Makes a pack of a repository while there is a network; `packs` says what is in one.

Owns which commits share an environment, on which interpreter, and how an environment is tried: it
counts only if most of the tests pass in it (`MIN_PASSING`). Does not run a commit's tests before
and after (`validate`).
"""

import contextlib
import errno
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from twin.coding.git import GitRepository
from twin.coding.sandbox.cell import Sandbox
from twin.coding.sandbox.limits import Limits
from twin.coding.testing.results import Selection
from twin.coding.testing.run import run_tests
from twin.coding.testing.trees import Tree
from twin.errors import EnvironmentFailed
from twin.observe import environments
from twin.observe.building import BuildFailed, Built, build
from twin.observe.drafts import draft_of
from twin.observe.environments import Lock
from twin.observe.interpreters import Interpreter, own_interpreter, suiting
from twin.observe.manifest import (
    FORMAT,
    MANIFEST,
    Manifest,
    PackedCommit,
    PackedEnvironment,
    digests,
    machine,
    read_manifest,
    sealed,
)
from twin.observe.mine import AttritionRow
from twin.observe.packs import PRETENDED, Packed, clone
from twin.observe.requirements import Needs, is_wanted, needs
from twin.records import Commit, MinedCommit

MIN_PASSING: Final = 0.8
"""An environment in which more of the tests fail says little about a commit."""
SUITE_S: Final = 600

Tell = Callable[[str, int, int], None]


def pack(
    repository: GitRepository,
    commits: Sequence[MinedCommit],
    out: Path,
    sandbox: Sandbox,
    *,
    pythons: Sequence[Interpreter] = (),
    counts: Sequence[AttritionRow] = (),
    tell: Tell | None = None,
) -> Manifest:
    """Writes a pack of these commits to `out`, which must not exist; asks a package index.

    Each commit gets the first of the `pythons` (this program's own without any) that it allows and
    that its suite passes on. Complete or absent: it is made beside `out` and renamed at the end.
    """
    with draft_of(out, "Give another folder, or remove it.") as draft:
        packing = _Packing(repository, draft, sandbox, pythons or [own_interpreter()])
        return packing.make(commits, counts, tell or (lambda what, done, total: None))


class _Packing:
    def __init__(
        self,
        repository: GitRepository,
        draft: Path,
        sandbox: Sandbox,
        pythons: Sequence[Interpreter],
    ) -> None:
        self.repository = repository
        self.draft = draft
        self.sandbox = sandbox
        # Of several of one version the first counts.
        self.pythons = list({one.version: one for one in reversed(pythons)}.values())[::-1]
        self.failed: dict[str, str] = {}
        self.tried: dict[str, PackedEnvironment] = {}

    def make(
        self, commits: Sequence[MinedCommit], counts: Sequence[AttritionRow], tell: Tell
    ) -> Manifest:
        for folder in ("packages", "locks", "built"):
            (self.draft / folder).mkdir(parents=True)
        clone(self.repository.root, self.draft / "repo", "--bare")
        by_lock = self._resolved(commits, tell)
        keys: dict[str, str] = {}
        for done, (lock, wanted, ones) in enumerate(by_lock):
            tell("trying environments", done, len(by_lock))
            for tried in self._attempts(lock, wanted, ones):
                keys.update({one.commit.commit_id: tried.key for one in ones})
        tell("trying environments", len(by_lock), len(by_lock))
        manifest = Manifest(
            format=FORMAT,
            name=self.repository.name,
            head=self.repository.head(),
            python=self.pythons[0].version,
            machine=machine(),
            made_at=time.time(),
            commits=[_packed(one, keys.get(one.commit.commit_id, "")) for one in commits],
            environments=[
                msgspec.structs.replace(one, num_commits=list(keys.values()).count(one.key))
                for one in self.tried.values()
            ],
            failed=self.failed,
            attrition=list(counts),
            files={str(path): digest for path, digest in digests(self.draft)},
        )
        (self.draft / MANIFEST).write_bytes(sealed(manifest))
        return read_manifest(self.draft)

    def _resolved(
        self, commits: Sequence[MinedCommit], tell: Tell
    ) -> list[tuple[Lock, Needs, list[MinedCommit]]]:
        """Commits by the lock they share, each with the needs of its newest; the newest first, as
        what others come to in the end is judged where it is tried first."""
        groups: dict[str, tuple[Needs, list[MinedCommit]]] = {}
        reader = _NeedsReader(self.repository)
        for done, one in enumerate(commits):
            tell("reading requirements", done, len(commits))
            wanted = reader.of(one.commit.commit_id)
            groups.setdefault(wanted.key, (wanted, []))[1].append(one)
        tell("reading requirements", len(commits), len(commits))
        locks: dict[str, tuple[Lock, Needs, list[MinedCommit]]] = {}
        for done, (wanted, ones) in enumerate(groups.values()):
            tell("resolving versions", done, len(groups))
            try:
                lock = self._first_lock(wanted, ones)
            except EnvironmentFailed as error:
                self.failed.update({one.commit.commit_id: str(error) for one in ones})
                continue
            locks.setdefault(lock.key, (lock, wanted, []))[2].extend(ones)
        tell("resolving versions", len(groups), len(groups))
        return sorted(locks.values(), key=lambda found: -_newest(found[2]).commit_time)

    def _attempts(
        self, lock: Lock, wanted: Needs, ones: list[MinedCommit]
    ) -> Iterator[PackedEnvironment]:
        """The environment and, as long as none counts, others."""
        for one in self._locks(lock, wanted, ones):
            tried = self._once(one, wanted, ones)
            yield tried
            if not tried.fault:
                return

    def _first_lock(self, wanted: Needs, ones: list[MinedCommit]) -> Lock:
        """The needs resolved for the first interpreter on which they can be. Raises
        EnvironmentFailed."""
        allowed = suiting(self.pythons, wanted.requires_python)
        if not allowed:
            raise EnvironmentFailed(
                f"it needs Python {wanted.requires_python}, and the pack was made with "
                f"{', '.join(one.release for one in self.pythons)} (`twin pack --python` takes "
                "others)"
            )
        for number, python in enumerate(allowed, start=1):
            try:
                return environments.resolve(wanted, _newest(ones).commit_time, python.path)
            except EnvironmentFailed:
                if number == len(allowed):
                    raise
        raise AssertionError("one was allowed")

    def _locks(self, lock: Lock, wanted: Needs, ones: list[MinedCommit]) -> Iterator[Lock]:
        """What to try, in order: the lock; the same with the pytest of today, since a project's own
        bounds may ask for one that no longer runs; then both on the other interpreters."""
        yield lock
        free = tuple(
            "pytest" if re.match(r"pytest\b(?!-)", line) else line for line in wanted.tests
        )
        unbound = replace(wanted, tests=free)
        allowed = suiting(self.pythons, wanted.requires_python)
        for python in sorted(allowed, key=lambda one: one.version != lock.python):
            for needed in dict.fromkeys((wanted, unbound)):
                if (needed, python.version) != (wanted, lock.python):
                    with contextlib.suppress(EnvironmentFailed):
                        yield environments.resolve(needed, _newest(ones).commit_time, python.path)

    def _once(self, lock: Lock, wanted: Needs, ones: list[MinedCommit]) -> PackedEnvironment:
        """What came of trying an environment, the first time."""
        if lock.key not in self.tried:
            self.tried[lock.key] = self._tried(lock, wanted, ones)
        return self.tried[lock.key]

    def _tried(self, lock: Lock, wanted: Needs, ones: list[MinedCommit]) -> PackedEnvironment:
        newest = _newest(ones).commit_id
        facts = PackedEnvironment(
            key=lock.key, python=lock.python, until=lock.until, packages=lock.packages,
            left_out=list(lock.left_out), num_commits=len(ones), tried_on=newest,
        )  # fmt: skip
        pythons = {one.version: one.path for one in self.pythons}
        try:
            environments.download(lock, self.draft / "packages")
            place = self.draft / "environments"
            python = environments.make(lock, self.draft / "packages", place, pythons[lock.python])
        except EnvironmentFailed as error:
            return msgspec.structs.replace(facts, fault=str(error))
        (self.draft / "locks" / f"{lock.key}.txt").write_text(lock.text)
        tree = Tree(self.repository.archive(newest))
        try:
            built = build(self.sandbox, tree, wanted, python, PRETENDED)
        except BuildFailed as error:
            built = Built(beside={}, within={})
            facts = msgspec.structs.replace(facts, built=str(error))
        folder = self.draft / "built" / lock.key
        try:
            _write(folder / "beside", built.beside)
            _write(folder / "within", built.within)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            # Names are the project's: too long, or both a file and a folder.
            shutil.rmtree(folder)
            _write(folder / "beside", {})
            _write(folder / "within", {})
            facts = msgspec.structs.replace(
                facts, built=f"what it builds cannot be kept: {error.strerror}"
            )
        packed = Packed(folder=self.draft, manifest=None, place=place, pythons=pythons)
        run = run_tests(
            self.sandbox,
            tree,
            Selection(),
            packed.environment_in(lock.key, python),
            limits=Limits(wall_s=SUITE_S),
        )
        shutil.rmtree(place, ignore_errors=True)
        passing = sum(result.passes for result in run.results.values())
        told = sum(result.passes or result.fails for result in run.results.values())
        broken = len(run.broken)
        fault = ""
        if not told:
            fault = run.fault or "no test ran"
        elif passing < MIN_PASSING * (told + broken):
            fault = f"only {passing} of {told} tests pass, and {broken} files cannot be collected"
        return msgspec.structs.replace(facts, num_tests=told, num_passing=passing, fault=fault)


class _NeedsReader:
    """The needs of commits; files that did not change are read once."""

    def __init__(self, repository: GitRepository) -> None:
        self._repository = repository
        self._known: dict[tuple[tuple[str, str], ...], Needs] = {}

    def of(self, commit_id: str) -> Needs:
        tree = self._repository.tree(commit_id)
        wanted = tuple(sorted((path, blob) for path, blob in tree.items() if is_wanted(path)))
        if wanted not in self._known:
            contents = dict(self._repository.blobs(blob for _, blob in wanted))
            files = {
                path: (contents[blob] or b"").decode("utf-8", "replace") for path, blob in wanted
            }
            self._known[wanted] = needs(files)
        return self._known[wanted]


def _newest(ones: Iterable[MinedCommit]) -> Commit:
    return max((one.commit for one in ones), key=lambda commit: commit.commit_time)


def _packed(one: MinedCommit, key: str) -> PackedCommit:
    return PackedCommit(
        commit_id=one.commit.commit_id,
        parent_id=one.commit.parent_ids[0],
        time=one.commit.commit_time,
        environment=key,
        labels=tuple(label.name for label in one.labels),
        message_score=one.message_score,
        num_source_files=one.num_source_files,
        num_test_files=one.num_test_files,
    )


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
