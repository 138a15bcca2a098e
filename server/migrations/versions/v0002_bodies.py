"""Headers apart from bodies: a body stays in the bank while its donor offers it to others."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add what is kept of bodies, and of each offer the header."""
    op.add_column("organs", sa.Column("header", sa.LargeBinary(), nullable=True))
    op.create_table(
        "bodies",
        sa.Column("digest", sa.String(), primary_key=True),
        sa.Column("donor", sa.String(), primary_key=True),
        sa.Column("organ", sa.String(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("banked", sa.Boolean(), nullable=False),
    )
