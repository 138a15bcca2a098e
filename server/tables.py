"""The tables of the catalogue, as they are now; ``migrations`` makes them of earlier ones."""

from typing import Any

from sqlalchemy import JSON, BigInteger, Double, Index, LargeBinary, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """What all tables have in common: the collection that they stand in."""


class Site(Base):
    """A site in an exchange, with its latest enrolment."""

    __tablename__ = "sites"
    __table_args__ = (UniqueConstraint("exchange", "site"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    exchange: Mapped[str]
    site: Mapped[str]
    enrolment: Mapped[bytes] = mapped_column(LargeBinary)


class Organ(Base):
    """An organ that is offered in an exchange; without a header, it must be fetched anew."""

    __tablename__ = "organs"
    __table_args__ = (UniqueConstraint("exchange", "digest"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    exchange: Mapped[str]
    digest: Mapped[str]
    donor: Mapped[str]
    donation: Mapped[bytes] = mapped_column(LargeBinary)
    header: Mapped[bytes | None] = mapped_column(LargeBinary)


class Body(Base):
    """Room for a donor's sealed body in the bank; ``banked`` once it is there and verified."""

    __tablename__ = "bodies"
    digest: Mapped[str] = mapped_column(primary_key=True)
    donor: Mapped[str] = mapped_column(primary_key=True)
    organ: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)
    banked: Mapped[bool]


class Receipt(Base):
    """The latest receipt of a recipient for an organ and a mode.

    ``donor`` and ``verdict`` stand in the receipt, too: here they are counted.
    """

    __tablename__ = "receipts"
    __table_args__ = (
        UniqueConstraint("exchange", "organ", "recipient", "mode"),
        Index("ix_receipts_verdict", "exchange", "organ", "recipient", "donor", "verdict"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    exchange: Mapped[str]
    organ: Mapped[str]
    recipient: Mapped[str]
    mode: Mapped[str]
    donor: Mapped[str]
    verdict: Mapped[str]
    envelope: Mapped[bytes] = mapped_column(LargeBinary)
    receipt: Mapped[bytes] = mapped_column(LargeBinary)


class Run(Base):
    """What a run of an exchange came to."""

    __tablename__ = "runs"
    id: Mapped[int] = mapped_column(primary_key=True)
    exchange: Mapped[str]
    facts: Mapped[dict[str, Any]] = mapped_column(JSON)


class Node(Base):
    """A site's node, and the word that it was admitted on."""

    __tablename__ = "nodes"
    site: Mapped[str] = mapped_column(primary_key=True)
    node: Mapped[str]  # 64 bits without a sign, which no database's integers hold
    admission: Mapped[bytes] = mapped_column(LargeBinary)


class Contact(Base):
    """When a site's node was last there, in seconds since the epoch."""

    __tablename__ = "contacts"
    site: Mapped[str] = mapped_column(primary_key=True)
    time: Mapped[float] = mapped_column(Double)


class Event(Base):
    """What a site did in an exchange, or failed to do; ``organ`` where it is about one."""

    __tablename__ = "events"
    id: Mapped[int] = mapped_column(primary_key=True)
    exchange: Mapped[str] = mapped_column(index=True)
    time: Mapped[float] = mapped_column(Double)
    site: Mapped[str]
    step: Mapped[str]
    code: Mapped[str]
    organ: Mapped[str]


class Exchange(Base):
    """An exchange that was asked for."""

    __tablename__ = "exchanges"
    name: Mapped[str] = mapped_column(primary_key=True)
    config: Mapped[dict[str, Any]] = mapped_column(JSON)
    state: Mapped[str]
    run: Mapped[str]
    runs: Mapped[int]
    since: Mapped[float] = mapped_column(Double)


class LogEntry(Base):
    """An entry of the log, as it is hashed, and what it is looked up by."""

    __tablename__ = "log_entries"
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    event: Mapped[str]
    site: Mapped[str]
    exchange: Mapped[str]
    digest: Mapped[str] = mapped_column(index=True)
    leaf: Mapped[bytes] = mapped_column(LargeBinary)


class LogNode(Base):
    """The hash over ``2 ** level`` entries from ``number * 2 ** level`` on."""

    __tablename__ = "log_nodes"
    level: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    hash: Mapped[bytes] = mapped_column(LargeBinary)


class Witness(Base):
    """What a site has last signed of the log."""

    __tablename__ = "witnesses"
    site: Mapped[str] = mapped_column(primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    time: Mapped[int] = mapped_column(BigInteger)
    profile: Mapped[bytes] = mapped_column(LargeBinary)
    envelope: Mapped[bytes] = mapped_column(LargeBinary)
