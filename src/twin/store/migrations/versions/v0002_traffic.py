"""The gateway: virtual keys, recorded calls, feedback, preferences, sums of spending."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Column

from twin.store.triggers import append_only, never_changed

revision = "0002"
down_revision = "0001"

ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
Type = sa.types.TypeEngine[Any]
TEXT: Type = sa.Text()
FLOAT: Type = sa.Double()
HASH: Type = sa.String(64)
WORD: Type = sa.String(16)
INT: Type = sa.Integer()
BIG: Type = sa.BigInteger()
BOOL: Type = sa.Boolean()
BYTES: Type = sa.LargeBinary()

APPEND_ONLY = ("raw_key", "raw_key_end")
NEVER_CHANGED = (
    "traffic_call", "traffic_attempt", "traffic_payload", "traffic_context", "traffic_feedback",
    "traffic_preference",
)  # fmt: skip


def upgrade() -> None:
    _keys()
    _calls()
    _parts_of_calls()
    _what_was_said()
    _spend()
    dialect = op.get_bind().dialect.name
    for table in APPEND_ONLY:
        for statement in append_only(dialect, table):
            op.execute(statement)
    for table in NEVER_CHANGED:
        for statement in never_changed(dialect, table):
            op.execute(statement)


def _key(name: str, type_: Type) -> Column[Any]:
    return Column(name, type_, primary_key=True, autoincrement=False, nullable=False)


def _number() -> Column[Any]:
    return Column("id", ID, primary_key=True, nullable=False)


def _filled(name: str, type_: Type) -> Column[Any]:
    return Column(name, type_, nullable=False)


def _keys() -> None:
    op.create_table(
        "raw_key",
        _number(),
        _filled("key_id", HASH),
        _filled("name", TEXT),
        _filled("digest", HASH),
        _filled("models", TEXT),
        Column("monthly_usd", FLOAT),
        Column("requests_per_minute", BIG),
        Column("tokens_per_minute", BIG),
        Column("expires_at", FLOAT),
        _filled("at", FLOAT),
        sa.UniqueConstraint("key_id"),
        sa.UniqueConstraint("digest"),
    )
    op.create_table(
        "raw_key_end",
        _key("key_id", HASH),
        _filled("at", FLOAT),
        sa.ForeignKeyConstraint(["key_id"], ["raw_key.key_id"]),
    )


def _calls() -> None:
    op.create_table(
        "traffic_call",
        _key("number", ID),
        _filled("call_id", TEXT),
        _filled("at", FLOAT),
        _filled("dialect", WORD),
        _filled("outcome", WORD),
        _filled("asked_model", TEXT),
        _filled("model", TEXT),
        _filled("key_id", TEXT),
        _filled("session", TEXT),
        _filled("task_id", TEXT),
        _filled("status", INT),
        _filled("error", TEXT),
        _filled("is_stream", BOOL),
        _filled("is_degraded", BOOL),
        _filled("is_escalated", BOOL),
        Column("first_byte_ms", FLOAT),
        _filled("latency_ms", FLOAT),
        _filled("num_prompt_tokens", BIG),
        _filled("num_completion_tokens", BIG),
        _filled("cost_usd", FLOAT),
        Column("route", TEXT),
        _filled("meta", TEXT),
        _filled("num_bytes", BIG),
        sa.UniqueConstraint("call_id"),
    )
    op.create_index("ix_traffic_call_at", "traffic_call", ["at"])
    op.create_index("ix_traffic_call_session", "traffic_call", ["session"])


def _parts_of_calls() -> None:
    op.create_table(
        "traffic_attempt",
        _key("call_number", ID),
        _key("ordinal", INT),
        _filled("model", TEXT),
        _filled("outcome", WORD),
        _filled("account", TEXT),
        _filled("upstream_model", TEXT),
        _filled("dialect", WORD),
        _filled("status", INT),
        _filled("reason", TEXT),
        Column("confidence", FLOAT),
        _filled("started_ms", FLOAT),
        Column("first_byte_ms", FLOAT),
        _filled("latency_ms", FLOAT),
        _filled("is_streamed", BOOL),
        _filled("chunk_ms", BYTES),
        Column("num_prompt_tokens", BIG),
        Column("num_completion_tokens", BIG),
        Column("num_cached_tokens", BIG),
        Column("is_estimated", BOOL),
        _filled("cost_usd", FLOAT),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "traffic_payload",
        _key("call_number", ID),
        _key("ordinal", INT),
        _key("part", WORD),
        _filled("codec", WORD),
        _filled("body", BYTES),
    )
    op.create_table(
        "traffic_context",
        _key("call_number", ID),
        _key("ordinal", INT),
        _filled("source", TEXT),
        _filled("name", TEXT),
        _filled("relevance", FLOAT),
        _filled("num_tokens", BIG),
        sqlite_with_rowid=False,
    )


def _what_was_said() -> None:
    op.create_table(
        "traffic_feedback",
        _number(),
        _filled("feedback_id", TEXT),
        _filled("call_id", TEXT),
        _filled("at", FLOAT),
        Column("score", FLOAT),
        _filled("comment", TEXT),
        _filled("demonstration", TEXT),
        _filled("key_id", TEXT),
        sa.UniqueConstraint("feedback_id"),
    )
    op.create_index("ix_traffic_feedback_call_id", "traffic_feedback", ["call_id"])
    op.create_table(
        "traffic_preference",
        _number(),
        _filled("call_number", BIG),
        _filled("rejected", INT),
        Column("chosen", INT),
        _filled("feedback_id", TEXT),
        _filled("reason", TEXT),
        _filled("at", FLOAT),
        sa.UniqueConstraint("call_number", "rejected", "feedback_id"),
    )
    op.create_index("ix_traffic_preference_call_number", "traffic_preference", ["call_number"])


def _spend() -> None:
    op.create_table(
        "traffic_spend",
        _key("month", sa.String(7)),
        _key("key_id", TEXT),
        _key("model", TEXT),
        _filled("num_calls", BIG),
        _filled("num_prompt_tokens", BIG),
        _filled("num_completion_tokens", BIG),
        _filled("cost_usd", FLOAT),
    )
