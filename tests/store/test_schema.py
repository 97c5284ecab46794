"""The schema in code, the migrations, the triggers and the documentation agree."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError

from twin.records import Lineage, Mutant, RankedFile, RetrievalDecision, Supplement, Validation
from twin.store import schema, upgrade
from twin.store.database import Store

if TYPE_CHECKING:
    from conftest import Place

LIFECYCLES = ("raw", "curated", "session", "traffic", "work")
DOCS = Path(__file__).parents[2] / "docs" / "store.md"


def test_the_migrations_lead_to_exactly_the_tables_in_code(new_place: Place) -> None:
    with new_place.open() as store, store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []


def test_the_newest_migration_is_the_revision_in_code() -> None:
    assert ScriptDirectory.from_config(upgrade.config()).get_heads() == [schema.REVISION]


def test_every_table_has_a_lifecycle() -> None:
    sorted_in = [t.name for lives in LIFECYCLES for t in schema.tables_of(lives)]
    assert sorted(sorted_in) == sorted(schema.metadata.tables)


def test_rebuilding_the_curated_tables_gives_what_the_migrations_gave(store: Store) -> None:
    store.rebuild_curated()
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []
        if connection.dialect.name == "sqlite":
            assert "WITHOUT ROWID" in _definition(connection, "curated_change")


def test_raw_tables_refuse_every_change_and_curated_ones_allow_it(store: Store) -> None:
    _fill_raw(store)
    for table in schema.tables_of("raw"):
        column = list(table.columns)[-1].name
        for statement in (
            f"UPDATE {table.name} SET {column} = {column}",
            f"DELETE FROM {table.name}",
        ):
            with (
                store.engine.connect() as connection,
                pytest.raises(DBAPIError, match=f"{table.name} is append-only"),
            ):
                connection.execute(text(statement))
        with store.engine.connect() as connection:
            assert connection.execute(table.select()).all(), f"{table.name} was not tried"
    with store.engine.begin() as connection:
        connection.execute(text("DELETE FROM curated_model_status"))


def test_no_back_door_changes_a_raw_row(store: Store) -> None:
    _fill_raw(store)
    if store.engine.dialect.name == "sqlite":
        statement = "INSERT OR REPLACE INTO raw_run SELECT * FROM raw_run"
    else:
        statement = "TRUNCATE raw_run CASCADE"
    with (
        pytest.raises(DBAPIError, match="is append-only"),
        store.engine.begin() as connection,
    ):
        connection.execute(text(statement))


def test_the_documentation_lists_every_table_and_column() -> None:
    written = DOCS.read_text(encoding="utf-8")
    made = re.sub(
        r"(?<=<!-- tables -->\n).*(?=<!-- /tables -->)",
        lambda _: _documentation(),
        written,
        flags=re.DOTALL,
    )
    if os.environ.get("TWIN_WRITE_DOCS"):
        DOCS.write_text(made, encoding="utf-8")
    assert made == written, (
        "Make it again with: TWIN_WRITE_DOCS=1 pytest tests/store/test_schema.py"
    )


def _documentation() -> str:
    lines = []
    for lifecycle in LIFECYCLES:
        lines += [
            "",
            f"### {lifecycle}",
            "",
            "| table | what a row is | columns |",
            "|---|---|---|",
        ]
        for table in sorted(schema.tables_of(lifecycle), key=lambda table: table.name):
            columns = ", ".join(f"`{column.name}`" for column in table.columns)
            lines.append(f"| `{table.name}` | {table.info['what']} | {columns} |")
    return "\n".join([*lines, "", ""])


def _fill_raw(store: Store) -> None:
    lineage = Lineage(code_version="1", dataset_hash="d")
    artifact = store.artifacts.put(b"model")
    version = store.registry.add(model="m", artifact=artifact, lineage=lineage, metrics={})
    store.registry.move(version.version_id, "passed", "good")
    run = store.runs.begin("improve", "a/b", {})
    store.runs.stage_done(run, "mine", "key", {}, 1.0)
    store.runs.finish(run, "done", {})
    store.decisions.add(
        RetrievalDecision(
            repository="a/b",
            commit_id="c",
            query="q",
            version="v",
            ranked=(RankedFile(path="a.py", score=1.0, reason="named"),),
            seconds=0.1,
        )
    )
    store.validations.add("a/b", "asked", Validation(commit_id="c", parent_id="p", why=""))
    store.trials.add(
        campaign="c", pack="a/b", commit_id="c", number=0, step="plan", result={}, seconds=1.0
    )
    store.supplements.add(
        "a/b",
        "asked",
        Supplement(commit_id="c", parent_id="p", natural="nothing_fails", why="nothing_proposed"),
    )
    store.mutants.add(
        "a/b",
        "asked",
        Mutant(
            commit_id="c",
            environment="e",
            path="a.py",
            line=1,
            symbol="f",
            operator="boundary",
            before="<",
            after="<=",
            artifact=artifact,
            why="",
        ),
    )
    key, _ = store.keys.create("agent")
    store.keys.revoke(key.key_id)
    session = store.sessions.start("task")
    store.sessions.put(session, "key", 1)
    store.sessions.archive(session)
    store.rebuild_curated()


def _definition(connection: Connection, table: str) -> str:
    assert inspect(connection).has_table(table)
    query = text("SELECT sql FROM sqlite_master WHERE name = :table")
    return str(connection.execute(query, {"table": table}).scalar())
