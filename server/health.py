"""What a coordinator's monitor is told: whether all is well, and figures of its catalogue."""

import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from prometheus_client.core import Metric
from starlette.applications import Starlette

from not_core import checkup
from not_core.service import monitor, supervisor, tls
from not_core.service.monitor import WELL, gauge, number
from not_core.service.supervisor import LOOPBACK
from not_core.trust.federation import load_trust
from server.bank import check, is_url, open_bank
from server.home import Coordinator, opened, settings_of
from server.keeper import beat_of
from server.service import Service

LOOKED_SECONDS = 60.0
"""Longest since the keeper has looked after exchanges; it does each two seconds."""


def monitored(home: Path, service: Service) -> Starlette:
    """The monitor of a coordinator that is served.

    Args:
        home: The coordinator's.
        service: Where it listens.
    """

    def catalogue() -> str:
        with opened(home):
            return WELL

    place = settings_of(home).bank

    def bank() -> str:
        check(open_bank(place, home))
        return WELL

    def disk() -> str:
        for folder in (home,) if is_url(place) else (home, home / place):
            checkup.disk(folder, "the bank, by organ-coordinator forget")
        return WELL

    def answering(program: str, host: str, port: int, certificate: Path, name: str) -> str:
        """Whether it runs, and it is this one that answers, not whoever took its port."""
        if program not in supervisor.pids(home):
            return f"{program} does not run; see logs/{program}.log"
        try:
            tls.handshake(host, port, certificate, name)
        except ssl.SSLError as error:
            return f"what answers at {host}:{port} is not {program} ({error.reason})"
        except OSError:
            return f"nothing answers at {host}:{port}"
        return WELL

    def flower() -> str:
        certificate = home / "flower" / "loopback.pem"
        return answering("superlink", LOOPBACK, service.flower_port, certificate, LOOPBACK)

    def gateway() -> str:
        # Who listens on all addresses does so on loopback.
        host = LOOPBACK if service.listen in ("0.0.0.0", "::") else service.listen  # noqa: S104
        return answering("gateway", host, service.port, home / "tls.pem", service.host)

    def keeping() -> str:
        with suppress(FileNotFoundError):
            if time.time() - beat_of(home).stat().st_mtime < LOOKED_SECONDS:
                return WELL
        return "exchanges are not looked after; see logs/keeper.log"

    def revocation() -> str:
        trust = load_trust(home)
        trust.revoked.check_fresh(round(time.time()), trust.grace)
        return WELL

    def figures() -> Iterator[Metric]:
        with opened(home) as coordinator:
            yield from _figures(coordinator)

    checks = {
        "catalogue": catalogue,
        "bank": monitor.lately(bank) if is_url(place) else bank,
        "disk": disk,
        "flower": flower,
        "gateway": gateway,
        "keeper": keeping,
        "revocation": revocation,
    }
    return monitor.app(home, checks, figures)


def _figures(coordinator: Coordinator) -> Iterator[Metric]:
    catalogue, counts = coordinator.catalogue, coordinator.catalogue.counts
    yield gauge("exchanges", "Exchanges, by state.", counts.states(), "state")
    yield number("sites", "Sites that are admitted.", len(catalogue.nodes()))
    yield number("organs", "Organs that were offered.", counts.organs())
    yield number("stored_bytes", "Of sealed bodies in the bank.", counts.stored_bytes())
    yield gauge("receipts", "Receipts, by verdict.", counts.verdicts(), "verdict")
    due = coordinator.trust.revoked.due - time.time()
    yield number("revocation_due_seconds", "Until the next revocation list is due.", due)
