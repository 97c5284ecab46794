"""The first tables: runs, decisions, the registry, history, caches and sessions.

A migration is never edited after its release: it says what stores in the world look like. That is
why nothing here is imported from `schema`; a test compares the result with it.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Column

from twin.store.triggers import append_only

revision = "0001"
down_revision = None

ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
Type = sa.types.TypeEngine[Any]
TEXT: Type = sa.Text()
TIME: Type = sa.Double()
HASH: Type = sa.String(64)
WORD: Type = sa.String(16)

APPEND_ONLY = (
    "raw_run", "raw_run_stage", "raw_run_end", "raw_rebuild", "raw_decision", "raw_decision_file",
    "raw_version", "raw_move", "raw_session", "raw_session_item",
)  # fmt: skip


def upgrade() -> None:
    _runs()
    _decisions()
    _registry()
    _history()
    _caches()
    _sessions()
    dialect = op.get_bind().dialect.name
    for table in APPEND_ONLY:
        for statement in append_only(dialect, table):
            op.execute(statement)


def _key(name: str, type_: Type = HASH) -> Column[Any]:
    return Column(name, type_, primary_key=True, autoincrement=False, nullable=False)


def _number() -> Column[Any]:
    return Column("id", ID, primary_key=True, nullable=False)


def _filled(name: str, type_: Type) -> Column[Any]:
    return Column(name, type_, nullable=False)


def _runs() -> None:
    op.create_table(
        "raw_run",
        _number(),
        _filled("run_id", HASH),
        _filled("command", TEXT),
        _filled("repository", TEXT),
        _filled("config", TEXT),
        _filled("started_at", TIME),
        _filled("host", TEXT),
        _filled("pid", sa.Integer()),
        sa.UniqueConstraint("run_id"),
    )
    op.create_table(
        "raw_run_stage",
        _number(),
        _filled("run_id", HASH),
        _filled("lookup", HASH),
        _filled("stage", TEXT),
        _filled("key", TEXT),
        _filled("result", TEXT),
        _filled("seconds", TIME),
        _filled("at", TIME),
        sa.ForeignKeyConstraint(["run_id"], ["raw_run.run_id"]),
    )
    op.create_index("ix_raw_run_stage_run_id", "raw_run_stage", ["run_id"])
    op.create_index("ix_raw_run_stage_lookup", "raw_run_stage", ["lookup"])
    op.create_table(
        "raw_run_end",
        _key("run_id"),
        _filled("status", WORD),
        _filled("result", TEXT),
        _filled("at", TIME),
        sa.ForeignKeyConstraint(["run_id"], ["raw_run.run_id"]),
    )
    op.create_table(
        "raw_rebuild", _number(), _filled("last_stage", sa.BigInteger()), _filled("at", TIME)
    )


def _decisions() -> None:
    op.create_table(
        "raw_decision",
        _number(),
        _filled("repository", TEXT),
        _filled("commit_id", HASH),
        _filled("task_id", TEXT),
        _filled("query", TEXT),
        _filled("version", TEXT),
        _filled("seconds", TIME),
        _filled("at", TIME),
    )
    op.create_table(
        "raw_decision_file",
        _key("decision_id", ID),
        _key("rank", sa.Integer()),
        _filled("path", TEXT),
        _filled("score", TIME),
        _filled("reason", TEXT),
        sa.ForeignKeyConstraint(["decision_id"], ["raw_decision.id"]),
    )


def _registry() -> None:
    op.create_table(
        "raw_version",
        _number(),
        _filled("version_id", TEXT),
        _filled("model", TEXT),
        _filled("number", sa.Integer()),
        _filled("artifact", HASH),
        _filled("code_version", TEXT),
        _filled("dataset_hash", TEXT),
        _filled("config", TEXT),
        _filled("seed", sa.BigInteger()),
        Column("parent_version", TEXT),
        _filled("metrics", TEXT),
        _filled("created_at", TIME),
        sa.UniqueConstraint("version_id"),
        sa.UniqueConstraint("model", "number"),
    )
    op.create_table(
        "raw_move",
        _number(),
        _filled("version_id", TEXT),
        _filled("before", WORD),
        _filled("after", WORD),
        _filled("cause", WORD),
        _filled("reason", TEXT),
        _filled("at", TIME),
        sa.ForeignKeyConstraint(["version_id"], ["raw_version.version_id"]),
    )
    op.create_index("ix_raw_move_version_id", "raw_move", ["version_id"])
    op.create_table(
        "curated_model_status", _key("version_id", TEXT), _filled("model", TEXT),
        _filled("status", WORD),
    )  # fmt: skip
    live = sa.text("status = 'live'")
    op.create_index(
        "uq_curated_model_status_live", "curated_model_status", ["model"], unique=True,
        sqlite_where=live, postgresql_where=live,
    )  # fmt: skip


def _history() -> None:
    op.create_table(
        "curated_history",
        _number(),
        _filled("repository", TEXT),
        _filled("head", HASH),
        _filled("at", TIME),
        sa.UniqueConstraint("repository"),
    )
    op.create_table(
        "curated_commit",
        _key("history_id", ID),
        _key("position", sa.Integer()),
        _filled("commit_id", HASH),
        _filled("parent_ids", TEXT),
        _filled("author_name", TEXT),
        _filled("author_email", TEXT),
        _filled("author_time", sa.BigInteger()),
        _filled("commit_time", sa.BigInteger()),
        _filled("subject", TEXT),
        _filled("body", TEXT),
        _filled("num_source_files", sa.Integer()),
        _filled("num_test_files", sa.Integer()),
        _filled("num_source_lines", sa.BigInteger()),
        _filled("message_score", TIME),
        _filled("labels", TEXT),
        Column("dropped_by", TEXT),
        sa.ForeignKeyConstraint(["history_id"], ["curated_history.id"]),
        sa.UniqueConstraint("history_id", "commit_id"),
    )
    op.create_table(
        "curated_change",
        _key("history_id", ID),
        _key("position", sa.Integer()),
        _key("ordinal", sa.Integer()),
        _filled("path", TEXT),
        _filled("status", sa.String(1)),
        Column("old_path", TEXT),
        Column("added", sa.BigInteger()),
        Column("deleted", sa.BigInteger()),
        _filled("old_blob", HASH),
        _filled("new_blob", HASH),
        sqlite_with_rowid=False,
    )


def _caches() -> None:
    op.create_table(
        "curated_blob",
        _key("kind", sa.String(32)),
        _key("version", sa.Integer()),
        _key("blob_id"),
        _filled("payload", sa.LargeBinary()),
    )
    op.create_table(
        "curated_snapshot",
        _number(),
        _filled("repository", TEXT),
        _filled("commit_id", HASH),
        _filled("num_files", sa.Integer()),
        _filled("files", sa.LargeBinary()),
        _filled("at", TIME),
        sa.UniqueConstraint("repository", "commit_id"),
    )


def _sessions() -> None:
    op.create_table(
        "session_task", _key("session_id"), _filled("task", TEXT), _filled("started_at", TIME)
    )
    op.create_table(
        "raw_session",
        _key("session_id"),
        _filled("task", TEXT),
        _filled("started_at", TIME),
        _filled("archived_at", TIME),
    )
    for items, owner in (("session_item", "session_task"), ("raw_session_item", "raw_session")):
        op.create_table(
            items,
            _key("session_id"),
            _key("key", TEXT),
            Column("value", TEXT),
            _filled("at", TIME),
            sa.ForeignKeyConstraint(["session_id"], [f"{owner}.session_id"]),
        )
