"""What pages show: each step of an exchange, and when sites' nodes were last there."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add a table for each."""
    op.create_table(
        "contacts",
        sa.Column("site", sa.String(), primary_key=True),
        sa.Column("time", sa.Double(), nullable=False),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("exchange", sa.String(), nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("site", sa.String(), nullable=False),
        sa.Column("step", sa.String(), nullable=False),
        sa.Column("code", sa.String(), nullable=False),
    )
    op.create_index("ix_events_exchange", "events", ["exchange"])
