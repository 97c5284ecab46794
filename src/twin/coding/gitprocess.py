"""Starts git so that neither its surroundings nor the repository can redirect it or run anything.

Two ways. `ask` puts a question to a repository where it stands, for the few facts that need its
configuration (where its top level is, what a revision means). Everything else reads objects from a
private, empty git directory that merely points at the repository's objects: there no hook,
alias, text filter, external diff, attribute, replace reference, promisor remote or setting of
anybody exists, so none can act, and the output is the same on every machine. Knows processes and
bytes; what they mean is in `git` and `history`.
"""

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Final, Literal

from twin.errors import MissingRequirement

MINIMUM: Final = (2, 30)
"""`rev-parse --end-of-options` works from here on."""

KEPT: Final = frozenset(
    {
        # The user's own settings, where they say which folders they trust.
        "GIT_CONFIG_GLOBAL",
        "GIT_CONFIG_SYSTEM",
        "GIT_CONFIG_NOSYSTEM",
        # Where git finds itself, and how far up it looks for a repository.
        "GIT_EXEC_PATH",
        "GIT_CEILING_DIRECTORIES",
        "GIT_DISCOVERY_ACROSS_FILESYSTEM",
    }
)
"""Every other `GIT_*` variable is dropped: inside a hook they point at the hook's repository."""

CLOSED: Final = {
    "LC_ALL": "C",
    "LANGUAGE": "",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",
    # A missing object of a partial clone is missing: no protocol is allowed, so nothing can fetch.
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "",
}

CHUNK: Final = 200
"""Requests written before their answers are read. Below the smallest pipe (16 KiB on macOS), so
that git and this program never wait for each other."""

MAX_STDERR: Final = 4000


class GitFailed(Exception):
    """git ended badly. Never reaches a user: `git` and `history` turn it into a RepositoryError."""

    def __init__(self, returncode: int, stderr: str) -> None:
        super().__init__(stderr)
        self.returncode = returncode
        self.stderr = stderr

    def reason(self) -> str:
        """The line that says most, without git's own prefix."""
        lines = [line for line in self.stderr.splitlines() if line.strip()]
        fatal = [line for line in lines if line.startswith("fatal:")] or lines
        text = fatal[0] if fatal else f"git ended with code {self.returncode}"
        return re.sub(r"^(fatal|error): ", "", text).strip().rstrip(".")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a short-lived git said."""

    returncode: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        """Standard output as a path or word: one trailing newline belongs to git, not to it."""
        return os.fsdecode(self.stdout.removesuffix(b"\n"))


def surroundings() -> dict[str, str]:
    """The environment for git: the caller's, without what redirects git or lets it reach out."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("GIT_") or k in KEPT}
    return kept | CLOSED


