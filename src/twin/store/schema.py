"""Every table, once, for SQLite and PostgreSQL alike; the prefix of its name is its lifecycle.

`raw_*` only grows: triggers refuse UPDATE and DELETE. `curated_*` can be dropped at any time and
made again from the repository and from raw. `session_*` is one task's working memory. Reads and
writes nothing itself; `migrations` brings a database to this shape, and a test holds the two
together. `info["what"]` of each table stands in `docs/store.md`.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    text,
)

from twin.store.columns import AnyText, Id, JsonText

REVISION = "0001"
"""The newest migration. Written here too, so that opening a store need not import Alembic."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# ---------------------------------------------------------------- raw: appended, never changed

raw_run = Table(
    "raw_run",
    metadata,
    Column("id", Id, primary_key=True),
    Column("run_id", String(64), nullable=False, unique=True),
    Column("command", AnyText, nullable=False),
    Column("repository", AnyText, nullable=False),
    Column("config", JsonText, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("host", AnyText, nullable=False),
    Column("pid", Integer, nullable=False),
    info={"what": "A command that was started, with its configuration (passwords masked)."},
)

raw_run_stage = Table(
    "raw_run_stage",
    metadata,
    Column("id", Id, primary_key=True),
    Column("run_id", ForeignKey(raw_run.c.run_id), nullable=False, index=True),
    # One digest of (repository, stage, key): short whatever the key is, as an index needs it.
    Column("lookup", String(64), nullable=False, index=True),
    Column("stage", AnyText, nullable=False),
    Column("key", AnyText, nullable=False),
    Column("result", JsonText, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("at", Double, nullable=False),
    info={"what": "A stage that a run finished and its result; what lets a later run skip it."},
)

raw_run_end = Table(
    "raw_run_end",
    metadata,
    Column("run_id", ForeignKey(raw_run.c.run_id), primary_key=True),
    Column("status", String(16), nullable=False),
    Column("result", JsonText, nullable=False),
    Column("at", Double, nullable=False),
    info={"what": "How a run ended. A run without one is running, or was killed."},
)

raw_rebuild = Table(
    "raw_rebuild",
    metadata,
    Column("id", Id, primary_key=True),
    # Stages up to this one left their results in tables that are gone since.
    Column("last_stage", BigInteger, nullable=False),
    Column("at", Double, nullable=False),
    info={
        "what": "When the curated tables were dropped: earlier stages no longer count as finished."
    },
)

raw_decision = Table(
    "raw_decision",
    metadata,
    Column("id", Id, primary_key=True),
    Column("repository", AnyText, nullable=False),
    Column("commit_id", String(64), nullable=False),
    Column("task_id", AnyText, nullable=False),
    Column("query", AnyText, nullable=False),
    Column("version", AnyText, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("at", Double, nullable=False),
    info={"what": "One question to `locate`, and the version that answered it."},
)

raw_decision_file = Table(
    "raw_decision_file",
    metadata,
    Column("decision_id", ForeignKey(raw_decision.c.id), primary_key=True),
    Column("rank", Integer, primary_key=True),
    Column("path", AnyText, nullable=False),
    Column("score", Double, nullable=False),
    Column("reason", AnyText, nullable=False),
    info={"what": "One ranked file of an answer, with its score and reason."},
)

raw_version = Table(
    "raw_version",
    metadata,
    Column("id", Id, primary_key=True),
    Column("version_id", AnyText, nullable=False, unique=True),
    Column("model", AnyText, nullable=False),
    Column("number", Integer, nullable=False),
    Column("artifact", String(64), nullable=False),
    Column("code_version", AnyText, nullable=False),
    Column("dataset_hash", AnyText, nullable=False),
    Column("config", JsonText, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("parent_version", AnyText),
    Column("metrics", JsonText, nullable=False),
    Column("created_at", Double, nullable=False),
    UniqueConstraint("model", "number"),
    info={"what": "A model version: its artefact, where it comes from, its figures."},
)

raw_move = Table(
    "raw_move",
    metadata,
    Column("id", Id, primary_key=True),
    Column("version_id", ForeignKey(raw_version.c.version_id), nullable=False, index=True),
    Column("before", String(16), nullable=False),
    Column("after", String(16), nullable=False),
    # Why a version left service: by hand, or because another took its place (see `registry`).
    Column("cause", String(16), nullable=False),
    Column("reason", AnyText, nullable=False),
    Column("at", Double, nullable=False),
    info={"what": "One change of a version's status, and why."},
)

raw_session = Table(
    "raw_session",
    metadata,
    Column("session_id", String(64), primary_key=True),
    Column("task", AnyText, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("archived_at", Double, nullable=False),
    info={"what": "A task that is over."},
)

raw_session_item = Table(
    "raw_session_item",
    metadata,
    Column("session_id", ForeignKey(raw_session.c.session_id), primary_key=True),
    Column("key", AnyText, primary_key=True),
    Column("value", JsonText),
    Column("at", Double, nullable=False),
    info={"what": "What its working memory held at the end."},
)

# ---------------------------------------------------------------- curated: can be made again

curated_model_status = Table(
    "curated_model_status",
    metadata,
    Column("version_id", AnyText, primary_key=True),
    Column("model", AnyText, nullable=False),
    Column("status", String(16), nullable=False),
    info={"what": "The present status of each version: a replay of `raw_move`."},
)
# The database itself holds the rule that counts most: one version in service per model.
Index(
    "uq_curated_model_status_live",
    curated_model_status.c.model,
    unique=True,
    sqlite_where=text("status = 'live'"),
    postgresql_where=text("status = 'live'"),
)

curated_blob = Table(
    "curated_blob",
    metadata,
    Column("kind", String(32), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("blob_id", String(64), primary_key=True),
    Column("payload", LargeBinary, nullable=False),
    info={"what": "What was derived from one git blob, by kind and the version of its maker."},
)

curated_history = Table(
    "curated_history",
    metadata,
    Column("id", Id, primary_key=True),
    Column("repository", AnyText, nullable=False, unique=True),
    Column("head", String(64), nullable=False),
    Column("at", Double, nullable=False),
    info={"what": "The commit up to which a repository's history is stored."},
)

curated_commit = Table(
    "curated_commit",
    metadata,
    Column("history_id", ForeignKey(curated_history.c.id), primary_key=True),
    # Topological order, oldest first, counted from 0.
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("commit_id", String(64), nullable=False),
    Column("parent_ids", AnyText, nullable=False),
    Column("author_name", AnyText, nullable=False),
    Column("author_email", AnyText, nullable=False),
    Column("author_time", BigInteger, nullable=False),
    Column("commit_time", BigInteger, nullable=False),
    Column("subject", AnyText, nullable=False),
    Column("body", AnyText, nullable=False),
    Column("num_source_files", Integer, nullable=False),
    Column("num_test_files", Integer, nullable=False),
    Column("num_source_lines", BigInteger, nullable=False),
    Column("message_score", Double, nullable=False),
    Column("labels", JsonText, nullable=False),
    Column("dropped_by", AnyText),
    UniqueConstraint("history_id", "commit_id"),
    info={"what": "A mined commit, in topological order, oldest first."},
)

# No foreign key: a history has ten times as many changes as commits, the check costs a fifth of
# the writing time, and both tables are only ever written together by `history`.
curated_change = Table(
    "curated_change",
    metadata,
    Column("history_id", Id, primary_key=True, autoincrement=False),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("ordinal", Integer, primary_key=True, autoincrement=False),
    Column("path", AnyText, nullable=False),
    Column("status", String(1), nullable=False),
    Column("old_path", AnyText),
    Column("added", BigInteger),
    Column("deleted", BigInteger),
    Column("old_blob", String(64), nullable=False),
    Column("new_blob", String(64), nullable=False),
    sqlite_with_rowid=False,
    info={"what": "What one commit did to one file."},
)

curated_snapshot = Table(
    "curated_snapshot",
    metadata,
    Column("id", Id, primary_key=True),
    Column("repository", AnyText, nullable=False),
    Column("commit_id", String(64), nullable=False),
    Column("num_files", Integer, nullable=False),
    Column("files", LargeBinary, nullable=False),
    Column("at", Double, nullable=False),
    UniqueConstraint("repository", "commit_id"),
    info={"what": "An indexed commit's files: path and blob id, packed."},
)

# ---------------------------------------------------------------- session: one task's memory

session_task = Table(
    "session_task",
    metadata,
    Column("session_id", String(64), primary_key=True),
    Column("task", AnyText, nullable=False),
    Column("started_at", Double, nullable=False),
    info={"what": "A task that is under way."},
)

session_item = Table(
    "session_item",
    metadata,
    Column("session_id", ForeignKey(session_task.c.session_id), primary_key=True),
    Column("key", AnyText, primary_key=True),
    Column("value", JsonText),
    Column("at", Double, nullable=False),
    info={"what": "A value in its working memory."},
)


def tables_of(lifecycle: str) -> list[Table]:
    """The tables of `raw`, `curated` or `session`, referenced ones first."""
    return [table for table in metadata.sorted_tables if table.name.startswith(f"{lifecycle}_")]
