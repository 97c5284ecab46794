"""Every table, once, for SQLite and PostgreSQL alike; the prefix of its name is its lifecycle.

`raw_*` only grows: triggers refuse UPDATE and DELETE. `curated_*` can be dropped at any time and
made again from the repository and from raw. `session_*` is one task's working memory. `traffic_*`
is what passed the gateway: triggers refuse UPDATE, and only retention deletes. `work_*` is who does
what at the moment, and can be emptied whenever nothing runs. Reads and writes nothing itself;
`migrations` brings a database to this shape, and a test holds the two together. `info["what"]` of
each table stands in `docs/store.md`.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from twin.store.columns import AnyText, Id, JsonText

REVISION = "0006"
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

# Virtual keys are raw: who was let in, and until when, is never rewritten.
raw_key = Table(
    "raw_key",
    metadata,
    Column("id", Id, primary_key=True),
    Column("key_id", String(64), nullable=False, unique=True),
    Column("name", AnyText, nullable=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("models", JsonText, nullable=False),
    Column("monthly_usd", Double),
    Column("requests_per_minute", BigInteger),
    Column("tokens_per_minute", BigInteger),
    Column("expires_at", Double),
    Column("at", Double, nullable=False),
    info={"what": "A virtual key that was given out: its limits, and the SHA-256 of its secret."},
)

raw_key_end = Table(
    "raw_key_end",
    metadata,
    Column("key_id", ForeignKey(raw_key.c.key_id), primary_key=True),
    Column("at", Double, nullable=False),
    info={"what": "When a virtual key was revoked."},
)

raw_validation = Table(
    "raw_validation",
    metadata,
    Column("id", Id, primary_key=True),
    # A digest of the pack, the commit, its environment and how it was asked: one answer for each.
    Column("lookup", String(64), nullable=False, unique=True),
    Column("pack", AnyText, nullable=False),
    Column("commit_id", String(64), nullable=False, index=True),
    Column("why", String(16), nullable=False),
    Column("level", String(16)),
    Column("seconds", Double, nullable=False),
    Column("result", JsonText, nullable=False),
    Column("at", Double, nullable=False),
    info={"what": "What running a commit's tests showed, and `why` it is not valid."},
)

raw_trial_step = Table(
    "raw_trial_step",
    metadata,
    Column("id", Id, primary_key=True),
    # A digest of the campaign's settings, the commit, the trial's number and the step.
    Column("lookup", String(64), nullable=False, unique=True),
    Column("campaign", String(64), nullable=False, index=True),
    Column("pack", AnyText, nullable=False),
    Column("commit_id", String(64), nullable=False, index=True),
    Column("number", Integer, nullable=False),
    Column("step", String(16), nullable=False),
    Column("seconds", Double, nullable=False),
    Column("result", JsonText, nullable=False),
    Column("at", Double, nullable=False),
    info={"what": "A finished step (retrieve, plan, execute, validate) of one trial at a commit."},
)

raw_supplement = Table(
    "raw_supplement",
    metadata,
    Column("id", Id, primary_key=True),
    # A digest of the pack, the commit, its environment, the generators and how it was asked.
    Column("lookup", String(64), nullable=False, unique=True),
    Column("pack", AnyText, nullable=False),
    Column("commit_id", String(64), nullable=False, index=True),
    Column("why", String(16), nullable=False),
    Column("seconds", Double, nullable=False),
    Column("result", JsonText, nullable=False),
    Column("at", Double, nullable=False),
    info={"what": "Tests generated for a commit, and `why` none of them is accepted."},
)

raw_mutant = Table(
    "raw_mutant",
    metadata,
    Column("id", Id, primary_key=True),
    # A digest of the pack, the commit, its environment and the fault itself.
    Column("lookup", String(64), nullable=False, unique=True),
    Column("pack", AnyText, nullable=False),
    Column("commit_id", String(64), nullable=False, index=True),
    Column("why", String(16), nullable=False),
    Column("seconds", Double, nullable=False),
    Column("result", JsonText, nullable=False),
    Column("at", Double, nullable=False),
    info={"what": "A fault put into a commit's code, and `why` it makes no task."},
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

curated_pair_commit = Table(
    "curated_pair_commit",
    metadata,
    Column("id", Id, primary_key=True),
    Column("repository", AnyText, nullable=False),
    Column("commit_id", String(64), nullable=False),
    Column("parent_id", String(64), nullable=False),
    Column("commit_time", BigInteger, nullable=False),
    # A digest of all that its pairs depend on; the same again need not be made again.
    Column("made_from", String(64), nullable=False),
    Column("left_out", JsonText, nullable=False),
    Column("at", Double, nullable=False),
    UniqueConstraint("repository", "commit_id"),
    info={"what": "A commit of which training pairs were made, and why others were not."},
)

curated_pair = Table(
    "curated_pair",
    metadata,
    Column("id", Id, primary_key=True),
    Column("made_id", ForeignKey(curated_pair_commit.c.id), nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("stage", String(8), nullable=False),
    Column("content_hash", String(64), nullable=False),
    Column("source", String(16), nullable=False),
    Column("campaign", String(64), nullable=False),
    Column("trial", Integer),
    Column("validity", String(16), nullable=False),
    Column("context_id", String(64), nullable=False),
    Column("code_version", AnyText, nullable=False),
    Column("num_tokens", BigInteger, nullable=False),
    Column("task", AnyText, nullable=False),
    Column("prompt", JsonText, nullable=False),
    Column("completion", AnyText, nullable=False),
    Column("rejected", AnyText, nullable=False),
    # What near-duplicates are found by.
    Column("signature", LargeBinary, nullable=False),
    Column("dropped_by", String(16)),
    UniqueConstraint("made_id", "ordinal"),
    info={"what": "A training pair; `dropped_by` says of which kind of duplicate it is one."},
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

# ---------------------------------------------------------------- traffic: what passed the gateway

# No foreign keys here: the rows of a call are only ever written and removed together, by `traffic`
# and `retention`, and each check would cost a look-up per row on the way of every call.
traffic_call = Table(
    "traffic_call",
    metadata,
    # Given out by `traffic`, in the order in which calls arrive at the store.
    Column("number", Id, primary_key=True, autoincrement=False),
    Column("call_id", AnyText, nullable=False, unique=True),
    Column("at", Double, nullable=False, index=True),
    Column("dialect", String(16), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("asked_model", AnyText, nullable=False),
    Column("model", AnyText, nullable=False),
    Column("key_id", AnyText, nullable=False),
    Column("session", AnyText, nullable=False, index=True),
    Column("task_id", AnyText, nullable=False),
    Column("status", Integer, nullable=False),
    Column("error", AnyText, nullable=False),
    Column("is_stream", Boolean, nullable=False),
    Column("is_degraded", Boolean, nullable=False),
    Column("is_escalated", Boolean, nullable=False),
    Column("first_byte_ms", Double),
    Column("latency_ms", Double, nullable=False),
    # The sums over all attempts; each attempt has its own.
    Column("num_prompt_tokens", BigInteger, nullable=False),
    Column("num_completion_tokens", BigInteger, nullable=False),
    Column("cost_usd", Double, nullable=False),
    # JSON, written and read by `traffic`: msgspec takes a tenth of the time that JsonText does.
    Column("route", Text),
    Column("meta", Text, nullable=False),
    # Roughly what the call takes in the store, for the limit on it.
    Column("num_bytes", BigInteger, nullable=False),
    info={"what": "One call to the gateway: what was asked of whom, and how it ended."},
)

traffic_attempt = Table(
    "traffic_attempt",
    metadata,
    Column("call_number", Id, primary_key=True, autoincrement=False),
    # Counted from 1.
    Column("ordinal", Integer, primary_key=True, autoincrement=False),
    Column("model", AnyText, nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("account", AnyText, nullable=False),
    Column("upstream_model", AnyText, nullable=False),
    Column("dialect", String(16), nullable=False),
    Column("status", Integer, nullable=False),
    Column("reason", AnyText, nullable=False),
    Column("confidence", Double),
    Column("started_ms", Double, nullable=False),
    Column("first_byte_ms", Double),
    Column("latency_ms", Double, nullable=False),
    Column("is_streamed", Boolean, nullable=False),
    # When each piece of a stream arrived: little-endian doubles.
    Column("chunk_ms", LargeBinary, nullable=False),
    Column("num_prompt_tokens", BigInteger),
    Column("num_completion_tokens", BigInteger),
    Column("num_cached_tokens", BigInteger),
    Column("is_estimated", Boolean),
    Column("cost_usd", Double, nullable=False),
    sqlite_with_rowid=False,
    info={"what": "One question to one model while answering a call. No tokens: not known."},
)

traffic_payload = Table(
    "traffic_payload",
    metadata,
    Column("call_number", Id, primary_key=True, autoincrement=False),
    # 0 is the call itself; else the attempt.
    Column("ordinal", Integer, primary_key=True, autoincrement=False),
    Column("part", String(16), primary_key=True),
    # `plain`: zlib at its fastest halves a body for 9 us per kB, more than all else here costs.
    Column("codec", String(16), nullable=False),
    # With row numbers, unlike the other parts: bodies of 50 kB are written in half the time.
    Column("body", LargeBinary, nullable=False),
    info={"what": "A `request`, `response` or `handoff` as sent or received, redacted."},
)

traffic_context = Table(
    "traffic_context",
    metadata,
    Column("call_number", Id, primary_key=True, autoincrement=False),
    Column("ordinal", Integer, primary_key=True, autoincrement=False),
    Column("source", AnyText, nullable=False),
    Column("name", AnyText, nullable=False),
    Column("relevance", Double, nullable=False),
    Column("num_tokens", BigInteger, nullable=False),
    sqlite_with_rowid=False,
    info={"what": "A piece of context that was put before a call's request."},
)

traffic_feedback = Table(
    "traffic_feedback",
    metadata,
    Column("id", Id, primary_key=True),
    Column("feedback_id", AnyText, nullable=False, unique=True),
    # Need not be known: feedback may arrive before its call.
    Column("call_id", AnyText, nullable=False, index=True),
    Column("at", Double, nullable=False),
    Column("score", Double),
    Column("comment", AnyText, nullable=False),
    Column("demonstration", AnyText, nullable=False),
    Column("key_id", AnyText, nullable=False),
    info={"what": "What somebody said of a call afterwards."},
)

traffic_preference = Table(
    "traffic_preference",
    metadata,
    Column("id", Id, primary_key=True),
    Column("call_number", BigInteger, nullable=False, index=True),
    Column("rejected", Integer, nullable=False),
    # Empty where the demonstration of `feedback_id` is what should have been answered.
    Column("chosen", Integer),
    Column("feedback_id", AnyText, nullable=False),
    Column("reason", AnyText, nullable=False),
    Column("at", Double, nullable=False),
    UniqueConstraint("call_number", "rejected", "feedback_id"),
    info={"what": "Two answers to one call of which one is better, by their attempts' ordinals."},
)

# The one table here that is updated: sums, which outlive the calls that they count.
traffic_spend = Table(
    "traffic_spend",
    metadata,
    Column("month", String(7), primary_key=True),
    Column("key_id", AnyText, primary_key=True),
    Column("model", AnyText, primary_key=True),
    Column("num_calls", BigInteger, nullable=False),
    Column("num_prompt_tokens", BigInteger, nullable=False),
    Column("num_completion_tokens", BigInteger, nullable=False),
    Column("cost_usd", Double, nullable=False),
    info={"what": "What one key used of one model in one month (UTC). Stays when calls go."},
)

# ---------------------------------------------------------------- work: who does what at the moment

# No foreign keys: an item goes when it is done while others may just be asking for it.
work_item = Table(
    "work_item",
    metadata,
    # A digest of the question, the same in every campaign that asks it.
    Column("key", String(64), primary_key=True),
    Column("told", JsonText, nullable=False),
    # The process that holds it, and in which queue it took it; empty while nobody does.
    Column("owner", AnyText, nullable=False, index=True),
    Column("queue", AnyText, nullable=False),
    # By the database's clock; the holder puts it off as long as it lives.
    Column("expires_at", Double, nullable=False),
    Column("num_tries", Integer, nullable=False),
    Column("reason", AnyText, nullable=False),
    info={"what": "Work to be done: who holds it, how often it was begun, why that failed."},
)

work_wish = Table(
    "work_wish",
    metadata,
    Column("queue", AnyText, primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("key", String(64), nullable=False, index=True),
    info={"what": "What one running campaign waits for, in its order."},
)


def tables_of(lifecycle: str) -> list[Table]:
    """The tables of `raw`, `curated`, `session`, `traffic` or `work`, referenced ones first."""
    return [table for table in metadata.sorted_tables if table.name.startswith(f"{lifecycle}_")]
