"""The tables that the first catalogues had, which wrote no version down.

Some of them are older than ``nodes`` and ``exchanges``, so each table is made where it is absent.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables that are not there."""
    op.create_table(
        "sites",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("exchange", sa.String(), nullable=False),
        sa.Column("site", sa.String(), nullable=False),
        sa.Column("enrolment", sa.LargeBinary(), nullable=False),
        sa.UniqueConstraint("exchange", "site"),
        if_not_exists=True,
    )
    op.create_table(
        "organs",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("exchange", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("donor", sa.String(), nullable=False),
        sa.Column("donation", sa.LargeBinary(), nullable=False),
        sa.UniqueConstraint("exchange", "digest"),
        if_not_exists=True,
    )
    op.create_table(
        "receipts",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("exchange", sa.String(), nullable=False),
        sa.Column("organ", sa.String(), nullable=False),
        sa.Column("recipient", sa.String(), nullable=False),
        sa.Column("mode", sa.String(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("receipt", sa.LargeBinary(), nullable=False),
        sa.UniqueConstraint("exchange", "organ", "recipient", "mode"),
        if_not_exists=True,
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("exchange", sa.String(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "nodes",
        sa.Column("site", sa.String(), primary_key=True),
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("admission", sa.LargeBinary(), nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "exchanges",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("run", sa.String(), nullable=False),
        sa.Column("runs", sa.Integer(), nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        if_not_exists=True,
    )