def ask(folder: Path, *arguments: str) -> Answer:
    """Runs git in `folder` and waits. Never raises for what git says, only if it cannot start."""
    done = subprocess.run(
        ["git", "--no-pager", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments],
        env=surroundings(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    stderr = done.stderr.decode("utf-8", "replace")
    return Answer(returncode=done.returncode, stdout=done.stdout, stderr=stderr)


def require_git() -> None:
    """Raises MissingRequirement unless a git that is new enough can be started."""
    cure = "Install git 2.30 or newer (Debian: `apt install git`; macOS: `brew install git`)."
    program = shutil.which("git")
    if program is None:
        raise MissingRequirement(f"git is not installed or not on the PATH. {cure}")
    try:
        told = _version(program)
    except OSError as error:
        raise MissingRequirement(f"git cannot be started: {error.strerror}. {cure}") from error
    found = re.search(rb"(\d+)\.(\d+)", told)
    if found is None or (int(found[1]), int(found[2])) < MINIMUM:
        version = os.fsdecode(told).strip() or "an unknown version"
        raise MissingRequirement(f"This git is too old ({version}). {cure}")


@lru_cache(maxsize=4)
def _version(program: str) -> bytes:
    return subprocess.run([program, "version"], capture_output=True, check=False).stdout


class ObjectStore:
    """The repository's objects, seen from a private git directory that holds nothing else."""

    def __init__(self, objects: Path, object_format: str, attributes: str = "") -> None:
        self._home = Path(tempfile.mkdtemp(prefix="twin-git-"))
        (self._home / "refs").mkdir()
        (self._home / "HEAD").write_text("ref: refs/heads/none\n")
        version = 0 if object_format == "sha1" else 1
        extension = "" if version == 0 else f"[extensions]\n\tobjectFormat = {object_format}\n"
        core = f"[core]\n\trepositoryFormatVersion = {version}\n\tbare = true\n"
        # Larger files count as binary: git then neither reads nor compares them line by line.
        core += "\tbigFileThreshold = 16m\n"
        (self._home / "config").write_text(core + extension)
        (self._home / "info").mkdir()
        (self._home / "info" / "attributes").write_text(attributes)
        self._environment = surroundings() | {
            "GIT_DIR": str(self._home),
            "GIT_OBJECT_DIRECTORY": str(objects),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_ATTR_NOSYSTEM": "1",
            # Before 2.32 git does not know GIT_CONFIG_GLOBAL and looks here.
            "HOME": str(self._home),
            "XDG_CONFIG_HOME": str(self._home),
        }

    def start(self, *arguments: str, stdin: int | IO[bytes] = subprocess.DEVNULL) -> "Child":
        """Starts `git ARGUMENTS`; the caller closes it."""
        return Child(arguments, self._environment, stdin)

    @contextlib.contextmanager
    def stream(self, *arguments: str, given: bytes = b"") -> Iterator["Child"]:
        """A running `git ARGUMENTS` with `given` as its input; `finish` it when its output ends.

        Left early, in whatever way, git is killed.
        """
        with tempfile.TemporaryFile() as source:
            source.write(given)
            source.seek(0)
            child = self.start(*arguments, stdin=source)
        try:
            yield child
        finally:
            child.kill()

    def close(self) -> None:
        """Removes the private directory."""
        shutil.rmtree(self._home, ignore_errors=True)


class Child:
    """One running git. Its own process group: Ctrl-C reaches this program, which then ends git."""

    def __init__(
        self, arguments: Sequence[str], environment: dict[str, str], stdin: int | IO[bytes]
    ) -> None:
        # A file, because a pipe that nobody reads would stop git once it is full.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `kill`)
        self._process = subprocess.Popen(
            ["git", "--no-pager", *arguments],
            env=environment,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            process_group=0,
            bufsize=1 << 16,
        )
        assert self._process.stdout is not None
        self.stdout: IO[bytes] = self._process.stdout
        self.stdin = self._process.stdin

    def complaints(self) -> str:
        """What git has written to standard error so far, its beginning."""
        return os.pread(self._stderr.fileno(), MAX_STDERR, 0).decode("utf-8", "replace")

    def finish(self) -> None:
        """Waits for the end. Raises GitFailed if it was a bad one."""
        returncode = self._process.wait()
        if returncode != 0:
            raise GitFailed(returncode, self.complaints())

    def died(self) -> GitFailed:
        """The failure of a child whose output ended too soon."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        return GitFailed(self._process.poll() or 0, self.complaints())

    def kill(self) -> None:
        """Ends it and frees what it holds; harmless when repeated."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self.stdin, self.stdout, self._stderr):
            # A request that git no longer wants may still lie in the buffer.
            with contextlib.suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """What an object is, without its contents."""

    object_id: str
    kind: str
    size: int


class Batch:
    """A `git cat-file` that lives as long as it is needed and answers in the order of the requests.

    One conversation at a time, from any thread. An interrupted conversation ends the child, since
    nobody would know which answers are still to come; the next request starts another.
    """

    def __init__(self, store: ObjectStore, mode: Literal["--batch", "--batch-check"]) -> None:
        self._store = store
        self._mode = mode
        self._child: Child | None = None
        self._lock = threading.Lock()

    def infos(self, names: Sequence[str]) -> list[ObjectInfo | None]:
        """Kind and size for each name; None where the repository lacks it."""
        found: list[ObjectInfo | None] = []
        for start in range(0, len(names), CHUNK):
            with self._conversation(names[start : start + CHUNK]) as (child, asked):
                found += [_info(child, name) for name in asked]
        return found

    def contents(self, names: Sequence[str]) -> list[bytes | None]:
        """The bytes for each name; None where the repository lacks it."""
        found: list[bytes | None] = []
        for start in range(0, len(names), CHUNK):
            with self._conversation(names[start : start + CHUNK]) as (child, asked):
                found += [_content(child, name) for name in asked]
        return found

    @contextlib.contextmanager
    def _conversation(self, names: Sequence[str]) -> Iterator[tuple[Child, Sequence[str]]]:
        with self._lock:
            if self._child is None:
                self._child = self._store.start("cat-file", self._mode, stdin=subprocess.PIPE)
            child = self._child
            try:
                assert child.stdin is not None
                try:
                    child.stdin.write("".join(f"{name}\n" for name in names).encode())
                    child.stdin.flush()
                except BrokenPipeError as error:
                    raise child.died() from error
                yield child, names
            except BaseException:
                self._end()
                raise

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()

    def close(self) -> None:
        """Ends the child; a later request starts a new one."""
        with self._lock:
            self._end()


def _info(child: Child, name: str) -> ObjectInfo | None:
    line = child.stdout.readline()
    if not line.endswith(b"\n"):
        raise child.died()
    parts = line.split()
    if len(parts) == 3:
        return ObjectInfo(object_id=parts[0].decode(), kind=parts[1].decode(), size=int(parts[2]))
    # A damaged object is reported as missing too, but then git has complained before.
    if child.complaints():
        raise GitFailed(0, f"error: object {name}: {child.complaints()}")
    return None


def _content(child: Child, name: str) -> bytes | None:
    info = _info(child, name)
    if info is None:
        return None
    data = child.stdout.read(info.size + 1)
    if len(data) != info.size + 1:
        raise child.died()
    return data[:-1]
