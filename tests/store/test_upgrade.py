"""A store that an earlier version wrote is brought up to date, and keeps what is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text
from sqlalchemy.exc import DBAPIError
from tests.store.recorded import everything

from twin.records import Lineage
from twin.store import schema, upgrade
from twin.store.database import FOLDER, Store
from twin.store.engine import Database, database_url

if TYPE_CHECKING:
    from conftest import Place


def store_of_revision(place: Place, revision: str) -> Store:
    """An open store with the tables that a program of that time made."""
    folder = place.root / FOLDER
    folder.mkdir()
    database = Database(database_url(place.url, folder / "twin.db"), wait_s=30)
    settings = upgrade.config()
    with database.writing() as connection:
        settings.attributes["connection"] = connection
        command.upgrade(settings, revision)
    return Store(database, folder)


def test_a_store_of_the_first_revision_keeps_its_data_and_takes_calls(new_place: Place) -> None:
    with store_of_revision(new_place, "0001") as old:
        old.runs.begin("improve", "a/b \x00", {"n": 1})
        artifact = old.artifacts.put(b"model")
        lineage = Lineage(code_version="0.1.0", dataset_hash="d")
        version = old.registry.add(model="m", artifact=artifact, lineage=lineage, metrics={})
        old.registry.move(version.version_id, "passed", "good")
        old.blobs.put_many("parse", 1, {"a": b"kept"})
        old.snapshots.put("a/b", "c1", {"a.py": "1"})
        versions, runs = old.registry.versions(), old.runs.runs()
        assert not inspect(old.engine).has_table("traffic_call")
    for _ in range(2):
        with new_place.open() as store:
            assert (store.registry.versions(), store.runs.runs()) == (versions, runs)
            assert store.blobs.get_many("parse", 1, ["a"]) == {"a": b"kept"}
            assert store.snapshots.newest("a/b") == ("c1", {"a.py": "1"})
            store.calls.add([everything()])
            assert store.calls.get("call_1") == everything()
    with new_place.open() as store, store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []
        with pytest.raises(DBAPIError, match="raw_run is append-only"):
            connection.execute(text("DELETE FROM raw_run"))
