"""Opening the store: where it is, what is wrong with it, and who else uses it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Connection, event, text

from twin.errors import (
    ConfigError,
    MissingRequirement,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreLocked,
    StoreTooNew,
)
from twin.store.database import Store, open_store
from twin.store.engine import database_url

if TYPE_CHECKING:
    from conftest import Place, Server


def file_of(root: Path) -> Path:
    return root / ".twin" / "twin.db"


def made(root: Path) -> Path:
    """A store with something in it, closed again; returns its file."""
    with open_store(root) as store:
        store.blobs.put_many("parse", 1, {f"{n:040x}": bytes(500) for n in range(200)})
    return file_of(root)


def test_a_store_is_made_where_there_is_none_and_git_ignores_it(tmp_path: Path) -> None:
    open_store(tmp_path).close()
    assert (tmp_path / ".twin" / ".gitignore").read_text().splitlines()[-1] == "*"
    assert file_of(tmp_path).is_file()
    assert os.listdir(tmp_path) == [".twin"]


def test_a_store_opened_again_holds_what_was_put(tmp_path: Path) -> None:
    made(tmp_path)
    with open_store(tmp_path) as store:
        assert len(store.blobs.get_many("parse", 1, [f"{n:040x}" for n in range(200)])) == 200


def test_a_store_can_be_closed_twice(store: Store) -> None:
    store.close()
    store.close()


def test_sqlite_runs_as_it_is_meant_to(tmp_path: Path) -> None:
    with open_store(tmp_path) as store, store.engine.connect() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "busy_timeout", "recursive_triggers")
        }
    assert found == {
        "journal_mode": "wal",
        "foreign_keys": 1,
        "busy_timeout": 30_000,
        "recursive_triggers": 1,
    }


def test_opening_an_up_to_date_store_does_not_import_alembic(tmp_path: Path) -> None:
    open_store(tmp_path).close()
    program = (
        "import sys; from pathlib import Path; from twin.store.database import open_store; "
        f"open_store(Path({str(tmp_path)!r})).close(); sys.exit('alembic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


@pytest.mark.parametrize("name", ["with space", "per%cent", "q?uery#", "caf\u00e9", "\udcff"])
def test_any_folder_name_will_do(tmp_path: Path, name: str) -> None:
    root = tmp_path / name
    root.mkdir()
    open_store(root).close()
    with open_store(root):
        assert file_of(root).is_file()


# ------------------------------------------------------------------------- what can be wrong


@pytest.mark.parametrize(
    "content", [b"not a database " * 500, b"SQLite format 3\x00" + b"\xff" * 9000]
)
def test_a_file_that_is_no_database_is_named_with_a_cure(tmp_path: Path, content: bytes) -> None:
    path = file_of(tmp_path)
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(StoreCorrupt, match=r"twin\.db is damaged.*move it away.*twin improve"):
        open_store(tmp_path)
    assert path.read_bytes() == content


def test_a_file_damaged_in_the_middle_is_found_when_it_is_read(tmp_path: Path) -> None:
    path = made(tmp_path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :] = b"\xa5" * (len(data) - len(data) // 2)
    path.write_bytes(data)
    with (
        pytest.raises(StoreCorrupt, match=r"twin\.db is damaged"),
        open_store(tmp_path) as store,
    ):
        store.blobs.get_many("parse", 1, [f"{n:040x}" for n in range(200)])


def test_a_truncated_file_is_found(tmp_path: Path) -> None:
    path = made(tmp_path)
    os.truncate(path, path.stat().st_size // 3)
    with pytest.raises(StoreCorrupt), open_store(tmp_path) as store:
        store.blobs.get_many("parse", 1, [f"{n:040x}" for n in range(200)])


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    path = file_of(tmp_path)
    path.parent.mkdir()
    path.touch()
    with open_store(tmp_path) as store:
        assert store.registry.versions() == []


def test_curated_tables_lost_by_hand_come_back_with_a_rebuild(new_place: Place) -> None:
    with new_place.open() as store:
        with store.engine.begin() as connection:
            connection.execute(text("DROP TABLE curated_blob"))
        store.rebuild_curated()
        assert store.blobs.get_many("parse", 1, ["a"]) == {}


def test_a_store_of_a_newer_version_is_left_alone(new_place: Place) -> None:
    with new_place.open() as store, store.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreTooNew, match=r"newer version.*9999.*Install the newer"):
        new_place.open()


def test_a_store_that_another_process_keeps_locked_is_reported(place: Place) -> None:
    with place.open() as holder, place.open(wait_s=0.2) as waiter:
        snapshot = {"a.py": "1"}
        with holder._database.writing() as connection:
            holder._database.one_at_a_time(connection, "snapshots a/b")
            with pytest.raises(StoreLocked, match=r"locked.*Let it finish"):
                waiter.snapshots.put("a/b", "c1", snapshot)
            assert waiter.snapshots.newest("a/b") is None
        waiter.snapshots.put("a/b", "c1", snapshot)
        assert holder.snapshots.newest("a/b") == ("c1", snapshot)


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.blobs.put_many("parse", 1, {"a": b"kept"})

        @event.listens_for(store.engine, "begin")
        def _no_more_pages(connection: Connection) -> None:
            connection.exec_driver_sql("PRAGMA max_page_count = 1")

        with pytest.raises(StoreFull, match=r"no space left.*Free some space"):
            store.blobs.put_many("parse", 1, {f"{n:040x}": bytes(10_000) for n in range(500)})
    with open_store(tmp_path) as store:
        store.blobs.put_many("parse", 1, {"b": b"works again"})
        found = store.blobs.get_many("parse", 1, ["a", "b", f"{0:040x}"])
    assert found == {"a": b"kept", "b": b"works again"}


def test_a_file_in_the_folders_place_is_named(tmp_path: Path) -> None:
    (tmp_path / ".twin").write_text("mine")
    with pytest.raises(StoreError, match=r"\.twin.*a file is in its way.*Move that file away"):
        open_store(tmp_path)
    assert (tmp_path / ".twin").read_text() == "mine"


def test_a_folder_in_the_files_place_is_named(tmp_path: Path) -> None:
    file_of(tmp_path).mkdir(parents=True)
    with pytest.raises(MissingRequirement, match=r"twin\.db cannot be written"):
        open_store(tmp_path)


def test_a_repository_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nowhere.*Check that path"):
        open_store(tmp_path / "nowhere")


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that other users can reach, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="twin-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def other_user(shared_folder: Path) -> Iterator[None]:
    """Root may write everything, so a test that runs as root goes on as a user who may not."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65_534)
    else:
        shared_folder.chmod(0o555)
    yield
    if is_root:
        os.seteuid(0)
    else:
        shared_folder.chmod(0o755)


