"""What the measurements of a coordinator say together: a model of its cost, and tables."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from simulations.benches.bench import spread
from simulations.tables import table

Run = Mapping[str, Any]

Number = Callable[[int, int], int]

DRIVERS: dict[str, dict[str, Number]] = {
    "enrol": {"site": lambda sites, donors: sites},
    "collect": {
        "organ": lambda sites, donors: donors,
        "addressee of an organ": lambda sites, donors: donors * sites,
    },
    "deliver": {"delivery": lambda sites, donors: donors * (sites - 1)},
    "transplant": {"trial": lambda sites, donors: donors * sites},
    "witness": {
        "site": lambda sites, donors: sites,
        "trial": lambda sites, donors: donors * sites,
    },
}
"""What each step's cost is a multiple of, by name: how many there are, of sites and donors."""
LARGER = ((512, 10), (512, 50), (512, 512))
"""Sites and donors that the model tells of; an offer names 512 addressees at most."""


def model(runs: Sequence[Run]) -> dict[str, Any]:
    """Fit each step's processor seconds to what they grow with, and check that on larger points.

    Args:
        runs: Of several points; those of the two smallest numbers of sites are fitted.

    Returns:
        Milliseconds by step and what they are for, bytes of a header, and how far off they are at
        all other points; empty where there are none.
    """
    two = sorted({run["sites"] for run in runs})[:2]
    small = [run for run in runs if run["sites"] in two]
    large = [run for run in runs if run["sites"] not in two]
    if not large:
        return {}
    steps = {
        step: dict(
            zip(
                drivers,
                _multiples(
                    [
                        [number(run["sites"], run["donors"]) for number in drivers.values()]
                        for run in small
                    ],
                    [1e3 * run["steps"][step]["cpu_seconds"] for run in small],
                ),
                strict=True,
            )
        )
        for step, drivers in DRIVERS.items()
    }
    # A donor is among those who are addressed: a header names all sites.
    fixed, each = _multiples(
        [[1, run["sites"]] for run in small], [float(run["header_bytes"]) for run in small]
    )
    found = {
        "steps": steps,
        "header_bytes": {"fixed": fixed, "each": each},
        "body_bytes": round(small[0]["bank_bytes"] / small[0]["donors"]),
    }
    return found | {"checked": _checked(found, large)}


def predicted(found: Mapping[str, Any], sites: int, donors: int) -> dict[str, float]:
    """What the model says of an exchange: processor seconds by step, and bytes."""
    seconds = {
        step: sum(ms * DRIVERS[step][each](sites, donors) for each, ms in costs.items()) / 1e3
        for step, costs in found["steps"].items()
    }
    header = found["header_bytes"]["fixed"] + found["header_bytes"]["each"] * sites
    delivered = donors * (sites - 1) * (header + found["body_bytes"])
    return seconds | {
        "all steps": sum(seconds.values()),
        "header bytes": header,
        "delivered bytes": delivered,
    }


def _checked(found: Mapping[str, Any], large: Sequence[Run]) -> list[dict[str, Any]]:
    rows = []
    for (sites, donors), runs in _by_size(large).items():
        for what, value in predicted(found, sites, donors).items():
            seen = median(_measured(run, what) for run in runs)
            digits = None if "bytes" in what else 2  # whole bytes
            row: dict[str, Any] = {"sites": sites, "donors": donors, "what": what}
            row |= {"predicted": round(value, digits), "measured": round(seen, digits)}
            rows.append(row | {"error": round(value / seen - 1, 3)})
    return rows


def _by_size(runs: Sequence[Run]) -> dict[tuple[int, int], list[Run]]:
    points: dict[tuple[int, int], list[Run]] = {}
    for run in runs:
        points.setdefault((run["sites"], run["donors"]), []).append(run)
    return dict(sorted(points.items()))


