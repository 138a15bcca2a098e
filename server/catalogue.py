"""What the coordinator remembers: sites, offers, receipts and failed steps, in SQL.

Everything here is public within the federation or signed by a site; nothing opens an organ.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import JSON, LargeBinary, UniqueConstraint, create_engine, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from not_core import canonical
from not_core.errors import ExchangeError
from not_core.protocol import Donation, Enrolment, Receipt

RUNNING, CANCELLING, CANCELLED = "running", "cancelling", "cancelled"
UNFINISHED = (RUNNING, CANCELLING)
"""States of an exchange that has not ended."""


class _Base(DeclarativeBase):
    pass


class _Site(_Base):
    __tablename__ = "sites"
    __table_args__ = (UniqueConstraint("exchange", "site"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    exchange: Mapped[str]
    site: Mapped[str]
    enrolment: Mapped[bytes] = mapped_column(LargeBinary)


class _Organ(_Base):
    __tablename__ = "organs"
    __table_args__ = (UniqueConstraint("exchange", "digest"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    exchange: Mapped[str]
    digest: Mapped[str]
    donor: Mapped[str]
    donation: Mapped[bytes] = mapped_column(LargeBinary)


class _Receipt(_Base):
    __tablename__ = "receipts"
    __table_args__ = (UniqueConstraint("exchange", "organ", "recipient", "mode"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    exchange: Mapped[str]
    organ: Mapped[str]
    recipient: Mapped[str]
    mode: Mapped[str]
    envelope: Mapped[bytes] = mapped_column(LargeBinary)
    receipt: Mapped[bytes] = mapped_column(LargeBinary)


class _Run(_Base):
    __tablename__ = "runs"
    id: Mapped[int] = mapped_column(primary_key=True)
    exchange: Mapped[str]
    facts: Mapped[dict[str, Any]] = mapped_column(JSON)


class _Node(_Base):
    __tablename__ = "nodes"
    site: Mapped[str] = mapped_column(primary_key=True)
    node: Mapped[str]  # 64 bits without a sign, which no database's integers hold
    admission: Mapped[bytes] = mapped_column(LargeBinary)


class _Contact(_Base):
    __tablename__ = "contacts"
    site: Mapped[str] = mapped_column(primary_key=True)
    time: Mapped[float]


class _Event(_Base):
    __tablename__ = "events"
    id: Mapped[int] = mapped_column(primary_key=True)
    exchange: Mapped[str] = mapped_column(index=True)
    time: Mapped[float]
    site: Mapped[str]
    step: Mapped[str]
    code: Mapped[str]


class _Exchange(_Base):
    __tablename__ = "exchanges"
    name: Mapped[str] = mapped_column(primary_key=True)
    config: Mapped[dict[str, Any]] = mapped_column(JSON)
    state: Mapped[str]
    run: Mapped[str]
    runs: Mapped[int]
    since: Mapped[float]


@dataclass(frozen=True, slots=True)
class Begun:
    """An exchange that was asked for.

    Attributes:
        name: Its name.
        config: What it is, as its runs are told.
        state: ``running``, ``cancelling``, or how it ended.
        run: Flower's number of its latest run; 0 where there is none.
        runs: How many there were.
        since: When the latest began, in seconds since the epoch.
    """

    name: str
    config: dict[str, Any]
    state: str
    run: int
    runs: int
    since: float


@dataclass(frozen=True, slots=True)
class Happened:
    """What a site did in an exchange, or failed to do.

    Attributes:
        time: Seconds since the epoch.
        site: The site, or its node where nobody knows yet whose it is.
        step: Such as ``enrol``.
        code: Of what went wrong; empty where nothing did.
    """

    time: float
    site: str
    step: str
    code: str


class Catalogue:
    """The catalogue at a database URL; tables are made when they are not there.

    Args:
        url: An SQLAlchemy URL.
    """

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url)
        _Base.metadata.create_all(self._engine)

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def enrolled(self, exchange: str, enrolment: Enrolment) -> None:
        """Remember a site; its latest enrolment in an exchange is the one that counts."""
        with self._session() as session:
            row = session.scalar(
                select(_Site).filter_by(exchange=exchange, site=enrolment.profile.site)
            )
            row = row or _Site(exchange=exchange, site=enrolment.profile.site)
            row.enrolment = canonical.encode(enrolment)
            session.add(row)

    def offered(self, exchange: str, digest: str, donor: str, donation: Donation) -> None:
        """Remember an offered organ."""
        with self._session() as session:
            row = session.scalar(select(_Organ).filter_by(exchange=exchange, digest=digest))
            row = row or _Organ(exchange=exchange, digest=digest, donor=donor)
            row.donation = canonical.encode(donation)
            session.add(row)

    def received(self, receipt: Receipt, envelope: bytes) -> None:
        """Remember a signed receipt; the latest for an organ, recipient and mode counts."""
        with self._session() as session:
            key = {
                "exchange": receipt.exchange,
                "organ": receipt.organ,
                "recipient": receipt.recipient,
                "mode": receipt.mode,
            }
            row = session.scalar(select(_Receipt).filter_by(**key)) or _Receipt(**key)
            row.envelope, row.receipt = envelope, canonical.encode(receipt)
            session.add(row)

    def happened(self, exchange: str, event: Happened) -> None:
        """Remember what a site did."""
        with self._session() as session:
            row = {"time": event.time, "site": event.site, "step": event.step, "code": event.code}
            session.add(_Event(exchange=exchange, **row))

    def events(self, exchange: str, most: int) -> list[Happened]:
        """What sites did in an exchange, newest first, and no more than so many."""
        with self._session() as session:
            rows = session.scalars(
                select(_Event).filter_by(exchange=exchange).order_by(_Event.id.desc()).limit(most)
            )
            return [Happened(row.time, row.site, row.step, row.code) for row in rows]

    def heard(self, site: str, time: float) -> None:
        """Note that a site's node is there."""
        with self._session() as session:
            session.merge(_Contact(site=site, time=time))

    def contacts(self) -> dict[str, float]:
        """When each site was last heard of: of its node, or in an exchange."""
        with self._session() as session:
            found = session.execute(
                select(_Event.site, func.max(_Event.time))
                .filter(_Event.code.not_in(("timeout", "unreachable")))
                .group_by(_Event.site)
            ).all()
            latest = {site: time for site, time in found}
            for row in session.scalars(select(_Contact)):
                latest[row.site] = max(row.time, latest.get(row.site, 0.0))
            return latest

    def ran(self, exchange: str, facts: dict[str, Any]) -> None:
        """Remember the failures, bytes and seconds of a run."""
        with self._session() as session:
            session.add(_Run(exchange=exchange, facts=json.loads(json.dumps(facts))))

    def enrolments(self, exchange: str) -> list[Enrolment]:
        """Sites of an exchange, by name."""
        with self._session() as session:
            rows = session.scalars(select(_Site).filter_by(exchange=exchange).order_by(_Site.site))
            return [canonical.decode(Enrolment, row.enrolment, "enrolment") for row in rows]

    def donations(self, exchange: str) -> list[tuple[str, str, Donation]]:
        """Digest, donor and donation of each organ of an exchange, by donor."""
        with self._session() as session:
            rows = session.scalars(
                select(_Organ).filter_by(exchange=exchange).order_by(_Organ.donor)
            )
            return [
                (row.digest, row.donor, canonical.decode(Donation, row.donation, "donation"))
                for row in rows
            ]

    def receipts(self, exchange: str) -> list[Receipt]:
        """Receipts of an exchange, by organ and recipient."""
        with self._session() as session:
            rows = session.scalars(
                select(_Receipt)
                .filter_by(exchange=exchange)
                .order_by(_Receipt.organ, _Receipt.recipient)
            )
            return [canonical.decode(Receipt, row.receipt, "receipt") for row in rows]

    def signed_receipt(
        self, exchange: str, organ: str, recipient: str, mode: str
    ) -> tuple[Receipt, bytes] | None:
        """A receipt, and the envelope that its recipient signed; None where there is none."""
        with self._session() as session:
            row = session.scalar(
                select(_Receipt).filter_by(
                    exchange=exchange, organ=organ, recipient=recipient, mode=mode
                )
            )
            if row is None:
                return None
            return canonical.decode(Receipt, row.receipt, "receipt"), row.envelope

    def last_run(self, exchange: str) -> dict[str, Any] | None:
        """Facts of the latest run of an exchange."""
        with self._session() as session:
            row = session.scalar(
                select(_Run).filter_by(exchange=exchange).order_by(_Run.id.desc()).limit(1)
            )
            return None if row is None else dict(row.facts)

    def nodes(self) -> dict[str, tuple[int, bytes]]:
        """By site: its node's id, and the envelope that it was admitted with."""
        with self._session() as session:
            rows = session.scalars(select(_Node).order_by(_Node.site))
            return {row.site: (int(row.node), row.admission) for row in rows}

    def admitted(self, site: str, node: int, admission: bytes) -> None:
        """Remember a site's node, instead of an earlier one."""
        with self._session() as session:
            session.merge(_Node(site=site, node=str(node), admission=admission))

    def expelled(self, site: str) -> None:
        """Forget a site's node."""
        with self._session() as session:
            session.delete(session.get_one(_Node, site))

    def begin(self, name: str, config: dict[str, Any]) -> None:
        """Ask for an exchange, or for one that has ended to go on.

        Raises:
            ExchangeError: One of that name is something else, or is being cancelled.
        """
        with self._session() as session:
            row = session.get(_Exchange, name)
            if row is None:
                row = _Exchange(name=name, config=config)
            elif row.config != config:
                raise ExchangeError(
                    f"exchange {name} was begun with other terms; choose another name"
                )
            if row.state == CANCELLING:
                raise ExchangeError(f"exchange {name} is being cancelled; try again when it is")
            if row.state != RUNNING:  # new, or ended
                row.state, row.run, row.runs, row.since = RUNNING, "0", 0, 0.0
            session.add(row)

    def running(self, name: str, run: int, since: float) -> None:
        """Note that an exchange has another run."""
        with self._session() as session:
            row = session.get_one(_Exchange, name)
            row.run, row.runs, row.since = str(run), row.runs + 1, since

    def ended(self, name: str, state: str) -> None:
        """Note how an exchange ended."""
        with self._session() as session:
            session.get_one(_Exchange, name).state = state

    def cancel(self, name: str) -> None:
        """Ask for an exchange to be stopped; what has come of it stays.

        Raises:
            ExchangeError: It does not run.
        """
        with self._session() as session:
            row = session.get(_Exchange, name)
            if row is None or row.state != RUNNING:
                state = "not there" if row is None else row.state
                raise ExchangeError(f"exchange {name} is {state}; only one that runs is cancelled")
            row.state = CANCELLING

    def begun(self) -> list[Begun]:
        """All exchanges that were asked for, by name."""
        with self._session() as session:
            rows = session.scalars(select(_Exchange).order_by(_Exchange.name))
            return [
                Begun(row.name, dict(row.config), row.state, int(row.run), row.runs, row.since)
                for row in rows
            ]

    def unfinished(self) -> list[Begun]:
        """Those that have not ended."""
        return [one for one in self.begun() if one.state in UNFINISHED]

    def exchanges(self) -> list[str]:
        """Names of all exchanges."""
        with self._session() as session:
            return sorted(set(session.scalars(select(_Site.exchange))))

    @contextmanager
    def _session(self) -> Iterator[Session]:
        with Session(self._engine) as session, session.begin():
            yield session
