"""What a site's monitor is told: whether all is well, and a few figures for its operator."""

import time
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import Metric
from starlette.applications import Starlette

from client import donor, inventory
from client.home import IDENTITY, read_home
from client.service import Beat
from not_core.service import monitor
from not_core.service.monitor import WELL, gauge, lately, number
from not_core.trust.federation import load_trust, verify_profile
from not_core.trust.keys import PROFILE
from not_core.trust.profile import read_profile

RELEASED = "released"
"""Event of the log: something has left."""


def monitored(home: Path, beat: Beat) -> Starlette:
    """The monitor of a site that is served.

    Args:
        home: The site's.
        beat: Its node's.
    """

    def node() -> str:
        return (
            "has not looked for messages lately; see logs/supernode.log" if beat.still() else WELL
        )

    def federation() -> str:
        trust = load_trust(home / IDENTITY, grace=read_home(home).policy.revocation_grace)
        verify_profile(read_profile(home / IDENTITY / PROFILE), trust)
        return WELL

    @lately
    def log() -> str:
        read_home(home).log.verify()
        return WELL

    def figures() -> Iterator[Metric]:
        site = read_home(home)
        left = site.log.counts(RELEASED)
        yield gauge("released", "What has left, by kind.", left, "what")
        yield number(
            "pending_approvals", "Organs that wait for approval.", len(donor.pending(site))
        )
        kept = inventory.stored(home, site.policy)
        yield number("delivered_files", "Files of deliveries that are kept.", kept.files)
        yield number("delivered_files_most", "That may be kept.", kept.most_files)
        yield number("delivered_bytes", "Bytes of deliveries that are kept.", kept.bytes)
        yield number("delivered_bytes_most", "That may be kept.", kept.most_bytes)
        due = load_trust(home / IDENTITY).revoked.due - time.time()
        yield number("revocation_due_seconds", "Until the next revocation list is due.", due)

    return monitor.app(home, {"node": node, "federation": federation, "log": log}, figures)
