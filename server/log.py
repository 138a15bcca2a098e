"""The coordinator's log: append-only, a Merkle tree whose perfect nodes are kept as it grows.

Each entry is written in the transaction that writes what it is about. A proof reads as many rows as
the tree is high, times itself, however long the log is.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from not_core import canonical
from not_core.errors import LogError
from not_core.protocol import Logged
from not_core.trust import merkle
from not_core.trust.profile import Profile
from not_core.trust.tree_head import Entry, TreeHead
from server import database, tables

MOST_AT_ONCE = 500
"""Digests in one query; databases take no more than some thousands."""


@dataclass(frozen=True, slots=True)
class Numbered:
    """An entry and its number, from 0."""

    number: int
    entry: Entry


def append(session: Session, event: str, *, site: str, exchange: str = "", digest: str) -> None:
    """Append an entry, once.

    Args:
        session: Of a transaction that no other writes beside.
        event: What happened.
        site: Which site it is about.
        exchange: In which exchange; empty where it is in none.
        digest: Of what it is about.
    """
    key = {"event": event, "site": site, "exchange": exchange, "digest": digest}
    last = select(tables.LogEntry).filter_by(site=site, digest=digest)
    last = last.order_by(tables.LogEntry.number.desc()).limit(1)
    same = session.scalar(last)
    if same is not None and (same.event, same.exchange) == (event, exchange):
        return
    number = _size(session)
    entry = canonical.decode(
        Entry,
        canonical.encode(
            {"format": "organ-exchange/log-entry/v1", "time": int(time.time()), **key}
        ),
        "log entry",
    )
    session.add(tables.LogEntry(number=number, leaf=canonical.encode(entry), **key))
    level, found = 0, merkle.leaf_hash(canonical.encode(entry))
    session.add(tables.LogNode(level=level, number=number, hash=found))
    while number & 1:
        found = merkle.node_hash(_node(session, level, number - 1), found)
        level, number = level + 1, number >> 1
        session.add(tables.LogNode(level=level, number=number, hash=found))


@dataclass(frozen=True, slots=True)
class Witness:
    """A site's latest cosignature, and what verifies it.

    Attributes:
        profile: The site's.
        size: Entries of the log that it signed.
        time: When the tree head was signed that it signed.
        envelope: The cosignature.
    """

    profile: Profile
    size: int
    time: int
    envelope: bytes


class Log:
    """Reads the log of a catalogue's database, and keeps what sites have signed of it.

    Hashes of the tree never change, so each is read once.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._hashes: dict[tuple[int, int], bytes] = {}

    def size(self) -> int:
        """How many entries there are."""
        with database.reading(self._engine) as session:
            return _size(session)

    def root(self, size: int) -> str:
        """Root of the first ``size`` entries."""
        with database.reading(self._engine) as session:
            return self._subtree(session, 0, size).hex() if size else merkle.EMPTY.hex()

    def entries(self, most: int, skip: int = 0) -> list[Numbered]:
        """The latest entries, newest first, but for the very latest that are to be skipped."""
        with database.reading(self._engine) as session:
            number = tables.LogEntry.number
            before = _size(session) - skip
            latest = select(tables.LogEntry).filter(number < before).order_by(number.desc())
            return [_numbered(row) for row in session.scalars(latest.limit(most))]

    def about(self, digits: str, most: int) -> list[Numbered]:
        """Entries on what has a digest that begins with some digits, newest first."""
        found = select(tables.LogEntry).filter(tables.LogEntry.digest.startswith(digits))
        with database.reading(self._engine) as session:
            rows = session.scalars(found.order_by(tables.LogEntry.number.desc()).limit(most))
            return [_numbered(row) for row in rows]

    def proof(self, number: int, size: int) -> Logged | None:
        """An entry of the first ``size`` ones, and the proof of it; None where there is none."""
        with database.reading(self._engine) as session:
            row = session.get(tables.LogEntry, number) if number < size else None
            return None if row is None else self._proven(session, row, size)

    def find(self, digest: str, size: int) -> Logged | None:
        """The first entry on something, of the first ``size`` ones, and the proof of it."""
        return next(iter(self.find_all([digest], size)), None)

    def find_all(self, digests: Sequence[str], size: int) -> list[Logged]:
        """Do as ``find`` for each digest that has an entry; a digest's place in order stays."""
        with database.reading(self._engine) as session:
            rows: dict[str, tables.LogEntry] = {}
            for part in range(0, len(digests), MOST_AT_ONCE):
                some = tables.LogEntry.digest.in_(digests[part : part + MOST_AT_ONCE])
                found = select(tables.LogEntry).filter(some, tables.LogEntry.number < size)
                for row in session.scalars(found.order_by(tables.LogEntry.number)):
                    rows.setdefault(row.digest, row)
            proven = [rows[digest] for digest in digests if digest in rows]
            return [self._proven(session, row, size) for row in proven]

    def consistency(self, first: int, second: int) -> tuple[str, ...]:
        """Proof that the first ``second`` entries begin with the ``first`` ones."""
        return self.consistencies([first], second)[0]

    def consistencies(self, firsts: Iterable[int], second: int) -> list[tuple[str, ...]]:
        """Do as ``consistency`` for each of ``firsts``."""
        with database.reading(self._engine) as session:
            subtree = partial(self._subtree, session)
            return [_hex(merkle.consistency_path(first, second, subtree)) for first in firsts]

    def verify(self) -> tuple[int, str]:
        """Compute the whole tree anew from its entries.

        Returns:
            Their number, and the root.

        Raises:
            LogError: What is kept is not what follows from them.
        """
        with database.reading(self._engine) as session:
            rows = list(session.scalars(select(tables.LogEntry).order_by(tables.LogEntry.number)))
            level, kept = [merkle.leaf_hash(row.leaf) for row in rows], {}
            for node in session.scalars(select(tables.LogNode)):
                kept[node.level, node.number] = node.hash
        wanted: dict[tuple[int, int], bytes] = {}
        size, height = len(rows), 0
        for number, row in enumerate(rows):
            entry = canonical.decode(Entry, row.leaf, "log entry")
            said = (entry.event, entry.site, entry.exchange, entry.digest)
            if row.number != number or said != (row.event, row.site, row.exchange, row.digest):
                raise LogError(f"entry {number} of the log is gone or was changed; {_COPY}")
        while level:
            wanted |= {(height, number): found for number, found in enumerate(level)}
            pairs = zip(level[::2], level[1::2], strict=False)
            level, height = [merkle.node_hash(*pair) for pair in pairs], height + 1
        if kept != wanted:
            raise LogError(f"the log's tree is not that of its {size} entries; {_COPY}")
        return size, self.root(size)

    def witnessed(self, head: TreeHead, profile: Profile, envelope: bytes) -> None:
        """Keep a site's latest cosignature, which was verified."""
        with database.writing(self._engine) as session:
            session.merge(
                tables.Witness(
                    site=profile.site,
                    size=head.size,
                    time=head.time,
                    profile=canonical.encode(profile),
                    envelope=envelope,
                )
            )

    def witnesses(self) -> list[Witness]:
        """Each site's latest cosignature, by site."""
        with database.reading(self._engine) as session:
            rows = session.scalars(select(tables.Witness).order_by(tables.Witness.site))
            return [_witness(row) for row in rows]

    def seen_by(self, site: str) -> int:
        """Size of the log when a site last signed it; 0 where it has not."""
        with database.reading(self._engine) as session:
            row = session.get(tables.Witness, site)
            return 0 if row is None else row.size

    def others(self, site: str, size: int, most: int) -> list[Witness]:
        """What other sites have signed of the first ``size`` entries; drawn, where there is much.

        Drawn, so that who hides one site from another must be lucky each time.
        """
        with database.reading(self._engine) as session:
            rows = session.scalars(
                select(tables.Witness)
                .filter(tables.Witness.site != site, tables.Witness.size <= size)
                .order_by(func.random())
                .limit(most)
            )
            return [_witness(row) for row in rows]

    def _proven(self, session: Session, row: tables.LogEntry, size: int) -> Logged:
        path = merkle.inclusion_path(row.number, size, partial(self._subtree, session))
        return Logged(index=row.number, entry=_numbered(row).entry, path=_hex(path))

    def _subtree(self, session: Session, start: int, stop: int) -> bytes:
        if (start, stop) not in self._hashes:
            width = stop - start
            if width & (width - 1) == 0 and start % width == 0:
                level = width.bit_length() - 1
                found = _node(session, level, start >> level)
            else:
                split = merkle.middle(start, stop)
                halves = self._subtree(session, start, split), self._subtree(session, split, stop)
                found = merkle.node_hash(*halves)
            self._hashes[start, stop] = found
        return self._hashes[start, stop]


_COPY = "put back the newest copy of the catalogue, and tell the sites"


def _size(session: Session) -> int:
    last = session.scalar(select(func.max(tables.LogEntry.number)))
    return 0 if last is None else last + 1


def _node(session: Session, level: int, number: int) -> bytes:
    row = session.get(tables.LogNode, (level, number))
    if row is None:
        raise LogError(f"a node of the log's tree is gone; {_COPY}")
    return row.hash


def _hex(path: Iterable[bytes]) -> tuple[str, ...]:
    return tuple(one.hex() for one in path)


def _numbered(row: tables.LogEntry) -> Numbered:
    return Numbered(row.number, canonical.decode(Entry, row.leaf, "log entry"))


def _witness(row: tables.Witness) -> Witness:
    profile = canonical.decode(Profile, row.profile, "profile")
    return Witness(profile, row.size, row.time, row.envelope)
