"""Charts as values: drawn as a PNG, and beside it a CSV of the very numbers that are drawn."""

import csv
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from not_core import atomic

HUES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5a4a9c", "#7a7f87")
"""Told apart by all kinds of sight; the last is for what others are measured by.

Source: Okabe and Ito (2008), "Color Universal Design", with a violet and a grey.
"""
BLUE, ORANGE, GREEN, PINK, AMBER, SKY, VIOLET, GREY = range(len(HUES))
SHAPES = ("o", "s", "^", "D", "v", "P", "X", "<")
DASHES = ("-", "--", ":", "-.")
INK, SOFT = "#1c2026", "#5b626c"
PANEL = (4.3, 3.5)
"""Inches of one panel."""
LEGEND, HEAD = 2.6, 0.9
"""Inches for the legend, and for title and note."""
DODGE = 0.08
"""Between series in one place, of the way to the next."""

Look = Literal["line", "band", "marks", "steps", "level", "bars", "region"]
"""Marks joined by a line, a line in a band, marks, steps, one horizontal line, bars from 0, or all
that is above a line."""


@dataclass(frozen=True, slots=True)
class Point:
    """A value, the ends of its interval if it has one, and a word for the CSV and above a bar."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    word: str = ""


def valued(x: float, y: float, interval: Sequence[float] | None, word: str = "") -> Point:
    """A value with its interval, if it has one."""
    low, high = interval or (None, None)
    return Point(x, y, low, high, word)


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """What belongs together in a panel.

    Attributes:
        name: In the legend, once for all panels.
        points: By growing ``x``.
        look: How they are drawn.
        hue: Place in ``HUES``.
        style: Place in ``SHAPES`` and ``DASHES``, so that colour alone tells nothing apart.
        hollow: Whether marks are drawn empty.
    """

    name: str
    points: tuple[Point, ...]
    look: Look = "line"
    hue: int = BLUE
    style: int = 0
    hollow: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """What an axis shows, with its unit; names of places where it has no numbers."""

    label: str
    log: bool = False
    places: tuple[str, ...] = ()
    limits: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One pair of axes."""

    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Rows of panels, with what a reader must know of all: seeds, and what bars mean.

    Attributes:
        title: What is asked.
        note: Below the panels.
        rows: Of panels, from above, equally many in each.
        share: Whether a row has one vertical axis, a column one horizontal.
        wide: Whether panels are twice as wide.
    """

    title: str
    note: str
    rows: tuple[tuple[Panel, ...], ...]
    share: bool = False
    wide: bool = False


def write(chart: Chart, stem: Path) -> None:
    """Write a chart as ``stem``.png and its numbers as ``stem``.csv; files there are replaced.

    The PNG names its chart's ``digest``, so that it can be told from one of other results.
    """
    # Not with_suffix, which would cut a name at its first dot.
    atomic.write(stem.with_name(f"{stem.name}.csv"), numbers(chart).encode())
    figure = _drawn(chart)
    with atomic.file(stem.with_name(f"{stem.name}.png")) as work, work.open("wb") as out:
        figure.savefig(out, format="png", metadata={"Software": None, "Source": digest(chart)})


def digest(chart: Chart) -> str:
    """SHA-256 of all that is drawn, words included."""
    return hashlib.sha256(repr(chart).encode()).hexdigest()


def numbers(chart: Chart) -> str:
    """All numbers of a chart as CSV, one line a point."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("panel", "x axis", "y axis", "series", "x", "y", "low", "high", "note"))
    for panel in (panel for row in chart.rows for panel in row):
        for series in panel.series:
            for point in series.points:
                places = panel.x.places
                x: object = places[round(point.x)] if places else point.x
                x = "" if series.look == "level" else x
                axes = (panel.title, panel.x.label, panel.y.label, series.name)
                rows.writerow((*axes, x, point.y, point.low, point.high, point.word))
    return text.getvalue()


def over_seeds(counts: Iterable[int], bars: str = "95% over seeds, by Student's t") -> str:
    """How many seeds values are means of, and what their bars are."""
    fewest, most = min(found := set(counts), default=0), max(found, default=0)
    if most < 2:
        return "one seed, so no spread is shown"
    if fewest < most:
        return f"{fewest} to {most} seeds; bars: {bars}, none where there is one seed"
    return f"{most} seeds; bars: {bars}"


