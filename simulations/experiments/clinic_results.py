"""What the clinic's measurements say together: JSON, a table and a chart."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from simulations import charts, tables
from simulations.charts import Axis, Chart, Panel, Series, over_seeds, valued
from simulations.experiments.intervals import Pair, by_documents, interval

CLAIMED = "organ+organ"
"""What is said to beat LoRA: the hospital's organ and the recovery that a command does unasked."""
BASELINES = ("lora", "organ")
"""What every method is set beside: LoRA on the clinic's records alone, and the organ as it is."""
STYLE = {
    "stock": (charts.GREY, 0),
    "lora": (charts.ORANGE, 0),
    "low-rank": (charts.ORANGE, 1),
    "organ": (charts.PINK, 0),
    "shared-lora": (charts.PINK, 1),
    "organ+organ": (charts.BLUE, 0),
    "organ+organ-norms": (charts.GREEN, 2),
    "organ+norms": (charts.GREEN, 0),
    "organ+all": (charts.BLUE, 1),
    "organ+lora": (charts.VIOLET, 0),
}
"""Hue and style of each line."""
WORDS = {
    "stock": "nothing",
    "lora": "LoRA on its own records",
    "low-rank": "an organ of its own records",
    "organ": "the hospital's organ",
    "shared-lora": "a LoRA of the hospital's in its stead",
    "organ+organ": "the organ, then recovery of its layers",
    "organ+organ-norms": "the organ, then of their norms",
    "organ+norms": "the organ, then of all norms",
    "organ+all": "the organ, then of all layers",
    "organ+lora": "the organ, then LoRA",
}
"""What the clinic puts into its model."""


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a number of records and method: means over seeds, and ratios to the baselines.

    Of each ratio there are two 95% intervals: over seeds, which are other clinics and another
    order of the hospital's training, by Student's t; and over test documents, by a paired bootstrap
    of the losses that are means over seeds. Neither holds both kinds of chance.
    """
    sizes = sorted({row["records"] for row in rows} - {0})
    cells: dict[tuple[int, str], dict[int, Mapping[str, Any]]] = {}
    seeds = sorted({row["seed"] for row in rows})
    for row in rows:
        # What uses no record is the same for every number of them; the stock model for all seeds.
        for size in [row["records"]] if row["records"] else sizes:
            for seed in seeds if row["method"] == "stock" else [row["seed"]]:
                cells.setdefault((size, row["method"]), {})[seed] = row
    table = []
    for (size, method), found in sorted(cells.items(), key=lambda cell: cell[0][0]):
        entry: dict[str, Any] = {
            "records": size,
            "method": method,
            "seeds": len({row["seed"] for row in found.values()}),
            "perplexity": _mean(found.values(), "domain_perplexity", 3),
            "by seed": [row["domain_perplexity"] for row in found.values()],
            "general": _mean(found.values(), "general_perplexity", 3),
            "trained tokens": round(fmean(row["tokens"] for row in found.values())),
            "nothing kept": sum(_idle(row) for row in found.values()),
            "cpu seconds": round(fmean(row["cpu_seconds"] for row in found.values()), 1),
            # Of who tunes nothing it would be the hospital's training.
            "peak MB": round(fmean(row["peak_mb"] for row in found.values()))
            if any(row["tokens"] for row in found.values())
            else None,
        }
        for baseline in BASELINES:
            beside = cells.get((size, baseline), {})
            pairs = [(found[seed], beside[seed]) for seed in found if seed in beside]
            if pairs and method != baseline:
                entry |= _ratio(f"x {baseline}", pairs)
        table.append(entry)
    return table


def _ratio(name: str, pairs: Sequence[Pair]) -> Any:
    logs = [math.log(a["domain_perplexity"] / b["domain_perplexity"]) for a, b in pairs]
    return {
        name: round(math.exp(fmean(logs)), 4),
        f"{name}, seeds": interval(logs),
        f"{name}, documents": by_documents(pairs),
    }


def _mean(rows: Any, name: str, digits: int) -> float:
    return round(math.exp(fmean(math.log(row[name]) for row in rows)), digits)


def _idle(row: Mapping[str, Any]) -> bool:
    """Whether no reading was better than the one before the first step."""
    readings = row["validation"]
    return bool(readings) and readings[0] < min(readings[1:])


def brief(table: Sequence[Mapping[str, Any]]) -> str:
    """For the README: a table a number of records."""
    return "\n".join(_brief(table, size) for size in sorted({row["records"] for row in table}))


def _brief(table: Sequence[Mapping[str, Any]], size: int) -> str:
    rows = {row["method"]: row for row in table if row["records"] == size}
    lines = []
    for method, row in ((one, rows[one]) for one in WORDS if one in rows):
        ratios = [
            tables.ratio(row[f"x {one}"], row[f"x {one}, seeds"], row[f"x {one}, documents"])
            if f"x {one}" in row
            else ""
            for one in BASELINES
        ]
        numbers = [f"{row[name]:.2f}" for name in ("perplexity", "general")]
        lines.append([WORDS[method], str(row["seeds"]), numbers[0], *ratios, numbers[1]])
    names = ("seeds", "perplexity", "x LoRA on its own", "x the organ", "general text")
    return tables.table((f"{size} records", *names), lines)


def markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """The table for people, with all that loses, and what it says in words."""
    names = (
        "records",
        "method",
        "seeds",
        "perplexity",
        *(f"x {one}{of}" for one in BASELINES for of in ("", ", seeds", ", documents")),
        "nothing kept",
        "general",
        "trained tokens",
        "cpu seconds",
        "peak MB",
    )
    found = tables.table(names, [[tables.word(row.get(name)) for name in names] for row in table])
    return "\n".join([found, *_sentences(table), ""])


def _sentences(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is claimed of each size, and every method that loses to a baseline, surely or not."""
    said = []
    for size in sorted({row["records"] for row in table}):
        rows = [row for row in table if row["records"] == size]
        for row in (row for row in rows if row["method"] == CLAIMED and "x lora" in row):
            verdict = "beats" if row["x lora"] < 1 else "does **not** beat"
            said.append(
                f"- {size} records: {CLAIMED} {verdict} LoRA on the clinic's own records: "
                f"{row['x lora'] - 1:+.1%} ({tables.word(row['x lora, documents'])} by documents, "
                f"{tables.word(row['x lora, seeds']) or 'one seed'} by seeds)."
            )
        for one in BASELINES:
            for row in rows:
                ratio = row.get(f"x {one}")
                if ratio is None or ratio <= 1:
                    continue
                range_ = row[f"x {one}, documents"]
                sure = "on these documents surely" if range_[0] > 1 else "perhaps by chance"
                said.append(
                    f"  - {row['method']} loses to {one}: {ratio - 1:+.1%} "
                    f"({tables.word(range_)} by documents), {sure}."
                )
    return said


def chart(table: Sequence[Mapping[str, Any]]) -> Chart:
    """Perplexity over the number of records, a line a method; bars reach over the seeds."""
    series, sizes = [], sorted({row["records"] for row in table})
    for method, (hue, style) in STYLE.items():
        points = tuple(
            valued(sizes.index(row["records"]), row["perplexity"], _range(row["by seed"]))
            for row in table
            if row["method"] == method
        )
        if points:
            series.append(Series(name=method, points=points, hue=hue, style=style))
    seeds = (row["seeds"] for row in table if row["method"] != "stock")
    return Chart(
        title="A clinic with few records",
        note=f"{over_seeds(seeds, 'lowest seed to highest')}. stock: the untrained model.",
        rows=(
            (
                Panel(
                    title="what the clinic does",
                    x=Axis(label="records that the clinic has", places=tuple(map(str, sizes))),
                    y=Axis(label="perplexity on test documents"),
                    series=tuple(series),
                ),
            ),
        ),
    )


def _range(values: Sequence[float]) -> tuple[float, float] | None:
    return (min(values), max(values)) if len(values) > 1 else None
