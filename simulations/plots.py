"""Charts of results that are kept already; nothing is measured."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from not_core.errors import FormatError
from simulations import charts
from simulations.experiments import (
    attack,
    bench_dp_results,
    clinic_results,
    compose_results,
    federated_results,
    frontier,
    paper_results,
)
from simulations.experiments.cells import SO_FAR

CHARTS: dict[str, Callable[[Any], charts.Chart]] = {
    "attack": attack.chart,
    "bench-dp": bench_dp_results.chart,
    "clinic": clinic_results.chart,
    "compose": compose_results.chart,
    "federated": federated_results.chart,
    "positions": paper_results.positions_chart,
    "quality": frontier.chart,
    "transfer": paper_results.transfer_chart,
}
"""By the name of the file of results, without ``.json`` and what part of them it is."""


def plot(folder: Path) -> list[Path]:
    """Draw what is known in a folder of results.

    Args:
        folder: The ``--out`` of an experiment, in which the charts are written, too.

    Returns:
        The PNGs; beside each is its CSV.

    Raises:
        FormatError: The folder holds no known results, or results of another form.
    """
    found = {
        path.stem: chart
        for name, chart in CHARTS.items()
        for path in (folder / f"{name}.json", *sorted(folder.glob(f"{name}-*.json")))
        if path.is_file() and not path.stem.endswith(SO_FAR)
    }
    if not found:
        raise FormatError(
            f"no results in {folder}; expected one of {', '.join(f'{one}.json' for one in CHARTS)}"
        )
    for name, chart_of in found.items():
        path = folder / f"{name}.json"
        try:
            chart = chart_of(json.loads(path.read_bytes()))
        except (ValueError, KeyError, TypeError, IndexError):
            raise FormatError(
                f"{path} is not of the form that is drawn today; run its experiment again, which "
                "measures nothing that it has kept"
            ) from None
        charts.write(chart, folder / name)
    return [folder / f"{name}.png" for name in found]
