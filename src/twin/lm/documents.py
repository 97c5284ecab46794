"""Where training text comes from: files and folders, JSON lines, the tree of a git commit.

Owns finding the documents, their order, and what is left out (binary, unreadable, of another
language) with the reason counted. Knows nothing of tokens. Nothing is executed: git is asked for
the bytes of HEAD and runs no hook, filter or configuration of the repository's.
"""

import glob
import json
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from twin.lm.errors import BadCorpus

Split = Literal["order", "path"]
"""What is held out: the end of the text, or whole documents chosen by the hash of their content."""
PIECE: Final = 4 << 20
"""Bytes that are read at a time."""
MAX_GIT_BYTES: Final = 1 << 20
"""A larger file in a repository is data or generated."""
SOURCE_SUFFIXES: Final = (
    ".c", ".cc", ".cpp", ".cs", ".css", ".go", ".h", ".hpp", ".html", ".java", ".js", ".jsx",
    ".kt", ".lua", ".md", ".php", ".pl", ".py", ".rb", ".rs", ".rst", ".scala", ".sh", ".sql",
    ".swift", ".toml", ".ts", ".tsx", ".yaml", ".yml",
)  # fmt: skip
_SNIFF = 8192  # git's own test for "binary": a NUL among the first 8,000 bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One text, read when it is needed and not before."""

    name: str
    pieces: Callable[[], Iterator[bytes]]
    """Its bytes from the start, cut only between lines or UTF-8 characters."""


class Source(Protocol):
    """Documents in their order; the same again at every call while the data stay as they are."""

    split: Split
    left_out: Counter[str]
    """Reason -> how many, of the last call."""

    def documents(self) -> Iterator[Document]: ...


@dataclass(slots=True, kw_only=True)
class TextFiles:
    """Files, folders (all text files below, in the order of their paths) and glob patterns."""

    paths: Sequence[str | Path]
    suffixes: Sequence[str] = ()
    """Only files with such names, where paths are folders; empty: all."""
    split: Split = "order"
    left_out: Counter[str] = field(default_factory=Counter)

    def documents(self) -> Iterator[Document]:
        self.left_out = Counter()
        seen: set[Path] = set()
        for pattern in self.paths:
            for path, named in self._files(pattern):
                if path in seen:
                    continue
                seen.add(path)
                if reason := _unreadable(path):
                    if named:
                        raise BadCorpus(f"{path} {reason}. Give a file of text.")
                    self.left_out[reason] += 1
                    continue
                yield Document(name=path.as_posix(), pieces=partial(_file_pieces, path))

    def _files(self, pattern: str | Path) -> Iterator[tuple[Path, bool]]:
        """(file, whether it was named itself)."""
        path = Path(pattern)
        if path.is_dir():
            yield from ((file, False) for file in self._below(path))
        elif path.exists():
            yield path, True
        else:
            found = sorted(glob.glob(str(pattern), recursive=True))
            if not found:
                raise BadCorpus(f"{pattern} does not exist. Give a file, a folder or a pattern.")
            for one in map(Path, found):
                yield from ((f, False) for f in (self._below(one) if one.is_dir() else [one]))

    def _below(self, folder: Path) -> Iterator[Path]:
        inside = folder.resolve()

        def unlisted(error: OSError) -> None:
            self.left_out[f"cannot be read ({error.strerror})"] += 1

        for root, folders, files in os.walk(folder, onerror=unlisted):  # follows no links: no loops
            shown = sorted(name for name in folders if not name.startswith("."))
            if len(shown) < len(folders):
                self.left_out["is a hidden folder"] += len(folders) - len(shown)
            folders[:] = shown
            for name in sorted(files):
                if self.suffixes and not name.endswith(tuple(self.suffixes)):
                    continue
                path = Path(root, name)
                # Secrets lie in hidden files, and a link may lead to any file of this machine.
                if name.startswith("."):
                    self.left_out["is hidden"] += 1
                elif path.is_symlink() and not path.resolve().is_relative_to(inside):
                    self.left_out["leads out of the folder"] += 1
                else:
                    yield path


@dataclass(slots=True, kw_only=True)
class JsonLines:
    """One text per line of JSON; sorted by the field `time` where every line has one."""

    paths: Sequence[str | Path]
    field_name: str = "text"
    time_field: str = "time"
    split: Split = "order"
    left_out: Counter[str] = field(default_factory=Counter)

    def documents(self) -> Iterator[Document]:
        self.left_out = Counter()
        places = list(self._places())
        if not places:
            why = "; ".join(f"{count} {reason}" for reason, count in self.left_out.items())
            raise BadCorpus(
                f"No line holds text in the field `{self.field_name}` ({why or 'no lines'}). Name "
                "the field with `--field`."
            )
        if all(time is not None for *_, time in places):
            places.sort(key=lambda place: place[3] or 0.0)
        for path, number, offset, _ in places:
            yield Document(
                name=f"{path.as_posix()}:{number}",
                pieces=partial(self._read, path, offset),
            )

    def _places(self) -> Iterator[tuple[Path, int, int, float | None]]:
        """(file, line, offset, time) of each line that holds text."""
        for path in map(Path, self.paths):
            if not path.is_file():
                raise BadCorpus(f"{path} is no file. Give a file of JSON lines.")
            offset = 0
            with path.open("rb") as lines:
                for number, line in enumerate(lines, start=1):
                    text, time = self._parse(line)
                    if text:
                        yield path, number, offset, time
                    offset += len(line)

    def _parse(self, line: bytes) -> tuple[str, float | None]:
        """(text, time); the text is empty where there is none, and the reason is counted."""
        if not line.strip():
            return "", None
        try:
            value: Any = json.loads(line)
        except (ValueError, RecursionError):
            self.left_out["not JSON"] += 1
            return "", None
        text = value.get(self.field_name) if isinstance(value, dict) else None
        if not isinstance(text, str) or not text:
            self.left_out[f"without `{self.field_name}`"] += 1
            return "", None
        return text, _seconds(value.get(self.time_field))

    def _read(self, path: Path, offset: int) -> Iterator[bytes]:
        with path.open("rb") as lines:
            lines.seek(offset)
            text, _ = self._parse(lines.readline())
        yield text.encode("utf-8", "replace")


