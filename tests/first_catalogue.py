"""The catalogue's tables as the first version made them, to upgrade from: do not change."""

from typing import Any

from sqlalchemy import JSON, LargeBinary, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class Site(Base):
    __tablename__ = "sites"
    __table_args__ = (UniqueConstraint("exchange", "site"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    exchange: Mapped[str]
    site: Mapped[str]
    enrolment: Mapped[bytes] = mapped_column(LargeBinary)


class Organ(Base):
    __tablename__ = "organs"
    __table_args__ = (UniqueConstraint("exchange", "digest"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    exchange: Mapped[str]
    digest: Mapped[str]
    donor: Mapped[str]
    donation: Mapped[bytes] = mapped_column(LargeBinary)


class Receipt(Base):
    __tablename__ = "receipts"
    __table_args__ = (UniqueConstraint("exchange", "organ", "recipient", "mode"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    exchange: Mapped[str]
    organ: Mapped[str]
    recipient: Mapped[str]
    mode: Mapped[str]
    envelope: Mapped[bytes] = mapped_column(LargeBinary)
    receipt: Mapped[bytes] = mapped_column(LargeBinary)


class Run(Base):
    __tablename__ = "runs"
    id: Mapped[int] = mapped_column(primary_key=True)
    exchange: Mapped[str]
    facts: Mapped[dict[str, Any]] = mapped_column(JSON)


class Node(Base):
    __tablename__ = "nodes"
    site: Mapped[str] = mapped_column(primary_key=True)
    node: Mapped[str]
    admission: Mapped[bytes] = mapped_column(LargeBinary)


class Exchange(Base):
    __tablename__ = "exchanges"
    name: Mapped[str] = mapped_column(primary_key=True)
    config: Mapped[dict[str, Any]] = mapped_column(JSON)
    state: Mapped[str]
    run: Mapped[str]
    runs: Mapped[int]
    since: Mapped[float]
