"""The two databases that every test of the store runs on: a SQLite file and a real PostgreSQL."""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from twin.store.database import Store, open_store
from twin.store.schema import metadata

_NEEDED = "TWIN_REQUIRE_POSTGRES"
_PROGRAMS = Path("/usr/lib/postgresql")
_CURE = "Install with: apt-get install -y postgresql"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one test's store is. Opening it twice opens the same store."""

    root: Path
    url: str

    def open(self, wait_s: float = 30.0) -> Store:
        return open_store(self.root, self.url, wait_s=wait_s)

    def start(self, program: str, *arguments: object) -> "subprocess.Popen[str]":
        """Another process that runs `program` with an open `store` and the `arguments`."""
        opened = (
            "import sys\nfrom pathlib import Path\nfrom twin.store.database import open_store\n"
            "root, url, *arguments = sys.argv[1:]\nstore = open_store(Path(root), url)\n"
        )
        return subprocess.Popen(
            [sys.executable, "-c", opened + program, self.root, self.url, *map(str, arguments)],
            stdout=subprocess.PIPE,
            text=True,
        )


class Server:
    """One PostgreSQL, reached through a socket in its own folder: it takes no port at all."""

    def __init__(self, folder: Path, programs: Path, as_user: list[str]) -> None:
        self.folder = folder
        self._programs = programs
        self._as_user = as_user
        self._numbers = count(1)

    def start(self) -> None:
        data, log = self.folder / "data", self.folder / "log"
        self._run("initdb", "-D", data, "-U", "twin", "-A", "trust", "-E", "UTF8", "--no-sync")
        settings = (
            f"-c listen_addresses= -c unix_socket_directories={self.folder} "
            "-c fsync=off -c full_page_writes=off -c autovacuum=off"
        )
        self._run("pg_ctl", "-D", data, "-l", log, "-o", settings, "-w", "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", self.folder / "data", "-m", "immediate", "-w", "stop")

    def new_database(self, *options: str) -> str:
        """The URL of an empty database."""
        name = f"test{next(self._numbers)}"
        self._run("createdb", "-h", self.folder, "-U", "twin", *options, name)
        return f"postgresql://twin@/{name}?host={self.folder}"

    def new_schema(self) -> str:
        """The URL of an empty schema: as good as a database of its own, and made in no time."""
        name = f"test{next(self._numbers)}"
        with psycopg.connect(host=str(self.folder), user="twin", dbname="postgres") as connection:
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
        return f"postgresql://twin@/postgres?host={self.folder}&options=-csearch_path%3D{name}"

    def _run(self, program: str, *arguments: object) -> None:
        command = [*self._as_user, str(self._programs / program), *map(str, arguments)]
        # A file, not a pipe: the server inherits it and would keep a pipe open for ever.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(
                command, cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
            output.seek(0)
            assert done.returncode == 0, output.read().decode(errors="replace")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """A running server. Skips loudly where none is installed, fails there if one is required."""
    found = sorted(_PROGRAMS.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    as_user = _unprivileged()
    if not found or as_user is None:
        reason = f"NOT TESTED ON POSTGRESQL: no server under {_PROGRAMS}. {_CURE}"
        if os.environ.get(_NEEDED):
            pytest.fail(reason)
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # Short: a socket's path has 107 bytes at most.
    if as_user:
        shutil.chown(folder, "postgres")
    server = Server(folder, found[-1].parent, as_user)
    try:
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unprivileged() -> list[str] | None:
    """PostgreSQL refuses to run as root: what to put before its commands then."""
    if os.geteuid() != 0:
        return []
    try:
        pwd.getpwnam("postgres")
    except KeyError:
        return None
    return ["runuser", "-u", "postgres", "--"]


DATABASES = ["sqlite", "postgresql"]


@pytest.fixture(params=DATABASES)
def new_place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A place where no store is yet."""
    url = ""
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql").new_schema()
    return Place(root=tmp_path, url=url)


@pytest.fixture(params=DATABASES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """The place of an empty store. Tests that change its tables themselves take `new_place`."""
    if request.param == "postgresql":
        url = request.getfixturevalue("emptied_postgresql")
        return Place(root=tmp_path, url=url)
    (tmp_path / ".twin").mkdir()
    shutil.copy(request.getfixturevalue("empty_sqlite"), tmp_path / ".twin" / "twin.db")
    return Place(root=tmp_path, url="")


@pytest.fixture
def store(place: Place) -> Iterator[Store]:
    """An open, empty store."""
    with place.open() as opened:
        yield opened


@pytest.fixture(scope="session")
def empty_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an empty store, to be copied: migrating anew for each test takes longer."""
    root = tmp_path_factory.mktemp("empty")
    open_store(root).close()
    return root / ".twin" / "twin.db"


@pytest.fixture(scope="session")
def migrated_postgresql(postgresql: Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a schema in which the store's tables are."""
    url = postgresql.new_schema()
    open_store(tmp_path_factory.mktemp("migrated"), url).close()
    return url


@pytest.fixture
def emptied_postgresql(migrated_postgresql: str) -> str:
    """The same tables for every test, emptied past the triggers that protect them."""
    with psycopg.connect(migrated_postgresql) as connection:
        connection.execute("SET session_replication_role = replica")
        for table in metadata.tables:
            connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)))
    return migrated_postgresql
