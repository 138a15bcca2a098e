"""The report of another run of the same exchange, to stand beside this one's."""

from pathlib import Path
from typing import Any

from not_core import canonical
from not_core.errors import ExchangeError
from not_core.surgery.checkpoint import open_checkpoint
from simulations.federation.exchange import Scenario
from simulations.federation.facts import settings
from simulations.federation.report import FORMAT


def read_beside(out: Path, scenario: Scenario) -> dict[str, Any]:
    """Read the report of the same exchange without differential privacy.

    Args:
        out: Folder of ``report.json``.
        scenario: The exchange that it is to stand beside.

    Raises:
        FormatError: No report there that can be read.
        ExchangeError: Another exchange, or one with differential privacy.
    """
    path = out / "report.json"
    report = canonical.plain(canonical.read_bounded(path), "report.json")
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise ExchangeError(f"{path} is no report of an exchange; name the --out of one")
    wanted = {
        "exchange": scenario.federation.exchange,
        "seed": scenario.terms.seed,
        "settings": settings(scenario),
        "base": open_checkpoint(scenario.model).weights_digest,
        "sites": [(site.name, site.domain, site.donates) for site in scenario.federation.sites],
        "privacy": {"none"},
    }
    found = {
        "exchange": report["exchange"],
        "seed": report["seed"],
        "settings": report["settings"],
        "base": report["base"]["weights"],
        "sites": [(site["name"], site["domain"], site["donates"]) for site in report["sites"]],
        "privacy": {organ["privacy"] for organ in report["organs"]},
    }
    if other := [name for name, value in wanted.items() if found[name] != value]:
        raise ExchangeError(
            f"{path} has other {' and '.join(other)}; "
            "name the --out of this very exchange without --dp-epsilon"
        )
    return report
