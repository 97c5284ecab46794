"""Tests that were found for commits, and faults that were put into code."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Column

from twin.store.triggers import append_only

revision = "0004"
down_revision = "0003"

ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    for table in ("raw_supplement", "raw_mutant"):
        op.create_table(
            table,
            Column("id", ID, primary_key=True, nullable=False),
            Column("lookup", sa.String(64), nullable=False),
            Column("pack", sa.Text(), nullable=False),
            Column("commit_id", sa.String(64), nullable=False),
            Column("why", sa.String(16), nullable=False),
            Column("seconds", sa.Double(), nullable=False),
            Column("result", sa.Text(), nullable=False),
            Column("at", sa.Double(), nullable=False),
            sa.UniqueConstraint("lookup"),
        )
        op.create_index(f"ix_{table}_commit_id", table, ["commit_id"])
        for statement in append_only(op.get_bind().dialect.name, table):
            op.execute(statement)
