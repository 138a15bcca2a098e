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
"""By the name of the file of results, without ``.json``."""


def plot(folder: Path) -> list[Path]:
    """Draw what is known in a folder of results.

    Args:
        folder: The ``--out`` of an experiment, in which the charts are written, too.

    Returns:
        The PNGs; beside each is its CSV.

    Raises:
        FormatError: The folder holds no known results, or results of another form.
    """
    found = [name for name in CHARTS if (folder / f"{name}.json").is_file()]
    if not found:
        raise FormatError(
            f"no results in {folder}; expected one of {', '.join(f'{one}.json' for one in CHARTS)}"
        )
    for name in found:
        path = folder / f"{name}.json"
        try:
            chart = CHARTS[name](json.loads(path.read_bytes()))
        except (ValueError, KeyError, TypeError, IndexError):
            raise FormatError(
                f"{path} is not of the form that is drawn today; run its experiment again, which "
                "measures nothing that it has kept"
            ) from None
        charts.write(chart, folder / name)
    return [folder / f"{name}.png" for name in found]
