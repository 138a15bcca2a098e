"""The picture of the comparison: perplexity against time and memory, each as a ratio to LoRA's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
MARKS = ("o", "s", "^", "D", "v", "P")
AXES = (("x cpu", "CPU seconds"), ("x peak", "peak memory"))


def draw(table: Sequence[dict[str, Any]], baseline: str, out: Path) -> None:
    """Draw a table of ``quality.summary``: a colour a method, a mark a domain; lower left is best.

    Args:
        table: Its rows; those without a ratio to the baseline are left out.
        baseline: The method that all are compared with, drawn at 1.
        out: The PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in table if "x LoRA" in row and all(axis in row for axis, _ in AXES)]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    cases = list(dict.fromkeys((row["domain"], row["tokens"]) for row in rows))
    figure = Figure(figsize=(11, 5), dpi=160, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (axis, title) in zip(figure.subplots(1, 2, sharey=True), AXES, strict=True):
        axes.axhline(1, color="#bbbbbb", linewidth=1, zorder=0)
        axes.axvline(1, color="#bbbbbb", linewidth=1, zorder=0)
        axes.plot(1, 1, "x", color="black")
        for row in rows:
            case = (row["domain"], row["tokens"])
            axes.errorbar(
                row[axis],
                row["x LoRA"],
                yerr=_bars(row),
                color=COLOURS[methods.index(row["method"]) % len(COLOURS)],
                marker=MARKS[cases.index(case) % len(MARKS)],
                markersize=6,
                linewidth=1,
                capsize=2,
            )
        axes.set_xlabel(f"{title}, LoRA = 1")
        axes.set_xlim(left=0)
        axes.margins(y=0.1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
    axes = figure.axes[0]
    axes.set_ylabel("held-out perplexity, LoRA = 1")
    axes.plot([], [], "x", color="black", label=baseline)
    for number, method in enumerate(methods):
        axes.plot([], [], "o", color=COLOURS[number % len(COLOURS)], label=method)
    for number, (domain, tokens) in enumerate(cases):
        mark = MARKS[number % len(MARKS)]
        axes.plot([], [], mark, color="#666666", mfc="none", label=f"{domain}, {tokens:,} tokens")
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(out, format="png")


def _bars(row: dict[str, Any]) -> list[list[float]] | None:
    """The interval over seeds as lengths below and above; None for one seed."""
    if not row.get("x LoRA interval"):
        return None
    low, high = row["x LoRA interval"]
    return [[max(0.0, row["x LoRA"] - low)], [max(0.0, high - row["x LoRA"])]]