def _drawn(chart: Chart) -> Any:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = len(chart.rows[0])
    width, height = PANEL[0] * columns * (1 + chart.wide), PANEL[1] * len(chart.rows)
    size = (width + LEGEND, height + HEAD)
    colours = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    with rc_context({"font.family": "DejaVu Sans", "font.size": 9.5, **colours}):
        figure = Figure(figsize=size, dpi=150, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(
            len(chart.rows), columns, squeeze=False,
            sharex="col" if chart.share else False, sharey="row" if chart.share else False,
        )  # fmt: skip
        for row, all_axes in zip(chart.rows, grid, strict=True):
            for panel, axes in zip(row, all_axes, strict=True):
                _panel(axes, panel)
                if chart.share:
                    axes.label_outer()
        figure.suptitle(chart.title, size=12, weight="bold", x=0.01, ha="left")
        figure.supxlabel(chart.note, size=8.5, color=SOFT, x=0.01, ha="left")
        handles: dict[str, Any] = {}
        for axes in figure.axes:
            for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
                handles.setdefault(name, handle)
        figure.legend(
            list(handles.values()), list(handles), loc="outside right upper", frameon=False
        )
    return figure


def _panel(axes: Any, panel: Panel) -> None:
    axes.set_title(panel.title, loc="left", size=10, weight="bold")
    axes.set_xlabel(panel.x.label)
    axes.grid(color="#e6e6e3", linewidth=0.6, axis="y" if panel.x.places else "both")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_ylabel(panel.y.label)
    _scale(axes.xaxis, axes.set_xscale, axes.set_xlim, panel.x)
    _scale(axes.yaxis, axes.set_yscale, axes.set_ylim, panel.y)
    for number, series in enumerate(panel.series):
        # In one place, marks stand side by side.
        beside = DODGE * (number - (len(panel.series) - 1) / 2) if panel.x.places else 0.0
        _series(axes, series, beside)
    if panel.x.places:
        long = sum(map(len, panel.x.places)) > 40
        turned: dict[str, Any] = {"rotation": 50, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(range(len(panel.x.places)), panel.x.places, **(turned if long else {}))


def _scale(ticks: Any, set_scale: Any, set_limits: Any, axis: Axis) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    if axis.log:
        set_scale("log")
        ticks.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ticks.set_minor_locator(NullLocator())
    if not axis.places:
        ticks.set_major_formatter(FuncFormatter(lambda value, place: _short(value)))
    if axis.limits:
        set_limits(*axis.limits)


def _short(value: float) -> str:
    """A number at a tick: 50k for 50,000, 2M for two million."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:.6g}M"
    return f"{value / 1e3:.6g}k" if abs(value) >= 1e4 else f"{value:,.6g}"


def _series(axes: Any, series: Series, beside: float) -> None:
    xs, ys = [one.x for one in series.points], [one.y for one in series.points]
    colour, dashes = HUES[series.hue], DASHES[series.style % len(DASHES)]
    named: dict[str, Any] = {"color": colour, "label": series.name}
    match series.look:
        case "level":
            axes.axhline(ys[0], linestyle="--", linewidth=1.2, **named)
        case "steps":
            axes.plot(xs, ys, drawstyle="steps-post", linestyle=dashes, **named)
        case "region":
            top = max(*ys, axes.get_ylim()[1])
            axes.fill_between(xs, ys, top, alpha=0.1, linewidth=0, **named)
        case "bars":
            drawn = axes.bar(xs, ys, width=0.7, **named)
            words = [one.word for one in series.points]
            axes.bar_label(drawn, words, rotation=90, padding=3, size=8.5, color=INK)
            axes.margins(y=0.5)
        case "band":
            axes.plot(xs, ys, linestyle=dashes, marker=".", **named)
            held = [(one.x, one.low, one.high) for one in series.points if one.low is not None]
            if held:
                axes.fill_between(*zip(*held, strict=True), color=colour, alpha=0.15, linewidth=0)
        case "line" | "marks":
            axes.errorbar(
                [x + beside for x in xs], ys, yerr=_reach(series.points), linewidth=1.5,
                capsize=3, markersize=6,
                marker=SHAPES[series.style % len(SHAPES)], mfc="white" if series.hollow else colour,
                linestyle=dashes if series.look == "line" else "", **named,
            )  # fmt: skip


def _reach(points: Sequence[Point]) -> list[list[float]] | None:
    """Lengths of bars below and above; none has a length where a point has no interval."""
    if all(one.low is None for one in points):
        return None
    return [
        [max(0.0, one.y - (one.y if one.low is None else one.low)) for one in points],
        [max(0.0, (one.y if one.high is None else one.high) - one.y) for one in points],
    ]
