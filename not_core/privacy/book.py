"""A ledger's file: rows in a hash chain, and for each unit the charges that it was in.

Units that were in the same charges share a history, which is a charge and the history before it:
the file grows with the units, not with units times charges. A charge's row holds the digest of its
set of units, so ``check`` finds a unit that was dropped, added or given another history.

A unit is kept as the HMAC of its digest under the ledger's own key. Whoever sees one of these, or
the digest of a set, cannot try out guessed records on it; who has the whole file can.
"""

import hashlib
import hmac
import os
import secrets
import sqlite3
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from not_core import canonical
from not_core.errors import FormatError, LedgerError
from not_core.privacy.accounting import Mechanism
from not_core.privacy.charge import Charge, Reservation, Settlement, Unit

Row = Charge | Settlement
KINDS: dict[str, type[Charge] | type[Settlement]] = {
    Charge.event: Charge,
    Settlement.event: Settlement,
}
FORM = 1
"""Version of the file's form."""

BUSY = 600.0
"""Seconds to wait for another process, which may be composing many mechanisms."""

RESTORE = (
    "put back the newest copy of the ledger; without one, count the budget of its data as spent "
    "and begin a new ledger for other data only"
)


@contextmanager
def open_book(path: Path) -> Iterator["Book"]:
    """Hold a ledger's file alone: what the block writes is on disk after it, or undone if it fails.

    Raises:
        LedgerError: Open to others, not a ledger's file, damaged, busy, or its chain is broken.
    """
    _claim(path)
    try:
        with closing(sqlite3.connect(path, timeout=BUSY, isolation_level=None)) as database:
            database.execute("PRAGMA synchronous = EXTRA")
            database.execute("BEGIN IMMEDIATE")
            try:
                yield Book(path, database)
            except BaseException:
                database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")
    except sqlite3.DatabaseError as error:
        raise LedgerError(
            f"{path} or its log cannot be used ({error}); if it is busy or the disk is full try "
            f"again later, else {RESTORE}"
        ) from None


