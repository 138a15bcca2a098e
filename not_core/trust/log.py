"""A log, hash-chained in SQLite: at a site, every byte that left and every decision.

Each row's hash covers the row and the hash before it, so ``verify`` finds a row that was changed,
dropped from the middle or reordered. It cannot find that the last rows were cut off, or that all
was written anew: for that, keep the number of rows and the last hash elsewhere (``organ-site log``
prints both). Rows hold digests and sizes, never text of a record.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from not_core import canonical
from not_core.errors import HomeError
from not_core.trust.database import reading, writing

GENESIS = "0" * 64
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS entries (number INTEGER PRIMARY KEY, time INTEGER, event TEXT, "
    "what TEXT, digest TEXT, bytes INTEGER, exchange TEXT, previous TEXT, hash TEXT);"
    "CREATE INDEX IF NOT EXISTS entries_what ON entries (what, event);"
    "CREATE INDEX IF NOT EXISTS entries_digest ON entries (digest);"
)
_PAGE = 10_000
"""Rows held at once while the chain is checked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One row.

    Attributes:
        number: Position in the log, from 1.
        time: Seconds since the epoch, UTC.
        event: What happened, such as ``released`` or ``approved``.
        what: What it happened to, such as ``offer``.
        digest: SHA-256 of it; empty where there is none.
        bytes: Its size.
        exchange: The exchange it was for; empty where there is none.
        previous: Hash of the row before.
    """

    number: int
    time: int
    event: str
    what: str
    digest: str
    bytes: int
    exchange: str
    previous: str

    @property
    def hash(self) -> str:
        """SHA-256 over the row, chained to the row before."""
        return canonical.digest(asdict(self))


class Log:
    """Appends to and reads a log; several processes may append at once."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(
        self, event: str, *, what: str, digest: str = "", size: int = 0, exchange: str = ""
    ) -> Entry:
        """Append a row; it is on disk when this returns."""
        with writing(self._path, _SCHEMA) as database:
            row = database.execute(
                "SELECT number, hash FROM entries ORDER BY number DESC LIMIT 1"
            ).fetchone()
            number, previous = row or (0, GENESIS)
            entry = Entry(
                number=number + 1,
                time=int(time.time()),
                event=event,
                what=what,
                digest=digest,
                bytes=size,
                exchange=exchange,
                previous=previous,
            )
            database.execute(
                "INSERT INTO entries VALUES "
                "(:number, :time, :event, :what, :digest, :bytes, :exchange, :previous, :hash)",
                {**asdict(entry), "hash": entry.hash},
            )
        return entry

    def has(self, event: str, digest: str) -> bool:
        """Whether an event of this digest has been recorded."""
        with reading(self._path, _SCHEMA) as database:
            found = database.execute(
                "SELECT 1 FROM entries WHERE event = ? AND digest = ? LIMIT 1", (event, digest)
            ).fetchone()
        return found is not None

    def last(self, events: Sequence[str], digest: str) -> str | None:
        """Which of these events was recorded last of this digest; None where none was."""
        marks = ", ".join("?" * len(events))
        query = f"SELECT event FROM entries WHERE digest = ? AND event IN ({marks}) "  # noqa: S608
        with reading(self._path, _SCHEMA) as database:
            found = database.execute(
                query + "ORDER BY number DESC LIMIT 1", (digest, *events)
            ).fetchone()
        return None if found is None else str(found[0])

    def counts(self, event: str) -> dict[str, int]:
        """How often an event has been recorded, by what it happened to."""
        with reading(self._path, _SCHEMA) as database:
            return dict(
                database.execute(
                    "SELECT what, COUNT(*) FROM entries WHERE event = ? GROUP BY what", (event,)
                ).fetchall()
            )

    def entries(self, what: str | None = None) -> list[Entry]:
        """Rows, oldest first: all, or those of one ``what``."""
        where, values = ("", ()) if what is None else (" WHERE what = ?", (what,))
        return [entry for entry, _ in self._read(f"{where} ORDER BY number", *values)]

    def verify(self) -> tuple[int, str]:
        """Check the whole chain.

        Returns:
            Number of rows, and the hash of the last one.

        Raises:
            HomeError: A row was changed, dropped or reordered.
        """
        previous, count = GENESIS, 0
        start = -(2**63)  # no number is below
        while page := self._read(" WHERE number >= ? ORDER BY number LIMIT ?", start, _PAGE):
            for entry, stored in page:
                count += 1
                if entry.previous != previous or entry.number != count or entry.hash != stored:
                    raise HomeError(
                        f"row {count} of {self._path} does not continue the chain: the log was "
                        "changed; compare with a copy kept elsewhere"
                    )
                previous = stored
            start = count + 1
        return count, previous

    def _read(self, which: str, *values: object) -> list[tuple[Entry, str]]:
        with reading(self._path, _SCHEMA) as database:
            rows = database.execute(f"SELECT * FROM entries{which}", values).fetchall()  # noqa: S608
        names = Entry.__dataclass_fields__
        return [
            (Entry(**dict(zip(names, fields, strict=True))), stored) for *fields, stored in rows
        ]