def _measured(run: Run, what: str) -> float:
    if what == "header bytes":
        return float(run["header_bytes"])
    if what == "delivered bytes":
        return float(run["delivered_bytes"])
    return sum(
        float(cost["cpu_seconds"])
        for step, cost in run["steps"].items()
        if what in (step, "all steps") and step in DRIVERS
    )


def _multiples(numbers: Sequence[Sequence[float]], values: Sequence[float]) -> list[float]:
    """What each number is to be multiplied by so that sums are least off, in parts of the values.

    Args:
        numbers: A row a measurement.
        values: That were measured.
    """
    scale = np.array(values)[:, None]
    found, *_ = np.linalg.lstsq(np.array(numbers) / scale, np.ones(len(values)), rcond=None)
    return [round(float(one), 3) for one in found]


def markdown(result: Mapping[str, Any]) -> str:
    """The results for people."""
    points = _by_size(result["runs"])
    facts = ", ".join(
        f"{name}: {' '.join(value) if isinstance(value, list) else value}"
        for name, value in result["machine"].items()
    )
    return (
        "# A coordinator\n\n"
        f"`make bench-coordinator`: organs of {result['bytes'] / 1e6:g} MB, each sealed to all "
        "sites. The coordinator's process alone: sites are another, and what the pipe between them "
        "takes is in no figure but peak memory and seconds. Median (minimum to maximum) where a "
        "point was measured more than once. The machine does other work at the same time.\n\n"
        f"{facts}.\n\n"
        "## Processor seconds\n\n"
        + _by_point(points, {**{step: _step(step) for step in DRIVERS}, **_SHARES}, 2)
        + "\n## What they go to\n\n"
        "Seconds of a processor, and by the clock: the difference is waiting, for the disk above "
        "all.\n\n"
        + _by_point(points, {name: _part(name) for name in PARTS}, 2)
        + "\n## Messages, bytes and what is kept\n\n"
        + _by_point(points, _SIZES, 2)
        + "\n## Afterwards\n\n"
        "Milliseconds of a processor: one proof, the whole log computed anew, what 16 cosignatures "
        "add to a request to sign; the page that takes longest.\n\n"
        + _by_point(points, _LATER, 1)
        + "\n## At sites\n\nProcessor seconds of all sites together; of a donor, for one organ."
        "\n\n" + _by_point(points, _AT_SITES, 3) + _modelled(result["model"]) + "\n"
        "## Flower's SuperLink\n\n"
        "Its state in SQLite, without its server: milliseconds of a processor to take in a "
        "message, to look once for replies to all that wait, and for messages to a node that has "
        "none.\n\n"
        + table(
            ["waiting", "take in", "look for replies", "idle node's look"],
            (
                [str(one[name]) for name in ("waiting", "store_ms", "look_ms", "idle_ms")]
                for one in result["superlink"]
            ),
        )
    )


Figure = Callable[[Run], float]


def _total(run: Run) -> float:
    return _measured(run, "all steps")


def _step(name: str) -> Figure:
    return lambda run: float(run["steps"].get(name, {"cpu_seconds": 0.0})["cpu_seconds"])


def _part(name: str) -> Figure:
    what, _, unit = name.partition(", ")
    return lambda run: float(run["parts"][what]["seconds" if unit else "cpu_seconds"])