def _claim(path: Path) -> None:
    """Make the file if it is new, its owner's alone before anything is in it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
    finally:
        os.close(handle)
    if mode & 0o077:
        raise LedgerError(f"{path} has mode {mode:04o}, expected 0600; run 'chmod 600' on it")


class Book:
    """A ledger's content while this process holds its file.

    Attributes:
        rows: All rows, oldest first.
        heads: SHA-256 of each row.
    """

    rows: tuple[Row, ...]
    heads: tuple[str, ...]

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self._path, self._database = path, database
        self._key = self._prepare()
        self._read_chain()
        self._charges = {row.number: row for row in self.rows if isinstance(row, Charge)}
        self._paths: dict[int, tuple[int, ...]] = {0: ()}
        for one, parent, charge in database.execute("SELECT * FROM histories ORDER BY id"):
            self._paths[one] = (*self._paths.get(parent, ()), charge)

    @property
    def head(self) -> str:
        """What the next row continues."""
        return self.heads[-1] if self.heads else canonical.sha256(self._key)

    @property
    def unit(self) -> Unit | None:
        """What this ledger counts; None before its first charge."""
        return next((charge.unit for charge in self._charges.values()), None)

    def reservations(self) -> list[Reservation]:
        """All charges with what came out of them, oldest first."""
        results = {row.run: row.result for row in self.rows if isinstance(row, Settlement)}
        return [Reservation(one, results.get(one.run, "")) for one in self._charges.values()]

    def keyed(self, units: Iterable[str]) -> list[bytes]:
        """Different units as this ledger knows them, sorted.

        Raises:
            ValueError: A unit is not 64 hexadecimal digits, or there is none.
        """
        digests = {bytes.fromhex(unit) for unit in units}
        if not digests or any(len(digest) != hashlib.sha256().digest_size for digest in digests):
            raise ValueError("expected at least one unit, each a digest of 64 hexadecimal digits")
        return sorted(hmac.digest(self._key, digest, "sha256") for digest in digests)

    @staticmethod
    def digest(keyed: list[bytes]) -> str:
        """Digest of a set of units: a data set as this ledger knows it."""
        return canonical.sha256(b"".join(keyed))

    def groups(self, keyed: Iterable[bytes]) -> dict[int, list[bytes]]:
        """Units by history; 0 is that of new units."""
        groups: dict[int, list[bytes]] = defaultdict(list)
        for unit in keyed:
            found = self._database.execute("SELECT history FROM units WHERE digest = ?", (unit,))
            groups[(found.fetchone() or (0,))[0]].append(unit)
        return dict(groups)

    def histories(self) -> list[int]:
        """Histories that some unit has."""
        return [one for (one,) in self._database.execute("SELECT DISTINCT history FROM units")]

    def mechanisms(self, history: int) -> list[Mechanism]:
        """What the units of a history were in."""
        return [self._charges[number].mechanism for number in self._paths[history]]

    def everything(self) -> list[Mechanism]:
        """All charges, as if one unit had been in each of them."""
        return [one.mechanism for one in self._charges.values()]

    def charge(self, charge: Charge, groups: dict[int, list[bytes]]) -> None:
        """Append a charge and put its units into it."""
        self.append(charge)
        for history, units in groups.items():
            new = self._database.execute(
                "INSERT INTO histories (parent, charge) VALUES (?, ?)", (history, charge.number)
            ).lastrowid
            self._database.executemany(
                "INSERT OR REPLACE INTO units VALUES (?, ?)", ((unit, new) for unit in units)
            )

    def append(self, row: Row) -> None:
        """Append a row, which must continue the chain."""
        self._database.execute(
            "INSERT INTO rows VALUES (?, ?, ?)", (row.number, row.event, canonical.encode(row))
        )

    def check(self) -> None:
        """Compare each charge's units with the digest in its row.

        Raises:
            LedgerError: A unit or a history was changed.
        """
        found = {number: hashlib.sha256() for number in self._charges}
        try:
            updates = {
                history: [found[number].update for number in path]
                for history, path in self._paths.items()
            }
            for unit, history in self._database.execute("SELECT * FROM units ORDER BY digest"):
                for update in updates[history]:
                    update(unit)
            whole = all(found[n].hexdigest() == one.units for n, one in self._charges.items())
        except KeyError:
            whole = False
        if not whole:
            raise LedgerError(f"units in {self._path} are not those of its charges; {RESTORE}")

    def _prepare(self) -> bytes:
        """Make the tables of a new ledger; the ledger's key."""
        (form,) = self._database.execute("PRAGMA user_version").fetchone()
        if form not in (0, FORM):
            raise LedgerError(
                f"{self._path} has form {form}, expected {FORM}; use the version of organ-exchange "
                "that wrote it"
            )
        if form == 0:
            for table in (
                "ledger (key BLOB)",
                "rows (number INTEGER PRIMARY KEY, event TEXT, body BLOB)",
                "histories (id INTEGER PRIMARY KEY, parent INTEGER, charge INTEGER)",
                "units (digest BLOB PRIMARY KEY, history INTEGER) WITHOUT ROWID",
            ):
                self._database.execute(f"CREATE TABLE {table}")
            self._database.execute("INSERT INTO ledger VALUES (?)", (secrets.token_bytes(32),))
            self._database.execute(f"PRAGMA user_version = {FORM}")
        (key,) = self._database.execute("SELECT key FROM ledger").fetchone() or (b"",)
        return bytes(key)

    def _read_chain(self) -> None:
        rows: list[Row] = []
        heads: list[str] = []
        previous = canonical.sha256(self._key)
        for event, body in self._database.execute("SELECT event, body FROM rows ORDER BY number"):
            number = len(rows) + 1
            try:
                row: Row = canonical.decode(KINDS[event], bytes(body), "row")
            except (FormatError, KeyError, TypeError):
                raise self._broken(number) from None
            if row.number != number or row.previous != previous:
                raise self._broken(number)
            previous = canonical.sha256(body)
            rows.append(row)
            heads.append(previous)
        self.rows, self.heads = tuple(rows), tuple(heads)

    def _broken(self, number: int) -> LedgerError:
        return LedgerError(
            f"row {number} of {self._path} does not continue the chain: the ledger was changed; "
            f"{RESTORE}"
        )
