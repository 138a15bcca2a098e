"""The exchanges that were asked for: when each begins, which runs it has had, how it ended."""

from dataclasses import dataclass, replace

from sqlalchemy import Engine, select

from not_core.errors import ExchangeError
from server import database, tables
from server.asked import Asked, read

RUNNING, COMPLETED = "running", "completed"
CANCELLING, CANCELLED = "cancelling", "cancelled"
UNFINISHED = (RUNNING, CANCELLING)
"""States of an exchange that has not ended."""
SCHEDULED = "scheduled"
"""What is said of one that is ``running`` and waits for its time."""


@dataclass(frozen=True, slots=True)
class Begun:
    """An exchange that was asked for.

    Attributes:
        name: Its name.
        asked: What it is.
        state: ``running``, ``cancelling``, or how it ended.
        run: Flower's number of its latest run; 0 where there is none.
        runs: How many there were.
        since: When the latest began, in seconds since the epoch; when the first is to, where there
            is none yet.
    """

    name: str
    asked: Asked
    state: str
    run: int
    runs: int
    since: float

    def waits(self, now: float) -> bool:
        """Whether its first run is yet to begin, at a time that was asked for."""
        return self.state == RUNNING and not self.run and self.since > now


class Schedule:
    """The exchanges of a catalogue.

    Args:
        engine: Of the catalogue's database.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def begin(self, asked: Asked, at: float = 0.0) -> None:
        """Ask for an exchange, or for one that has ended to go on, with as many sites as there are.

        Args:
            asked: What it is; sites may be others than before.
            at: When it is to begin, in seconds since the epoch.

        Raises:
            ExchangeError: One of that name is something else, is being cancelled, or is under way
                with other sites or at another time.
        """
        name = asked.exchange
        with database.writing(self._engine) as session:
            row = session.get(tables.Exchange, name)
            row = row or tables.Exchange(name=name, config=asked.words)
            before = read(row.config)
            if replace(before, sites=asked.sites, invited=asked.invited) != asked:
                raise ExchangeError(
                    f"exchange {name} was begun with other terms; choose another name"
                )
            if row.state == CANCELLING:
                raise ExchangeError(f"exchange {name} is being cancelled; try again when it is")
            under_way = row.state == RUNNING and row.runs
            if under_way and (before != asked or at):
                raise ExchangeError(
                    f"exchange {name} is under way, with the sites that were asked for; "
                    "cancel it first, or wait for its end"
                )
            row.config = asked.words
            if not under_way:  # new, or ended, or waits for its time
                row.state, row.run, row.runs, row.since = RUNNING, "0", 0, at
            session.add(row)

    def running(self, name: str, run: int, since: float) -> None:
        """Note that an exchange has another run."""
        with database.writing(self._engine) as session:
            row = session.get_one(tables.Exchange, name)
            row.run, row.runs, row.since = str(run), row.runs + 1, since

    def ended(self, name: str, state: str) -> None:
        """Note how an exchange ended."""
        with database.writing(self._engine) as session:
            session.get_one(tables.Exchange, name).state = state

    def cancel(self, name: str) -> None:
        """Ask for an exchange to be stopped; what has come of it stays.

        Raises:
            ExchangeError: It does not run.
        """
        with database.writing(self._engine) as session:
            row = session.get(tables.Exchange, name)
            if row is None or row.state != RUNNING:
                state = "not there" if row is None else row.state
                raise ExchangeError(f"exchange {name} is {state}; only one that runs is cancelled")
            row.state = CANCELLING

    def begun(self) -> list[Begun]:
        """All exchanges that were asked for, by name."""
        with database.reading(self._engine) as session:
            rows = session.scalars(select(tables.Exchange).order_by(tables.Exchange.name))
            return [
                Begun(row.name, read(row.config), row.state, int(row.run), row.runs, row.since)
                for row in rows
            ]

    def unfinished(self) -> list[Begun]:
        """Those that have not ended."""
        return [one for one in self.begun() if one.state in UNFINISHED]
