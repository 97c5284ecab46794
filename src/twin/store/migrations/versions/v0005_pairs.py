"""Training pairs, and an index that finds the trials at a commit."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Column

revision = "0005"
down_revision = "0004"

ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_index("ix_raw_trial_step_commit_id", "raw_trial_step", ["commit_id"])
    op.create_table(
        "curated_pair_commit",
        Column("id", ID, primary_key=True, nullable=False),
        Column("repository", sa.Text(), nullable=False),
        Column("commit_id", sa.String(64), nullable=False),
        Column("parent_id", sa.String(64), nullable=False),
        Column("commit_time", sa.BigInteger(), nullable=False),
        Column("made_from", sa.String(64), nullable=False),
        Column("left_out", sa.Text(), nullable=False),
        Column("at", sa.Double(), nullable=False),
        sa.UniqueConstraint("repository", "commit_id"),
    )
    op.create_table(
        "curated_pair",
        Column("id", ID, primary_key=True, nullable=False),
        Column("made_id", ID, nullable=False),
        Column("ordinal", sa.Integer(), nullable=False),
        Column("kind", sa.String(16), nullable=False),
        Column("stage", sa.String(8), nullable=False),
        Column("content_hash", sa.String(64), nullable=False),
        Column("source", sa.String(16), nullable=False),
        Column("campaign", sa.String(64), nullable=False),
        Column("trial", sa.Integer()),
        Column("validity", sa.String(16), nullable=False),
        Column("context_id", sa.String(64), nullable=False),
        Column("code_version", sa.Text(), nullable=False),
        Column("num_tokens", sa.BigInteger(), nullable=False),
        Column("task", sa.Text(), nullable=False),
        Column("prompt", sa.Text(), nullable=False),
        Column("completion", sa.Text(), nullable=False),
        Column("rejected", sa.Text(), nullable=False),
        Column("signature", sa.LargeBinary(), nullable=False),
        Column("dropped_by", sa.String(16)),
        sa.ForeignKeyConstraint(["made_id"], ["curated_pair_commit.id"]),
        sa.UniqueConstraint("made_id", "ordinal"),
    )
