"""Organs that this party has verified: the highest version of each, and when it first saw which.

What is remembered here is what keeps an old organ from being passed off as new. It is written only
after every other check, in one transaction with a last look, so that a forged offer leaves no
mark and two openings at once cannot undo each other.
"""

import sqlite3
from pathlib import Path

from not_core import canonical
from not_core.errors import RollbackError
from not_core.trust.database import reading, writing
from not_core.trust.offer import Offer, SignedOffer
from not_core.trust.revocation import RevocationList

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS seen (offer TEXT PRIMARY KEY, id TEXT, version INTEGER, "
    "organ TEXT, statement TEXT, moment INTEGER, serial TEXT)"
)


class Seen:
    """The memory at ``path``, made when something is first committed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def check(self, offer: Offer, revoked: RevocationList) -> None:
        """Check that a verified offer is not of an older organ than was seen before.

        The newest may come again, in the same offer or another; an older one may not, even if it
        was seen itself. Offers by a key that was compromised since count for nothing: a thief
        could offer the last version of all.

        Raises:
            RollbackError: It has a lower version than one seen, or another organ of the same one.
        """
        if self._path.is_file():
            with reading(self._path, _SCHEMA) as database:
                _check(database, offer, revoked)

    def commit(
        self, signed: SignedOffer, statement: str, moment: int, revoked: RevocationList
    ) -> None:
        """Remember an offer after all that it brings has been verified; again does no harm.

        Args:
            signed: The offer; it is checked once more.
            statement: Digest of what the organ's signer signed.
            moment: Seconds since the epoch.
            revoked: As in ``check``.

        Raises:
            RollbackError: As ``check``: another one was committed meanwhile.
        """
        offer = signed.offer
        with writing(self._path, _SCHEMA) as database:
            _check(database, offer, revoked)
            database.execute(
                "INSERT OR IGNORE INTO seen VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    canonical.digest(offer),  # not of its envelope: signatures come in pairs
                    offer.organ_id,
                    offer.version,
                    offer.organ_digest,
                    statement,
                    moment,
                    f"{signed.serial:x}",
                ),
            )

    def first(self, statement: str) -> int | None:
        """When a signed statement of this digest was first verified here, or None.

        The statement covers every file of the organ: of one with another card nothing is known.
        """
        if not self._path.is_file():
            return None
        with reading(self._path, _SCHEMA) as database:
            found = database.execute(
                "SELECT MIN(moment) FROM seen WHERE statement = ?", (statement,)
            ).fetchone()
        moment: int | None = found[0]
        return moment


def _check(database: sqlite3.Connection, offer: Offer, revoked: RevocationList) -> None:
    rows = database.execute(
        "SELECT version, organ, serial FROM seen WHERE id = ? ORDER BY version DESC",
        (offer.organ_id,),
    )
    counted = (row[:2] for row in rows if not revoked.is_compromised(int(row[2], 16)))
    version, organ = next(counted, (0, ""))
    if offer.version < version:
        raise RollbackError(
            f"offer of {offer.organ_id} is of version {offer.version}, version {version} was seen "
            f"before; refuse the old one, or ask {offer.donor} to offer the present one"
        )
    if offer.version == version and offer.organ_digest != organ:
        raise RollbackError(
            f"offer of {offer.organ_id} holds another organ as version {version} than was seen "
            f"before; refuse it and ask {offer.donor}, who must number each organ anew"
        )