@pytest.mark.usefixtures("other_user")
def test_a_folder_without_permission_to_write_is_named(shared_folder: Path) -> None:
    with pytest.raises(MissingRequirement, match=r"\.twin cannot be written.*may write"):
        open_store(shared_folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root can become another user")
def test_another_users_store_is_named(shared_folder: Path) -> None:
    made(shared_folder).chmod(0o444)
    os.seteuid(65_534)
    try:
        with (
            pytest.raises(MissingRequirement, match=r"twin\.db cannot be written"),
            open_store(shared_folder) as store,
        ):
            store.blobs.put_many("parse", 1, {"new": b""})
    finally:
        os.seteuid(0)


# ------------------------------------------------------------------------- the URL


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://host/db", "names `mysql`"),
        ("sqlite://", "names `sqlite`"),
        ("sqlite:///:memory:", "names `sqlite`"),
        ("just words", "not a URL"),
        ("postgresql://host:port/db", "not a URL"),
    ],
)
def test_a_url_that_cannot_hold_the_store_is_refused(tmp_path: Path, url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        open_store(tmp_path, url)
    assert os.listdir(tmp_path) == []


def test_a_sqlite_url_puts_the_database_elsewhere(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.db"
    with open_store(tmp_path, f"sqlite:///{elsewhere}"):
        assert elsewhere.is_file()
        assert not file_of(tmp_path).exists()


def test_every_spelling_of_postgresql_means_our_driver() -> None:
    for scheme in ("postgresql", "postgres", "postgresql+psycopg2", "postgresql+asyncpg"):
        url = database_url(f"{scheme}://ann@host/twin", Path("unused"))
        assert url.drivername == "postgresql+psycopg"


def test_a_server_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"does not answer.*correct `store\.url`") as caught:
        open_store(tmp_path, "postgresql://ann:s3cret@127.0.0.1:1/twin")
    assert "ann:***@127.0.0.1:1" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_database_that_is_not_there_is_named(tmp_path: Path, postgresql: Server) -> None:
    with pytest.raises(StoreError, match="no_such_database"):
        open_store(tmp_path, f"postgresql://twin@/no_such_database?host={postgresql.folder}")


def test_a_database_that_cannot_hold_every_text_is_refused(
    tmp_path: Path, postgresql: Server
) -> None:
    options = ("--encoding=LATIN1", "--locale=C", "--template=template0")
    url = postgresql.new_database(*options)
    with pytest.raises(MissingRequirement, match=r"LATIN1.*createdb --encoding=UTF8"):
        open_store(tmp_path, url)


def test_a_postgresql_user_without_rights_is_told_which(tmp_path: Path, postgresql: Server) -> None:
    url = postgresql.new_database()
    with open_store(tmp_path, url) as store, store.engine.begin() as connection:
        connection.execute(text("CREATE ROLE guest LOGIN"))
    with pytest.raises(MissingRequirement, match=r"permission denied.*Grant"):
        open_store(tmp_path, url.replace("twin@", "guest@"))


# ------------------------------------------------------------------------- an older store


def test_a_migration_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    path = file_of(tmp_path)
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE session_task (in_the_way TEXT)")
    connection.close()
    with pytest.raises(Exception, match="session_task already exists"):
        open_store(tmp_path)
    with sqlite3.connect(path) as connection:
        tables = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table'"
        ).fetchall()
    connection.close()
    assert tables == [("session_task",)]


def test_many_threads_that_open_a_new_store_at_once_all_get_it(new_place: Place) -> None:
    def open_and_use(number: int) -> str:
        with new_place.open() as store:
            return store.runs.begin("improve", f"repository-{number}", {})

    with ThreadPoolExecutor(6) as pool:
        runs = set(pool.map(open_and_use, range(6)))
    with new_place.open() as store:
        assert {run.run_id for run in store.runs.runs()} == runs
