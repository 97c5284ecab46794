"""Work that several processes share: items with their leases, and who waits for them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Column

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "work_item",
        Column("key", sa.String(64), primary_key=True, nullable=False),
        Column("told", sa.Text(), nullable=False),
        Column("owner", sa.Text(), nullable=False),
        Column("queue", sa.Text(), nullable=False),
        Column("expires_at", sa.Double(), nullable=False),
        Column("num_tries", sa.Integer(), nullable=False),
        Column("reason", sa.Text(), nullable=False),
    )
    op.create_index("ix_work_item_owner", "work_item", ["owner"])
    op.create_table(
        "work_wish",
        Column("queue", sa.Text(), primary_key=True, nullable=False),
        Column("position", sa.Integer(), primary_key=True, nullable=False, autoincrement=False),
        Column("key", sa.String(64), nullable=False),
    )
    op.create_index("ix_work_wish_key", "work_wish", ["key"])
