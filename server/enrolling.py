"""Who takes part in an exchange: sites that are there, were invited and have the same model."""

import secrets
import time
from dataclasses import dataclass, field

from flwr.serverapp import Grid

from not_core.protocol import (
    ENROL,
    REVOKE,
    Enrolment,
    EnrolRequest,
    Packet,
    Revoked,
    RevokeRequest,
    SignedEnrolment,
)
from server import claims
from server.asked import Asked
from server.dispatch import UNANSWERED, Dispatch
from server.home import Coordinator, Limits
from server.progress import Progress


@dataclass
class Site:
    """A site that takes part, and what it is doing.

    Attributes:
        node: Its node's id.
        enrolment: What it has signed.
        inbox: Digests of organs that it holds and is to try.
        giving: Whether it is asked for an organ.
        trying: Whether it is trying one.
        shown: Entries of the log that it was last asked to sign.
        logged: Digests of what it has signed or was given, which the log then holds.
    """

    node: int
    enrolment: Enrolment
    inbox: list[str] = field(default_factory=list)
    giving: bool = False
    trying: bool = False
    shown: int = -1
    logged: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """As in its certificate."""
        return self.enrolment.profile.site


class Enrolling:
    """Enrols the sites of one pass of an exchange.

    Args:
        grid: Flower's.
        coordinator: Whose roster and list of the expelled count.
        asked: What the exchange is.
        limits: How long it waits.
        dispatch: Of that exchange.
        progress: Told who enrols and who fails.
    """

    def __init__(
        self,
        grid: Grid,
        coordinator: Coordinator,
        asked: Asked,
        limits: Limits,
        dispatch: Dispatch,
        progress: Progress,
    ) -> None:
        self._grid, self._home, self._asked, self._limits = grid, coordinator, asked, limits
        self._dispatch, self._progress = dispatch, progress
        self._known: list[int] = []
        self._sites: dict[str, Site] = {}
        self._late: set[int] = set()
        self._open = True

    def run(self) -> dict[str, Site]:
        """Ask the nodes that are there, until all have answered or enough sites have in time.

        Returns:
            By name: the sites that take part; others have been told of as failures.
        """
        self._known = self._join()
        for node in self._known:
            self._revoke(node)
        since = time.monotonic()
        self._dispatch.run(
            lambda: enough(self._sites) and time.monotonic() - since > self._limits.enrol_seconds
        )
        self._open = False
        self._agree_on_base()
        return self._sites

    def late(self) -> set[int]:
        """Nodes that came, or enrolled, too late to take part."""
        return self._late | (set(self._nodes()) - set(self._known))

    def _nodes(self) -> list[int]:
        """Of the sites that take part, those that are there."""
        there = self._grid.get_node_ids()
        if not self._asked.invited:
            return list(there)
        admitted = self._home.catalogue.nodes()
        wanted = {admitted[site][0] for site in self._asked.invited if site in admitted}
        return [node for node in there if node in wanted]

    def _join(self) -> list[int]:
        deadline = time.monotonic() + self._limits.join_seconds
        while True:
            nodes = self._nodes()
            if len(nodes) >= self._asked.sites or time.monotonic() > deadline:
                return nodes
            time.sleep(0.5)

    def _revoke(self, node: int) -> None:
        """Hand on who was expelled, then enrol; a site that knows a later list takes part, too."""

        def then(packet: Packet) -> None:
            claims.reply(packet, Revoked)
            self._enrol(node)

        def failed(code: str) -> None:
            if code not in UNANSWERED:  # the enrolment then says so
                self._progress.fail(f"node-{node}", "revoke", code)
            self._enrol(node)

        self._dispatch.post(
            node,
            REVOKE,
            RevokeRequest(exchange=self._asked.exchange),
            body=lambda: self._home.trust.revoked.pem,
            seconds=self._limits.wire_seconds,
            then=then,
            failed=failed,
        )

    def _enrol(self, node: int) -> None:
        request = EnrolRequest(exchange=self._asked.exchange, nonce=secrets.token_hex(32))

        def then(packet: Packet) -> None:
            signed = claims.reply(packet, SignedEnrolment)
            enrolment = claims.enrolment(signed.envelope.encode(), request, self._home.trust)
            name = enrolment.profile.site
            if self._asked.invited and name not in self._asked.invited:
                self._progress.fail(name, "enrol", "not-invited")
                return
            if not self._open:
                self._late.add(node)
                return
            if name in self._sites:
                self._progress.fail(name, "enrol", "twice")
                return
            self._sites[name] = Site(node, enrolment)

        self._dispatch.post(
            node,
            ENROL,
            request,
            seconds=self._limits.wire_seconds,
            then=then,
            failed=lambda code: self._progress.fail(f"node-{node}", "enrol", code),
        )

    def _agree_on_base(self) -> None:
        """Leave out sites whose model is not the one that most sites have."""
        common = claims.common_base(site.enrolment for site in self._sites.values())
        for name, site in list(self._sites.items()):
            if site.enrolment.base_weights != common:
                del self._sites[name]
                self._progress.fail(name, "enrol", "other-base")
        taken = [site.enrolment for site in self._sites.values()]
        self._home.catalogue.enrolled(self._asked.exchange, *taken)
        for name in self._sites:
            self._progress.done(name, "enrol")
        self._progress.write()


def donors(sites: dict[str, Site]) -> list[Site]:
    """Of some sites, those that give organs."""
    return [site for site in sites.values() if site.enrolment.donates]


def enough(sites: dict[str, Site]) -> bool:
    """Whether these sites make an exchange: two, and a donor among them."""
    return len(sites) > 1 and bool(donors(sites))
