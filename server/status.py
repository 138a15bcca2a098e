"""What ``organ-coordinator status`` says of sites and exchanges, from the catalogue alone."""

from collections.abc import Iterator, Mapping
from typing import Any

from not_core.errors import ExchangeError
from not_core.page.figures import ago, instant, moment
from not_core.protocol import Receipt
from server.catalogue import Happened
from server.counts import Counted
from server.holdings import holdings
from server.home import Coordinator
from server.schedule import COMPLETED, RUNNING, SCHEDULED, Begun

ONLINE_SECONDS = 60.0
"""The keeper notes who is there three times in it."""
MOST_FAILURES = 1000

_SITE = "at the site: "
NEXT = {
    "policy": _SITE + "its policy does not let it; see its site.log, and 'organ-site policy'",
    "approval": _SITE + "its operator has not approved the organ yet, or has rejected it "
    "('organ-site pending', 'organ-site approve'); then ask for the exchange again",
    "privacy": _SITE + "its policy's privacy does not suit terms or records; see its site.log",
    "ledger": _SITE + "the organ would cost more than its epsilon leaves ('organ-site ledger')",
    "timeout": "no answer in time; see that 'organ-site start' runs there, or raise [limits] in "
    "coordinator.toml; then ask again",
    "unreachable": "its node was away; see that 'organ-site start' runs there, then ask again",
    "not-invited": "no --site named it; ask again with it, if it is to take part",
    "other-base": "its model is not the one that most sites have; compare the digests",
    "twice": "two nodes say that they are this site; see 'organ-coordinator log' for the later one",
    "revoked": "the federation has revoked its certificate",
    "certificate": "a certificate is not valid, or has run out; renew it ('organ identity show')",
    "stale-list": "the revocation list is late; take in a newer one by 'organ-coordinator crl'",
    "site-quota": "it has no more room here; raise most_site_bytes in coordinator.toml, or forget "
    "organs",
    "exchange-quota": "the exchange is full; raise most_organs in coordinator.toml",
    "bank": "the bank could not be read or written; see logs/superexec.log",
    "log": _SITE + "it does not believe this coordinator's log ('organ-site log verify' there)",
}
"""By code: what it means, and what to do."""
OTHER = "the reason is in the site's site.log, or in logs/superexec.log here"


def overview(coordinator: Coordinator, served: bool, now: float) -> dict[str, Any]:
    """All sites, and all exchanges.

    Args:
        coordinator: Whose.
        served: Whether it runs.
        now: Seconds since the epoch.
    """
    return {
        "sites": list(_sites(coordinator, served, now)),
        "exchanges": list(_exchanges(coordinator, served, now)),
    }


def of_exchange(coordinator: Coordinator, name: str, served: bool, now: float) -> dict[str, Any]:
    """One exchange: how far it is, what failed since its latest run began, organs, receipts.

    Raises:
        ExchangeError: There is none of that name.
    """
    found = [one for one in _exchanges(coordinator, served, now) if one["exchange"] == name]
    if not found:
        raise ExchangeError(f"no exchange {name}; 'organ-coordinator status' lists them")
    catalogue = coordinator.catalogue
    since = next((one.since for one in catalogue.schedule.begun() if one.name == name), 0.0)
    nodes = {f"node-{node}": site for site, (node, _) in catalogue.nodes().items()}
    events = reversed(catalogue.events(name, MOST_FAILURES))
    return {
        **found[0],
        "verdicts": found[0]["receipts"],
        "failures": [_failure(one, nodes) for one in events if one.code and one.time >= since],
        "organs": [one.row for one in holdings(coordinator) if name in one.exchanges],
        "receipts": [receipt_row(one) for one in catalogue.receipts(name)],
    }


def receipt_row(receipt: Receipt) -> dict[str, str]:
    """A receipt as it is listed."""
    return {
        "organ": receipt.organ,
        "donor": receipt.donor,
        "recipient": receipt.recipient,
        "mode": receipt.mode,
        "verdict": receipt.verdict,
        "reason": receipt.reason,
    }


def _sites(coordinator: Coordinator, served: bool, now: float) -> Iterator[dict[str, Any]]:
    contacts = coordinator.catalogue.contacts()
    for site, (node, _) in coordinator.catalogue.nodes().items():
        seen = contacts.get(site)
        yield {
            "site": site,
            "node": str(node),  # 64 bits, more than JSON's readers take
            "heard": ago(seen, now),
            "online": served and seen is not None and now - seen < ONLINE_SECONDS,
        }


def _exchanges(coordinator: Coordinator, served: bool, now: float) -> Iterator[dict[str, Any]]:
    catalogue = coordinator.catalogue
    begun, counts = {one.name: one for one in catalogue.schedule.begun()}, catalogue.counts
    counted, verdicts, failures = counts.counted(), counts.verdicts_each(), counts.failures()
    for name in sorted({*begun, *catalogue.exchanges()}):
        one, organs = begun.get(name), counted.get(name, Counted()).organs
        yield {
            "exchange": name,
            "state": _state(one, organs, served, now) if one else "recorded",
            "runs": one.runs if one else 0,
            "organs": organs,
            "receipts": verdicts.get(name, {}),
            "failures": failures.get(name, 0),
        }


def _state(one: Begun, organs: int, served: bool, now: float) -> str:
    if one.state == COMPLETED and not organs:
        return "completed, but nothing came"
    if one.waits(now):
        return f"{SCHEDULED} {moment(one.since)} UTC"
    if one.state != RUNNING:
        return one.state
    if not served:
        return "waits for 'organ-coordinator start'"
    return one.state if one.run else "waits for two sites"


def _failure(one: Happened, nodes: Mapping[str, str]) -> dict[str, str]:
    return {
        "time": instant(one.time),
        "site": nodes.get(one.site, one.site),
        "step": one.step,
        "code": one.code,
        "organ": one.organ,
        "means": NEXT.get(one.code, OTHER),
    }