@dataclass(slots=True, kw_only=True)
class GitTree:
    """Source files of HEAD, as committed: not what lies in the folder, no submodules, no links."""

    path: str | Path
    suffixes: Sequence[str] = SOURCE_SUFFIXES
    split: Split = "path"
    left_out: Counter[str] = field(default_factory=Counter)

    def documents(self) -> Iterator[Document]:
        self.left_out = Counter()
        listed = _git(self.path, "ls-tree", "-r", "-z", "--long", "--full-tree", "HEAD")
        wanted = [found for entry in listed.split(b"\0") if (found := self._wanted(entry))]
        with _Blobs(self.path) as blobs:
            for blob, name in wanted:
                data = blobs.read(blob)
                if b"\0" in data[:_SNIFF]:
                    self.left_out["is binary"] += 1
                elif data:
                    yield Document(name=name, pieces=partial(_once, data))

    def _wanted(self, entry: bytes) -> tuple[str, str] | None:
        """(object, name) of a source file; `<mode> <type> <object> <size>\\t<name>`."""
        about, _, raw_name = entry.partition(b"\t")
        fields = about.split()
        if len(fields) != 4 or fields[0] not in (b"100644", b"100755"):
            return None
        name = os.fsdecode(raw_name)
        if not name.endswith(tuple(self.suffixes)):
            self.left_out["of another kind"] += 1
            return None
        if int(fields[3]) > MAX_GIT_BYTES:
            self.left_out["too large"] += 1
            return None
        return fields[2].decode("ascii"), name


class _Blobs:
    """`git cat-file --batch`: one process for all objects."""

    def __init__(self, path: str | Path) -> None:
        self._process = subprocess.Popen(
            [*_GIT, "cat-file", "--batch"],
            cwd=path,
            env=_git_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> "_Blobs":
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()
        self._process.wait()

    def read(self, blob: str) -> bytes:
        asked, answers = self._process.stdin, self._process.stdout
        assert asked is not None
        assert answers is not None
        asked.write(f"{blob}\n".encode("ascii"))
        asked.flush()
        header = answers.readline().split()
        if len(header) != 3 or header[1] != b"blob":
            raise BadCorpus(f"git cannot read object {blob}. Run `git fsck` in the repository.")
        data = answers.read(int(header[2]))
        answers.read(1)
        return data


_GIT = ("git", "--no-replace-objects", "--no-pager", "-c", "core.fsmonitor=false")


def _git_environment() -> dict[str, str]:
    """Nothing of the caller's GIT_*, no prompt, no network for a partial clone."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return kept | {"GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1", "LC_ALL": "C"}


def _git(path: str | Path, *arguments: str) -> bytes:
    if not Path(path).is_dir():
        raise BadCorpus(f"{path} is no folder. Give the folder of a git repository.")
    try:
        done = subprocess.run(
            [*_GIT, *arguments], cwd=path, env=_git_environment(), capture_output=True, check=False
        )
    except FileNotFoundError as error:
        raise BadCorpus("The program `git` is missing. Install it, or use `--text`.") from error
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise BadCorpus(
            f"{path} has no commit to read ({said[0] if said else 'git failed'}). Give the folder "
            "of a git repository with a commit."
        )
    return done.stdout


def _unreadable(path: Path) -> str:
    """Why a file is no text; empty if it is."""
    if not path.is_file():
        return "is no regular file"
    try:
        with path.open("rb") as file:
            head = file.read(_SNIFF)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if b"\0" in head:
        return "is binary"
    return "" if head else "is empty"


def _once(data: bytes) -> Iterator[bytes]:
    yield data


def _file_pieces(path: Path) -> Iterator[bytes]:
    """A file's bytes, each piece ending after a line or, without lines, between characters."""
    rest = b""
    with path.open("rb") as file:
        while data := file.read(PIECE):
            data = rest + data
            cut = data.rfind(b"\n") + 1 or _between_characters(data)
            rest = data[cut:]
            yield data[:cut]
    if rest:
        yield rest


def _between_characters(data: bytes) -> int:
    """The last place where no UTF-8 character is cut."""
    return next(
        (at for at in range(len(data) - 1, max(0, len(data) - 4), -1) if data[at] & 0xC0 != 0x80),
        len(data),
    )


def _seconds(value: object) -> float | None:
    """Unix seconds of a number or an ISO 8601 text; None for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if value == value else None
    if isinstance(value, str):
        with suppress(ValueError, OverflowError, OSError):
            return datetime.fromisoformat(value).timestamp()
    return None
