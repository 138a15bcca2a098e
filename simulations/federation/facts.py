"""The facts of a finished exchange, gathered from the coordinator's and the sites' homes.

The coordinator's part is what it really knows; numbers of records and what each site revealed are
read from the sites' homes, which only a simulation can do.
"""

import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from client import home as site_home
from client.donor import made_organs
from client.store import Store
from not_core import canonical
from not_core.learning.records import read_records
from not_core.protocol import Receipt
from not_core.surgery.checkpoint import open_checkpoint
from not_core.surgery.organ import read_manifest
from not_core.trust.log import Log
from not_core.trust.offer import peek_offer
from server import home as coordinator_home
from simulations.federation.costs import COMPARED
from simulations.federation.exchange import Scenario
from simulations.federation.report import FORMAT

LIBRARIES = ("organ-exchange", "flwr", "torch", "transformers", "datasets", "cryptography")


def gather(
    scenario: Scenario, *, resumed: bool = False, beside: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Everything ``report.json`` holds.

    Args:
        scenario: The exchange.
        resumed: Whether its last run took up an earlier one; bytes and seconds are the last run's.
        beside: The report of the same exchange without differential privacy.
    """
    exchange = scenario.federation.exchange
    with coordinator_home.opened(scenario.coordinator) as coordinator:
        receipts = coordinator.catalogue.receipts(exchange)
        run = coordinator.catalogue.last_run(exchange) or {}
        organs = _organs(scenario, coordinator, exchange)
    base = open_checkpoint(scenario.model)
    names = [site.name for site in scenario.federation.sites]
    return {
        "format": FORMAT,
        "exchange": exchange,
        "seed": scenario.terms.seed,
        "settings": settings(scenario),
        "resumed": resumed,
        "base": {
            "family": base.anatomy.family,
            "architecture": (base.config.get("architectures") or [base.anatomy.family])[0],
            "layers": base.layers,
            "weights": base.weights_digest,
            "name": Path(scenario.model).name,
        },
        "sites": [_site(scenario, site.name, receipts) for site in scenario.federation.sites],
        "organs": organs,
        "evaluations": [
            _evaluation(receipt)
            for receipt in sorted(
                receipts, key=lambda one: (names.index(one.donor), names.index(one.recipient))
            )
        ],
        "without_privacy": (
            [{key: row[key] for key in COMPARED} for row in beside["evaluations"]]
            if beside
            else None
        ),
        "failures": run.get("failures", []),
        "bytes": run.get("bytes", {}),
        "seconds": run.get("seconds", {}),
        "versions": {name: metadata.version(name) for name in LIBRARIES}
        | {"python": platform.python_version()},
    }


def settings(scenario: Scenario) -> dict[str, Any]:
    """What was chosen, as the report says it."""
    return {
        "span": str(scenario.terms.span),
        "rank": scenario.terms.rank,
        "tokens": scenario.terms.tokens,
        "learning_rate": scenario.terms.learning_rate,
        "mode": scenario.mode,
        "threads": scenario.threads,
    }


def _statement(home: Path, organ: str) -> dict[str, Any]:
    """What an organ's manifest says of its privacy, number by number."""
    return asdict(read_manifest(Store(home).made(organ)).privacy)


def _site(scenario: Scenario, name: str, receipts: list[Receipt]) -> dict[str, Any]:
    site = site_home.load(scenario.home(name))
    mine = [receipt for receipt in receipts if receipt.recipient == name]
    settings = site.settings
    return {
        "name": name,
        "domain": settings.domain,
        "donates": settings.donates,
        "records": len(read_records(Path(settings.records), settings.text_field)),
        "held_out": settings.held_out,
        "domain_perplexity": mine[0].domain_perplexity_before if mine else None,
        "general_perplexity": mine[0].general_perplexity_before if mine else None,
        "revealed": _revealed(site.log),
    }


def _revealed(log: Log) -> list[dict[str, Any]]:
    """What left a site, by kind: how often and how many bytes."""
    kinds: dict[str, dict[str, Any]] = {}
    for entry in log.entries():
        if entry.event == "released":
            row = kinds.setdefault(entry.what, {"what": entry.what, "count": 0, "bytes": 0})
            row["count"] += 1
            row["bytes"] += entry.bytes
    return list(kinds.values())


def _organs(
    scenario: Scenario, coordinator: coordinator_home.Coordinator, exchange: str
) -> list[dict[str, Any]]:
    sites = {
        enrolment.profile.sealing_fingerprint: enrolment.profile.site
        for enrolment in coordinator.catalogue.enrolments(exchange)
    }
    organs = []
    for digest, donor, donation in coordinator.catalogue.donations(exchange):
        offer = peek_offer(donation.offer.encode())
        organs.append(
            {
                "digest": digest,
                "id": offer.organ_id,
                "donor": donor,
                "domain": offer.domain,
                "span": str(offer.span),
                "organ_bytes": donation.organ_bytes,
                "sealed_bytes": donation.sealed_bytes,
                "tokens": donation.tokens,
                "steps": donation.steps,
                "seconds": made_organs(scenario.home(donor))[digest].seconds,
                "privacy": donation.privacy,
                "statement": _statement(scenario.home(donor), digest),
                "addressees": sorted(sites.get(one, one) for one in offer.addressees),
            }
        )
    return organs


def _evaluation(receipt: Receipt) -> dict[str, Any]:
    row = asdict(receipt)
    del row["exchange"]
    row["interval"] = list(receipt.interval)
    return canonical.plain(canonical.encode(row), "evaluation")  # type: ignore[no-any-return]
