"""What running commits' tests showed, and the steps of trials at them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Column

from twin.store.triggers import append_only

revision = "0003"
down_revision = "0002"

ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "raw_validation",
        Column("id", ID, primary_key=True, nullable=False),
        Column("lookup", sa.String(64), nullable=False),
        Column("pack", sa.Text(), nullable=False),
        Column("commit_id", sa.String(64), nullable=False),
        Column("why", sa.String(16), nullable=False),
        Column("level", sa.String(16)),
        Column("seconds", sa.Double(), nullable=False),
        Column("result", sa.Text(), nullable=False),
        Column("at", sa.Double(), nullable=False),
        sa.UniqueConstraint("lookup"),
    )
    op.create_index("ix_raw_validation_commit_id", "raw_validation", ["commit_id"])
    op.create_table(
        "raw_trial_step",
        Column("id", ID, primary_key=True, nullable=False),
        Column("lookup", sa.String(64), nullable=False),
        Column("campaign", sa.String(64), nullable=False),
        Column("pack", sa.Text(), nullable=False),
        Column("commit_id", sa.String(64), nullable=False),
        Column("number", sa.Integer(), nullable=False),
        Column("step", sa.String(16), nullable=False),
        Column("seconds", sa.Double(), nullable=False),
        Column("result", sa.Text(), nullable=False),
        Column("at", sa.Double(), nullable=False),
        sa.UniqueConstraint("lookup"),
    )
    op.create_index("ix_raw_trial_step_campaign", "raw_trial_step", ["campaign"])
    for table in ("raw_validation", "raw_trial_step"):
        for statement in append_only(op.get_bind().dialect.name, table):
            op.execute(statement)
