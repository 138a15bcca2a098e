"""What is counted of a catalogue, in SQL: no receipt is read for it."""

from collections import defaultdict
from dataclasses import dataclass

from sqlalchemy import Engine, case, func, select

from server import database, tables

ACCEPTED = "accepted"
"""The verdict that an organ helps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """How much of an exchange is there.

    Attributes:
        organs: That were offered.
        stored: Of them, in the bank.
        receipts: Of all sites, for these organs.
        accepted: Of them, by other sites than the donor, that accept.
        witnesses: Sites that have signed the log at the end of one of its runs.
    """

    organs: int = 0
    stored: int = 0
    receipts: int = 0
    accepted: int = 0
    witnesses: int = 0


@dataclass(frozen=True, slots=True)
class Tried:
    """What became of an organ at other sites than its donor's: how many accept it, of how many."""

    accepted: int = 0
    sites: int = 0


@dataclass(frozen=True, slots=True)
class Stamp:
    """What is shown of an exchange changes with these alone.

    Attributes:
        state: Of the exchange; empty where nobody here asked for it.
        runs: How many there were.
        sites: That are waited for.
        event: Number of the latest.
    """

    state: str
    runs: int
    sites: int
    event: int


class Counts:
    """Counts in a catalogue's database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def verdicts(self) -> dict[str, int]:
        """Receipts of all exchanges, by verdict."""
        with database.reading(self._engine) as session:
            rows = select(tables.Receipt.verdict, func.count()).group_by(tables.Receipt.verdict)
            return {verdict: number for verdict, number in session.execute(rows)}

    def verdicts_each(self) -> dict[str, dict[str, int]]:
        """Receipts of each exchange, by verdict."""
        row, counts = tables.Receipt, defaultdict[str, dict[str, int]](dict)
        wanted = select(row.exchange, row.verdict, func.count()).group_by(row.exchange, row.verdict)
        with database.reading(self._engine) as session:
            for exchange, verdict, number in session.execute(wanted.order_by(row.verdict)):
                counts[exchange][verdict] = number
        return dict(counts)

    def failures(self) -> dict[str, int]:
        """What failed in each exchange since its latest run began."""
        event, begun = tables.Event, tables.Exchange
        wanted = (
            select(event.exchange, func.count())
            .outerjoin(begun, begun.name == event.exchange)
            .filter(event.code != "", event.time >= func.coalesce(begun.since, 0.0))
            .group_by(event.exchange)
        )
        with database.reading(self._engine) as session:
            return {exchange: number for exchange, number in session.execute(wanted)}

    def states(self) -> dict[str, int]:
        """Exchanges that were asked for, by state."""
        with database.reading(self._engine) as session:
            rows = select(tables.Exchange.state, func.count()).group_by(tables.Exchange.state)
            return {state: number for state, number in session.execute(rows)}

    def organs(self) -> int:
        """Organs of all exchanges, each once."""
        with database.reading(self._engine) as session:
            return session.scalar(select(func.count(tables.Organ.digest.distinct()))) or 0

    def stored_bytes(self) -> int:
        """Of all bodies in the bank."""
        with database.reading(self._engine) as session:
            sizes = select(func.sum(tables.Body.size)).where(tables.Body.banked)
            return int(session.scalar(sizes) or 0)

    def tried(self, exchange: str | None = None) -> dict[str, Tried]:
        """What became of each organ that others tried, in an exchange or in all of them."""
        row = tables.Receipt
        accepting = case((row.verdict == ACCEPTED, row.recipient))
        wanted = (
            select(
                row.organ,
                func.count(accepting.distinct()),
                func.count(row.recipient.distinct()),
            )
            .filter(row.recipient != row.donor)
            .group_by(row.organ)
        )
        if exchange is not None:
            wanted = wanted.filter(row.exchange == exchange)
        with database.reading(self._engine) as session:
            return {organ: Tried(*counts) for organ, *counts in session.execute(wanted)}

    def counted(self, exchange: str | None = None) -> dict[str, Counted]:
        """How much is there of an exchange, or of each of them."""
        organ, receipt, event = tables.Organ, tables.Receipt, tables.Event
        banked = select(tables.Body.organ).filter(tables.Body.banked)
        elsewhere = (receipt.verdict == ACCEPTED) & (receipt.donor != receipt.recipient)
        its = (receipt.exchange == organ.exchange) & (receipt.organ == organ.digest)
        offered = select(
            organ.exchange,
            func.count().label("organs"),
            func.count(case((organ.digest.in_(banked), 1))).label("stored"),
        )
        tried = select(
            receipt.exchange,
            func.count().label("receipts"),
            func.count(case((elsewhere, 1))).label("accepted"),
        ).join(organ, its)
        signed = select(
            event.exchange, func.count(event.site.distinct()).label("witnesses")
        ).filter(event.step == "witness", event.code == "")
        counts: defaultdict[str, dict[str, int]] = defaultdict(dict)
        with database.reading(self._engine) as session:
            for rows, table in ((offered, organ), (tried, receipt), (signed, event)):
                wanted = rows.group_by(table.exchange)
                if exchange is not None:
                    wanted = wanted.filter(table.exchange == exchange)
                for row in session.execute(wanted).mappings():
                    numbers = dict(row)
                    counts[numbers.pop("exchange")] |= numbers
        return {name: Counted(**numbers) for name, numbers in counts.items()}

    def events(self, exchange: str) -> int:
        """How many events there are of an exchange."""
        with database.reading(self._engine) as session:
            number = select(func.count()).select_from(tables.Event).filter_by(exchange=exchange)
            return session.scalar(number) or 0

    def stamp(self, exchange: str) -> Stamp:
        """What is shown of an exchange is of this, and the same while it is."""
        with database.reading(self._engine) as session:
            row = session.get(tables.Exchange, exchange)
            last = select(func.max(tables.Event.id)).filter_by(exchange=exchange)
            event = session.scalar(last) or 0
            if row is None:
                return Stamp("", 0, 0, event)
            return Stamp(row.state, row.runs, int(row.config["sites"]), event)
