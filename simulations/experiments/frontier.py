"""The chart of the comparison: perplexity over tokens, seconds and what is sent, a row a domain."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from simulations import charts
from simulations.charts import Axis, Chart, Panel, Point, Series, over_seeds, valued

METHODS = {
    "lora": ("LoRA", charts.ORANGE, 1),
    "organ": ("organ", charts.BLUE, 0),
    "organ in the time of lora": ("organ, in LoRA's seconds", charts.SKY, 4),
    "lora-bf16": ("LoRA in bfloat16", charts.ORANGE, 1),
    "organ in the time of lora-bf16": ("organ, in its seconds", charts.SKY, 4),
    "lora-bf16-upper": ("LoRA in bfloat16, layers 5:30", charts.AMBER, 7),
    "lora-scaled": ("LoRA, scaled by 0.9", charts.ORANGE, 6),
    "organ-unscaled": ("organ, unscaled", charts.BLUE, 5),
    "lora-attention": ("LoRA, attention only", charts.AMBER, 5),
    "full": ("full fine-tuning", charts.GREEN, 2),
    "organ-whole": ("organ, whole layers", charts.VIOLET, 6),
    "paper": ("the paper's recipe", charts.PINK, 3),
}
"""Name, hue and shape of each method, hollow in bfloat16; others come after them, in grey."""
AXES = (
    ("trained tokens", "tokens trained on", False),
    ("cpu seconds", "CPU seconds", False),
    ("trainable", "numbers to send", True),
)


def chart(table: Sequence[dict[str, Any]]) -> Chart:
    """Rows of ``quality_results.summary`` as a chart; lower left is best everywhere."""
    domains = list(dict.fromkeys(row["domain"] for row in table))
    trained = [row for row in table if row["method"] != "stock"]
    machine = _processor(trained)
    return Chart(
        title="Organs beside LoRA and full fine-tuning",
        note=f"{over_seeds(row['seeds'] for row in trained)}. Lines join one method's budgets. "
        f"Seconds of {machine} only.",
        rows=tuple(
            tuple(
                _panel(domain, [row for row in table if _drawn(row, axis[0], machine)], *axis)
                for axis in AXES
            )
            for domain in domains
        ),
        share=True,
    )


def _processor(trained: Sequence[dict[str, Any]]) -> str:
    """The kind of machine that most organs were timed on."""
    organs = [row["machine"] for row in trained if row["method"] == "organ"]
    found = Counter(organs or [row["machine"] for row in trained]).most_common(1)
    return str(found[0][0]) if found else "one machine"


def _drawn(row: dict[str, Any], axis: str, machine: str) -> bool:
    """Whether a row belongs to an axis: another machine's seconds are none of this one's."""
    return axis != "cpu seconds" or row["method"] == "stock" or row["machine"] == machine


def _panel(domain: str, table: Sequence[dict[str, Any]], key: str, label: str, log: bool) -> Panel:
    rows = [row for row in table if row["domain"] == domain]
    others = dict.fromkeys(row["method"] for row in rows if row["method"] not in METHODS)
    series = []
    drawn = METHODS | {one: (one, charts.GREY, 7) for one in others if one != "stock"}
    for method, (name, hue, style) in drawn.items():
        own = sorted((row for row in rows if row["method"] == method), key=lambda row: row[key])
        points = tuple(
            valued(
                row[key],
                row["perplexity"],
                row.get("perplexity interval"),
                f"seeds: {row['seeds']}",
            )
            for row in own
        )
        if points:
            series.append(
                Series(name=name, points=points, hue=hue, style=style, hollow="bf16" in method)
            )
    for row in rows:
        if row["method"] == "stock":
            base = (Point(0, row["perplexity"]),)
            series.append(Series(name="untrained", points=base, look="level", hue=charts.GREY))
    return Panel(
        title=domain,
        x=Axis(label=label, log=log),
        y=Axis(label="perplexity on test documents"),
        series=tuple(series),
    )
