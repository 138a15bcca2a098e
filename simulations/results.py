"""The README's tables of results, made from what experiments kept."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from not_core import atomic
from not_core.errors import FormatError
from simulations.benches import bench_speed
from simulations.experiments import (
    bench_dp_results,
    clinic_results,
    federated_results,
    quality_results,
)
from simulations.experiments.kept import RESULTS

TABLES: dict[str, tuple[Path, Callable[[Any], str]]] = {
    "quality": (RESULTS / "quality" / "quality.json", quality_results.brief),
    "clinic": (RESULTS / "clinic" / "clinic.json", clinic_results.brief),
    "federated": (RESULTS / "federated" / "federated.json", federated_results.brief),
    "privacy": (RESULTS / "privacy" / "bench-dp.json", bench_dp_results.brief),
    "speed": (RESULTS / "speed" / "bench-speed.json", bench_speed.markdown),
}
"""By the name in its markers: results, and the text that is made of them."""


def markers(name: str) -> tuple[str, str]:
    """What stands before and after a table in the README."""
    return f"<!-- {name}: make readme -->\n", f"<!-- end of {name} -->"


def refresh(readme: Path, root: Path) -> bool:
    """Put the tables of kept results into a README.

    Args:
        readme: Holds the markers.
        root: The folder in which ``docs/results`` lies.

    Returns:
        Whether it changed.

    Raises:
        FormatError: The README lacks the markers of a table, or results are not there.
    """
    text = new = readme.read_text(encoding="utf-8")
    for name, (results, table) in TABLES.items():
        first, last = markers(name)
        before, begin, rest = new.partition(first)
        _, end, after = rest.partition(last)
        if not begin or not end:
            raise FormatError(
                f"{readme} lacks {first.strip()} and {last}; put them where the table belongs"
            )
        try:
            made = table(json.loads((root / results).read_bytes()))
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            raise FormatError(
                f"{root / results} is missing, or not of the form that is shown today; run "
                "its experiment to its end"
            ) from None
        new = before + begin + made + end + after
    if new != text:
        atomic.write(readme, new.encode())
    return new != text
