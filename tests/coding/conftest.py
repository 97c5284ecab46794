"""A real git repository to build small histories in."""

import os
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest


class World:
    """One repository under construction. Every commit is a minute later than the one before."""

    def __init__(self, root: Path, *options: str) -> None:
        self.root = root
        self.clock = 1_700_000_000
        root.mkdir(parents=True, exist_ok=True)
        self.git("init", "-q", "-b", "main", *options)

    def git(self, *arguments: str, given: bytes | None = None, **extra: str) -> str:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
        environment |= {
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "Ada",
            "GIT_AUTHOR_EMAIL": "ada@example.org",
            "GIT_COMMITTER_NAME": "Ada",
            "GIT_COMMITTER_EMAIL": "ada@example.org",
            "GIT_AUTHOR_DATE": f"{self.clock} +0000",
            "GIT_COMMITTER_DATE": f"{self.clock} +0000",
        }
        done = subprocess.run(
            ["git", "-C", str(self.root), *arguments],
            env=environment | extra,
            input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return done.stdout.decode(errors="surrogateescape").strip()

    def write(self, path: str, data: str | bytes) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data.encode() if isinstance(data, str) else data)
        return file

    def commit(self, message: str = "change", **files: str | bytes) -> str:
        """Writes the files (`a__b_py` stands for `a/b.py`), commits everything, gives the id."""
        for name, data in files.items():
            self.write(name.replace("__", "/").replace("_py", ".py"), data)
        self.clock += 60
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    def grow(
        self,
        *commits: tuple[str, Mapping[str, str | bytes | None]],
        author: str = "ada@example.org",
    ) -> list[str]:
        """Commits (message, files) on top of `main`, by one process; gives their ids.

        A file that is None is deleted; under the name "old -> new" it is renamed, then written. The
        work tree is left as it was.
        """
        head = self.git("for-each-ref", "--format=%(objectname)", "refs/heads/main")
        stream = [b"reset refs/heads/main\n" + (f"from {head}\n\n".encode() if head else b"")]
        for message, files in commits:
            self.clock += 60
            said = message.encode("utf-8", "surrogateescape")
            who = f"<{author}> {self.clock} +0000\n"
            stream.append(f"commit refs/heads/main\nauthor A {who}committer A {who}".encode())
            stream.append(b"data %d\n%s\n" % (len(said), said))
            for path, data in files.items():
                if " -> " in path:
                    old, path = path.split(" -> ")
                    stream.append(b"R %s %s\n" % (_quoted(old), _quoted(path)))
                if data is None:
                    stream.append(b"D %s\n" % _quoted(path))
                    continue
                content = data.encode() if isinstance(data, str) else data
                stream.append(b"M 100644 inline %s\n" % _quoted(path))
                stream.append(b"data %d\n%s\n" % (len(content), content))
        self.git("fast-import", "--quiet", given=b"".join(stream))
        return self.git("rev-list", "--reverse", f"-{len(commits)}", "main").split()

    def object_file(self, object_id: str) -> Path:
        """The file of a loose object, made writable."""
        file = self.root / ".git" / "objects" / object_id[:2] / object_id[2:]
        file.chmod(0o644)
        return file


def _quoted(path: str) -> bytes:
    """A path as fast-import reads it: every byte written out."""
    return b'"%s"' % b"".join(b"\\%03o" % byte for byte in os.fsencode(path))


class MemoryCache(dict[tuple[str, int, str], bytes]):
    """A cache of blobs that lives as long as its test, and tells how often it was written."""

    num_writes = 0

    def get_many(self, kind: str, version: int, blob_ids: Iterable[str]) -> dict[str, bytes]:
        return {
            blob: self[kind, version, blob] for blob in blob_ids if (kind, version, blob) in self
        }

    def put_many(self, kind: str, version: int, payloads: Mapping[str, bytes]) -> None:
        self.num_writes += 1
        self.update({(kind, version, blob): payload for blob, payload in payloads.items()})


@pytest.fixture
def cache() -> MemoryCache:
    return MemoryCache()


@pytest.fixture
def new_world(tmp_path: Path) -> Callable[..., World]:
    """Makes a repository in a folder of the given name."""
    return lambda name="world", *options: World(tmp_path / name, *options)


@pytest.fixture
def world(new_world: Callable[..., World]) -> World:
    return new_world()