PARTS = tuple(
    name for part in ("catalogue", "checks", "messages") for name in (part, f"{part}, clock")
)
_SHARES: dict[str, Figure] = {
    "all steps": _total,
    "ms a site": lambda run: 1e3 * _total(run) / run["sites"],
    "ms a trial": lambda run: 1e3 * _total(run) / (run["sites"] * run["donors"]),
    "ms a message": lambda run: 1e3 * _total(run) / sum(run["messages"].values()),
    "looks for replies": _step("waiting"),
}
_SIZES: dict[str, Figure] = {
    "messages": lambda run: sum(run["messages"].values()),
    "most that wait": lambda run: run["most_under_way"],
    "sent MB": lambda run: sum(run["sent_bytes"].values()) / 1e6,
    "received MB": lambda run: sum(run["received_bytes"].values()) / 1e6,
    "header KB": lambda run: run["header_bytes"] / 1e3,
    "peak MB": lambda run: run["peak_mb"],
    "of it before": lambda run: run["idle_mb"],
    "catalogue KB": lambda run: run["catalogue_bytes"] / 1e3,
    "bank MB": lambda run: run["bank_bytes"] / 1e6,
    "log entries": lambda run: run["log_entries"],
    "writing transactions": lambda run: run["writes"],
}
_LATER: dict[str, Figure] = {
    "inclusion": lambda run: run["inclusion_ms"],
    "consistency": lambda run: run["consistency_ms"],
    "whole log": lambda run: run["verify_log_ms"],
    "cosignatures": lambda run: run["cosigned_ms"],
    "of them KB": lambda run: run["cosigned_bytes"] / 1e3,
    "/api/exchanges/X": lambda run: run["views"]["exchange"]["ms"],
    "of it KB": lambda run: run["views"]["exchange"]["bytes"] / 1e3,
    "/api/sites": lambda run: run["views"]["sites"]["ms"],
    "/api/log": lambda run: run["views"]["log"]["ms"],
}
_AT_SITES: dict[str, Figure] = {
    "a donor seals": lambda run: run["at_sites"]["cpu_seconds"]["train.donate"] / run["donors"],
    "a site checks the log": lambda run: (
        run["at_sites"]["cpu_seconds"]["query.witness"] / run["sites"]
    ),
    "entries proven": lambda run: run["at_sites"]["proven"],
}


def _by_point(
    points: Mapping[tuple[int, int], Sequence[Run]], figures: Mapping[str, Figure], digits: int
) -> str:
    def cells(runs: Sequence[Run]) -> Iterable[str]:
        for figure in figures.values():
            values = [figure(run) for run in runs]
            whole = all(float(value).is_integer() for value in values)
            shown = 0 if whole else digits
            several = len(set(values)) > 1
            yield spread(values, shown) if several else f"{values[0]:.{shown}f}"

    return table(
        ["sites", "donors", *figures],
        ([str(sites), str(donors), *cells(runs)] for (sites, donors), runs in points.items()),
    )


def _modelled(found: Mapping[str, Any]) -> str:
    if not found:
        return ""
    steps = table(
        ["step", "ms", "for each"],
        (
            [step, f"{ms:.2f}", each]
            for step, costs in found["steps"].items()
            for each, ms in costs.items()
        ),
    )
    checked = table(
        ["sites", "donors", "what", "predicted", "measured", "error"],
        (
            [
                str(row["sites"]),
                str(row["donors"]),
                row["what"],
                f"{row['predicted']:,}",
                f"{row['measured']:,}",
                f"{row['error']:+.1%}",
            ]
            for row in found["checked"]
        ),
    )
    larger = table(
        ["sites", "donors", "processor seconds", "header KB", "delivered GB"],
        (
            [
                *(str(sites), str(donors), f"{said['all steps']:,.0f}"),
                *(f"{said['header bytes'] / 1e3:,.0f}", f"{said['delivered bytes'] / 1e9:,.1f}"),
            ]
            for sites, donors in LARGER
            for said in (predicted(found, sites, donors),)
        ),
    )
    header = found["header_bytes"]
    return (
        "\n## Model\n\nProcessor time of each step, by least squares of relative errors on the "
        "points of the two smallest numbers of sites.\n\n"
        + steps
        + f"\nA header has {header['fixed']:,.0f} bytes and {header['each']:,.0f} for each site; "
        f"every other site is delivered it whole, with a body of {found['body_bytes']:,} bytes.\n\n"
        "Against the other points, which it has not seen:\n\n"
        + checked
        + "\nWhat it says of exchanges that were not measured:\n\n"
        + larger
    )
