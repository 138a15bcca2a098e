"""What is counted of receipts, in columns; and which organ an event is about."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

ROWS = 1000
"""Receipts that are held in memory at a time."""


def upgrade() -> None:
    """Add the columns, and read those of receipts from the receipts that are there."""
    for table, column in (("receipts", "donor"), ("receipts", "verdict"), ("events", "organ")):
        op.add_column(table, sa.Column(column, sa.String(), nullable=False, server_default=""))
    _fill(op.get_bind())
    columns = ["exchange", "organ", "recipient", "donor", "verdict"]
    op.create_index("ix_receipts_verdict", "receipts", columns)


def _fill(connection: sa.Connection) -> None:
    names = ("id", "receipt", "donor", "verdict")
    receipts = sa.table("receipts", *(sa.column(name) for name in names))
    rows, last = receipts.c, 0
    some = sa.select(rows.id, rows.receipt).order_by(rows.id).limit(ROWS)
    change = (
        sa.update(receipts)
        .where(rows.id == sa.bindparam("row"))
        .values(donor=sa.bindparam("by"), verdict=sa.bindparam("said"))
    )
    while found := connection.execute(some.where(rows.id > last)).all():
        read = [(row.id, json.loads(bytes(row.receipt))) for row in found]
        values = [{"row": row, "by": one["donor"], "said": one["verdict"]} for row, one in read]
        connection.execute(change, values)
        last = found[-1].id
