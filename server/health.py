"""What a coordinator's monitor is told: whether all is well, and figures of its catalogue."""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import Metric
from starlette.applications import Starlette

from not_core.service import monitor
from not_core.service.monitor import WELL, gauge, number
from not_core.service.supervisor import LOOPBACK, answers
from not_core.trust.federation import load_trust
from server.home import Coordinator, load
from server.service import Service


def monitored(home: Path, service: Service) -> Starlette:
    """The monitor of a coordinator that is served.

    Args:
        home: The coordinator's.
        service: Where it listens.
    """

    def catalogue() -> str:
        load(home).catalogue.close()
        return WELL

    def answering(host: str, port: int) -> str:
        return WELL if answers(host, port) else f"nothing answers at {host}:{port}"

    # Who listens on all addresses does so on loopback.
    gateway = LOOPBACK if service.listen in ("0.0.0.0", "::") else service.listen  # noqa: S104

    def revocation() -> str:
        trust = load_trust(home)
        trust.revoked.check_fresh(round(time.time()), trust.grace)
        return WELL

    def figures() -> Iterator[Metric]:
        coordinator = load(home)
        try:
            yield from _figures(coordinator)
        finally:
            coordinator.catalogue.close()

    checks = {
        "catalogue": catalogue,
        "flower": lambda: answering(LOOPBACK, service.flower_port),
        "gateway": lambda: answering(gateway, service.port),
        "revocation": revocation,
    }
    return monitor.app(home, checks, figures)


def _figures(coordinator: Coordinator) -> Iterator[Metric]:
    catalogue = coordinator.catalogue
    states = Counter(one.state for one in catalogue.begun())
    yield gauge("exchanges", "Exchanges, by state.", states, "state")
    yield number("sites", "Sites that are admitted.", len(catalogue.nodes()))
    organs: set[str] = set()
    for exchange in catalogue.exchanges():
        organs |= {digest for digest, _, _ in catalogue.donations(exchange)}
    yield number("organs", "Organs that were offered.", len(organs))
    yield number("stored_bytes", "Of sealed bodies in the bank.", sum(catalogue.stored().values()))
    yield gauge("receipts", "Receipts, by verdict.", catalogue.counts.verdicts(), "verdict")
    due = coordinator.trust.revoked.due - time.time()
    yield number("revocation_due_seconds", "Until the next revocation list is due.", due)
