"""The report of an exchange as a value, a page, a picture and a table in the terminal.

Every text in a report may come from another site, so nothing in it is trusted: the page escapes
it, the terminal gets it without control characters, and the page can load nothing from anywhere.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from not_core import atomic
from not_core.manifest import PROVES
from not_core.page.figures import duration, heat, number, percent, size
from simulations.federation.costs import privacy_costs

FORMAT = "organ-exchange/report/v1"
NO_PRIVACY = "none — nothing bounds what this organ may have memorised"
S = "\N{RIGHT SINGLE QUOTATION MARK}s"
STEPS = ("enrol", "donate", "deliver", "transplant", "witness")
VOLUMES = ("uploaded", "delivered", "stored")
COLUMN = 16
"""Characters of one recipient's column; as many as fit stand side by side in a terminal."""

BETTER, NEUTRAL, WORSE = "#64abdb", "#f3f3ef", "#f0a055"  # told apart with any colour vision

INK, SOFT = "#1c2026", "#595f69"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One organ at one recipient; ``heat`` runs from -1 (better) over 0 to 1 (worse)."""

    row: Mapping[str, Any]
    own: bool
    heat: float
    others: int

    @property
    def accepted(self) -> bool:
        """Whether the recipient keeps the organ."""
        return bool(self.row["verdict"] == "accepted")

    @property
    def mark(self) -> str:
        """The verdict as one sign."""
        return "✓" if self.accepted else "✗"


def write_json(report: Mapping[str, Any], path: Path) -> None:
    """Write ``report.json``: two spaces, keys in order; a number that is not finite is null."""
    text = json.dumps(_finite(report), indent=2, sort_keys=True, ensure_ascii=False)
    atomic.write(path, f"{text}\n".encode())


def render_html(report: Mapping[str, Any]) -> str:
    """One self-contained page: no script, nothing loaded from anywhere, light and dark.

    Args:
        report: A report of format v1.

    Returns:
        The document, all of the report's text escaped.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": number,
        "percent": percent,
        "size": size,
        "duration": duration,
        "privacy": privacy,
        "top": lambda values, keys: max([values[key] for key in keys]) or 1,
    }
    source = resources.files("simulations.federation").joinpath("report.html.jinja")
    template = environment.from_string(source.read_text(encoding="utf-8"))
    title, sentences = headline(report)
    return template.render(
        report=report,
        title=title,
        sentences=sentences,
        tiles=_tiles(report),
        recipients=_recipients(report),
        matrix=[(organ, _row(report, organ)) for organ in report["organs"]],
        organs={organ["digest"]: organ for organ in report["organs"]},
        private=[organ for organ in report["organs"] if _stated(organ) != "none"],
        costs=privacy_costs(report),
        proves=PROVES,
        steps=STEPS,
        volumes=VOLUMES,
    )


def headline(report: Mapping[str, Any]) -> tuple[str, list[str]]:
    """What the exchange found, in one sentence, and two or three more that put it in proportion."""
    crossed = _crossed(report)
    kept = [row for row in crossed if row["verdict"] == "accepted"]
    donors = len({organ["donor"] for organ in report["organs"]})
    more = [
        f"{_count(donors, 'site')} of {len(report['sites'])} donated "
        f"{_count(len(report['organs']), 'organ')}; {len(kept)} of "
        f"{_count(len(crossed), 'transplant')} into another site{S} model "
        f"{'was' if len(kept) == 1 else 'were'} accepted."
    ]
    ranked = sorted(kept, key=lambda row: _key(row["change"]))
    if ranked:
        best = ranked[0]
        fell = "fell" if _key(best["change"]) <= 0 else "rose"
        title = (
            f"With {best['donor']}{S} organ, {best['recipient']}{S} perplexity on its own records "
            f"{fell} {percent(best['change'], signed=False)}, from "
            f"{number(best['domain_perplexity_before'])} to "
            f"{number(best['domain_perplexity_after'])}."
        )
        low, high = best["interval"]
        more.insert(
            0,
            f"That change has a 95 % interval of {percent(low)} to {percent(high)} over "
            f"{_count(best['documents'], 'held-out document')}; on general English the same model "
            f"went from {number(best['general_perplexity_before'])} to "
            f"{number(best['general_perplexity_after'])}.",
        )
    elif crossed:
        title = f"No site accepted another site{S} organ."
    else:
        title = "No organ was tried at another site."
    if report["failures"]:
        count = len(report["failures"])
        more.append(f"{_count(count, 'step')} failed and {'is' if count == 1 else 'are'} listed.")
    return title, more


