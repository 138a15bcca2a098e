"""What the coordinator's page shows of its log: entries, who has signed it, and proofs."""

from dataclasses import dataclass, replace

from not_core import canonical
from not_core.errors import LogError, NotError
from not_core.page.figures import count
from not_core.protocol import Logged
from not_core.trust.federation import Trust, verify_profile
from not_core.trust.statement import verify_statement
from not_core.trust.tree_head import (
    COSIGNATURE_TYPE,
    Cosignature,
    TreeHead,
    check_continues,
    check_includes,
)
from server.home import Coordinator
from server.log import Log, Numbered, Witness
from server.page.evidence import Link, linked
from server.page.paging import Part, part
from server.witnesses import signed_head

MOST_ENTRIES, MOST_CHECKED = 200, 10_000
"""Entries that a page shows, and that it computes the tree of: that takes about a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessRow:
    """A site that has signed the log, and whether what it signed is what the log is now.

    Attributes:
        site: Its name.
        size: Entries that it signed.
        time: When, in seconds since the epoch.
        holds: Whether its signature holds, and the log now continues what it signed.
    """

    site: str
    size: int
    time: int
    holds: Link


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPage:
    """The log as it is now.

    Attributes:
        head: What it is.
        log: Fingerprint of its key, for people to compare.
        whole: Whether all of it agrees with itself.
        witnesses: Who has signed it.
        entries: Those that were asked for, newest first.
        part: Which of all entries they are; None where they were looked for.
    """

    head: TreeHead
    log: str
    whole: Link
    witnesses: list[WitnessRow]
    entries: list[Numbered]
    part: Part | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """The proof that a tree head holds an entry; anybody may check it by RFC 9162.

    Attributes:
        head: The tree head, as the log's key has signed it.
        logged: Entry and path.
        holds: Whether they agree.
    """

    head: TreeHead
    logged: Logged
    holds: Link


def log_page(coordinator: Coordinator, page: int = 1, digits: str = "") -> LogPage:
    """The log, checked anew.

    Args:
        coordinator: Whose.
        page: Which of its entries, the newest first.
        digits: If any, entries on what has a digest that begins with them, instead.
    """
    book, head = coordinator.catalogue.log, signed_head(coordinator).head
    shown = None if digits else part(head.size, page, MOST_ENTRIES)
    return LogPage(
        head=head,
        log=head.log,
        whole=_whole(book, head),
        witnesses=[_witness(coordinator, head, one) for one in book.witnesses()],
        entries=(
            book.about(digits, MOST_ENTRIES)
            if shown is None
            else book.entries(MOST_ENTRIES, shown.start)
        ),
        part=shown,
    )


def proof(coordinator: Coordinator, number: int) -> Proof | None:
    """The proof of an entry by its number; None where there is none.

    Raises:
        LogError: The log's tree is damaged.
    """
    head = signed_head(coordinator).head
    found = coordinator.catalogue.log.proof(number, head.size)
    return None if found is None else Proof(head=head, logged=found, holds=_holds(head, found))


def link(coordinator: Coordinator, envelope: bytes) -> Link:
    """Whether the log holds what a site has signed, and where it is shown."""
    what, book = "Log", coordinator.catalogue.log
    try:
        head = signed_head(coordinator).head
        logged = book.find(canonical.sha256(envelope), head.size)
    except NotError as error:
        return Link(what, False, str(error))
    if logged is None:
        return Link(what, False, "not there: it is older than the log, or was taken out of it")

    def proven() -> str:
        check_includes(head, logged.index, logged.entry, logged.path)
        signed = [one for one in book.witnesses() if one.size > logged.index]
        for one in signed:
            if not (row := _witness(coordinator, head, one)).holds.holds:
                raise LogError(f"the cosignature of {row.site} does not hold: {row.holds.says}")
        return f"entry {logged.index} of {count(head.size)}, proven; {len(signed)} sites signed it"

    return replace(linked(what, proven), href=f"/log/entries/{logged.index}")


def _whole(book: Log, head: TreeHead) -> Link:
    what = "All of the log"
    if head.size > MOST_CHECKED:
        return Link(what, None, "too long to compute here each time; organ-coordinator log does")

    def computed() -> str:
        size, root = book.verify()
        return f"{count(size)} entries, root {root[:16]}, computed anew from them"

    return linked(what, computed)


def _holds(head: TreeHead, found: Logged) -> Link:
    def included() -> str:
        check_includes(head, found.index, found.entry, found.path)
        return f"{len(found.path)} hashes lead from the entry to the root {head.root[:16]}"

    return linked("Proof", included)


def _witness(coordinator: Coordinator, head: TreeHead, one: Witness) -> WitnessRow:
    def continued() -> str:
        seen = _cosignature(coordinator.trust, one)
        size = min(seen.head.size, head.size)  # a log that was cut off has no proof
        check_continues(seen.head, head, coordinator.catalogue.log.consistency(size, head.size))
        return "signature holds, and the log has only grown since"

    return WitnessRow(
        site=one.profile.site,
        size=one.size,
        time=one.time,
        holds=linked("Cosignature", continued),
    )


def _cosignature(trust: Trust, one: Witness) -> Cosignature:
    key = verify_profile(one.profile, trust)
    payload = verify_statement(one.envelope, COSIGNATURE_TYPE, key)
    found = canonical.decode(Cosignature, payload, "cosignature")
    if (found.site, found.head.size) != (one.profile.site, one.size):
        raise LogError("the cosignature is another site's, or of other entries")
    return found