def print_matrix(report: Mapping[str, Any], console: Console) -> None:
    """Print organs against recipients, then why organs were rejected, by name and number.

    Args:
        report: A report of format v1.
        console: Where to; what does not fit its width goes into further tables.
    """
    names = _recipients(report)
    rejected: list[Mapping[str, Any]] = []
    rows = [(organ, _row(report, organ)) for organ in report["organs"]]
    columns = max(1, (console.width - 18) // COLUMN)
    for start in range(0, len(names), columns):
        part = slice(start, start + columns)
        table = Table(box=box.SIMPLE_HEAD, show_lines=False, padding=(0, 1), pad_edge=False)
        table.add_column("organ of ↓  at →", max_width=16, overflow="fold")
        for name in names[part]:
            table.add_column(Text(_safe(name)), min_width=13, max_width=13, overflow="fold")
        for organ, cells in rows:
            lines = [Text.assemble((_safe(organ["donor"]), "bold"), f"\nlayers {organ['span']}")]
            for cell in cells[part]:
                if cell and not cell.accepted:
                    rejected.append(cell.row)
                lines.append(_terminal_cell(cell, len(rejected)))
            table.add_row(*lines, end_section=True)
        console.print(table)
    console.print(
        Text("perplexity on the recipient's held-out records · ✓ accepted ")
        + Text("✗ rejected · own: the donor's check", style="dim"),
        style="dim",
    )
    if rejected:
        console.print("\nrejected", style="bold")
    for index, row in enumerate(rejected, start=1):
        who = f"{_safe(row['donor'])} → {_safe(row['recipient'])}"
        console.print(Text(f"{index:>3}  {who}: {_safe(row['reason'])}"))


def _terminal_cell(cell: Cell | None, rejection: int) -> Text:
    if cell is None:
        return Text("—", style="dim")
    row = cell.row
    values = (
        f"{number(row['domain_perplexity_before'])} → {number(row['domain_perplexity_after'])}\n"
    )
    mark = "✓" if cell.accepted else f"✗ {rejection}"
    colour = "green" if cell.accepted else "red"
    own = (" own", "dim") if cell.own else ""
    return Text.assemble(values, percent(row["change"]), " ", (mark, f"bold {colour}"), own)


def draw_png(report: Mapping[str, Any], path: Path) -> None:
    """Draw the exchange matrix, and below it what was sent and how long it took.

    Args:
        report: A report of format v1.
        path: The PNG to write; a file that is there is replaced.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names, organs = _recipients(report), report["organs"]
    width, height = max(8.0, 2.6 + 1.75 * len(names)), 3.9 + 0.95 * max(1, len(organs))
    with _style():
        figure = Figure(figsize=(width, height), dpi=160, facecolor="white")
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(
            2, 2, left=1.9 / width, right=1 - 0.3 / width, top=1 - 1.25 / height,
            bottom=0.55 / height, height_ratios=[0.95 * max(1, len(organs)), 0.85],
            hspace=0.95 / (0.5 * height), wspace=0.32,
        )  # fmt: skip
        figure.text(0.3 / width, 1 - 0.42 / height, "Exchange matrix", size=15, weight="bold")
        figure.text(
            0.3 / width, 1 - 0.72 / height, color=SOFT, size=9.5,
            s=f"perplexity on the recipient{S} held-out records, before → after  ·  ✓ accepted  "
            f"✗ rejected  ·  outlined: the donor{S} own check",
        )  # fmt: skip
        base = f"{_short(report['base']['name'], 60)}  ·  seed {report['seed']}"
        figure.text(1 - 0.3 / width, 1 - 0.42 / height, base, size=9.5, ha="right", color=SOFT)
        _draw_matrix(figure.add_subplot(grid[0, :]), report, names)
        _draw_bars(figure.add_subplot(grid[1, 0]), "bytes", VOLUMES, report["bytes"], size)
        _draw_bars(figure.add_subplot(grid[1, 1]), "seconds", STEPS, report["seconds"], duration)
        with atomic.file(path) as work, work.open("wb") as out:
            figure.savefig(out, format="png")


def _style() -> Any:
    from matplotlib import rc_context

    return rc_context(
        {"font.family": "DejaVu Sans", "text.color": INK, "ytick.color": INK, "xtick.color": INK}
    )


def _draw_matrix(axes: Any, report: Mapping[str, Any], names: Sequence[str]) -> None:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import FancyBboxPatch

    colours = LinearSegmentedColormap.from_list("change", [BETTER, NEUTRAL, WORSE])
    organs = report["organs"]
    axes.set(xlim=(0, max(1, len(names))), ylim=(max(1, len(organs)), 0))
    axes.set_xticks([x + 0.5 for x in range(len(names))], [_short(name) for name in names])
    labels = [f"{_short(organ['donor'])}\nlayers {_short(organ['span'])}" for organ in organs]
    axes.set_yticks([y + 0.5 for y in range(len(organs))], labels)
    axes.tick_params(length=0, labelsize=9.5, pad=6)
    axes.xaxis.tick_top()
    axes.spines[:].set_visible(False)
    for y, organ in enumerate(organs):
        for x, cell in enumerate(_row(report, organ)):
            face = colours((cell.heat + 1) / 2) if cell else "#fafaf9"
            axes.add_patch(
                FancyBboxPatch(
                    (x + 0.045, y + 0.06), 0.91, 0.88, boxstyle="round,pad=0,rounding_size=0.04",
                    facecolor=face, linewidth=1.6 if cell and cell.own else 0,
                    edgecolor=INK,
                )
            )  # fmt: skip
            if cell is None:
                axes.text(x + 0.5, y + 0.5, "not tried", ha="center", va="center", color="#6b717a")
                continue
            before, after = (cell.row[f"domain_perplexity_{when}"] for when in ("before", "after"))
            place = {"ha": "center", "va": "center"}
            axes.text(x + 0.5, y + 0.28, f"{number(before)} → {number(after)}", size=9.5, **place)
            axes.text(
                x + 0.5, y + 0.53, percent(cell.row["change"]), size=11, weight="bold", **place
            )
            verdict = f"{cell.mark} {'accepted' if cell.accepted else 'rejected'}"
            axes.text(x + 0.5, y + 0.78, verdict, size=8.5, **place)


def _draw_bars(
    axes: Any, title: str, keys: Sequence[str], values: Mapping[str, float], label: Any
) -> None:
    top = max([values[key] for key in keys], default=0) or 1
    axes.barh(range(len(keys)), [values[key] for key in keys], height=0.55, color="#7c8896")
    for y, key in enumerate(keys):
        axes.text(values[key] + top * 0.02, y, label(values[key]), va="center", size=8.5)
    axes.set(xlim=(0, top * 1.28), ylim=(len(STEPS) - 0.4, -0.6), xticks=[])
    axes.set_yticks(range(len(keys)), keys)
    axes.set_title(title, loc="left", size=10, weight="bold", pad=6)
    axes.tick_params(length=0, labelsize=9)
    axes.spines[:].set_visible(False)


def privacy(statement: str) -> str:
    """An organ's privacy statement in plain words; it is the donor's."""
    return NO_PRIVACY if statement == "none" else f"{statement}, its donor states"


def _stated(organ: Mapping[str, Any]) -> str:
    return str(organ.get("statement", {}).get("mechanism", "none"))


def _recipients(report: Mapping[str, Any]) -> list[str]:
    return [site["name"] for site in report["sites"]]


def _crossed(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [row for row in report["evaluations"] if row["donor"] != row["recipient"]]


def _row(report: Mapping[str, Any], organ: Mapping[str, Any]) -> list[Cell | None]:
    """The organ's cells in the order of the sites; of several evaluations the best is shown."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in report["evaluations"]:
        if row["organ"] == organ["digest"]:
            found.setdefault(row["recipient"], []).append(row)
    cells: list[Cell | None] = []
    for name in _recipients(report):
        rows = sorted(found.get(name, []), key=lambda row: (row["verdict"], _key(row["change"])))
        cells.append(
            Cell(
                row=rows[0],
                own=organ["donor"] == name,
                heat=heat(rows[0]["change"]),
                others=len(rows) - 1,
            )
            if rows
            else None
        )
    return cells


def _key(value: float | None) -> float:
    return math.inf if value is None or math.isnan(value) else value


def _tiles(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    crossed = _crossed(report)
    kept = sum(row["verdict"] == "accepted" for row in crossed)
    sent = report["bytes"]["delivered"]
    return [
        ("transplants accepted", f"{kept} of {len(crossed)}"),
        ("sealed bytes delivered", size(sent)),
        ("wall time", duration(report["seconds"]["total"])),
        ("base model", str(report["base"]["name"])),
    ]


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _safe(text: str) -> str:
    """Text for a terminal: one line, no control or escape characters."""
    return "".join(sign if sign.isprintable() else "�" for sign in str(text))


def _short(text: str, limit: int = 18) -> str:
    """Text for a picture; ``$`` would start mathematics there."""
    clean = _safe(text)
    return (clean if len(clean) <= limit else f"{clean[: limit - 1]}…").replace("$", r"\$")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
