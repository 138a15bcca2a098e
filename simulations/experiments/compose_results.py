"""What several organs in one host came to: a table, which pairs keep enough, and a chart."""

from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

from simulations import charts, tables
from simulations.charts import Axis, Chart, Panel, Point, Series, over_seeds

HOST = "host"
PAIR = "both"
"""What the name of a pair begins with."""
DOMAINS = ("medicine", "law")
TEXTS = (*DOMAINS, "general")
AIM = 0.8
"""Part of each organ's gain alone that two in one host should keep."""


def chart(rows: Sequence[dict[str, Any]]) -> Chart:
    """Perplexity of each composition against the host's, by text; bars reach over the seeds."""
    names = [name for name in _names(rows) if name != HOST]
    series = []
    for number, text in enumerate(TEXTS):
        points = []
        for place, name in enumerate(names):
            ratios = _ratios(rows, name, text)
            low, high = (min(ratios), max(ratios)) if len(ratios) > 1 else (None, None)
            points.append(Point(place, round(fmean(ratios), 4), low, high))
        series.append(
            Series(name=text, points=tuple(points), look="marks", hue=number, style=number)
        )
    series.append(Series(name="host", points=(Point(0, 1),), look="level", hue=charts.GREY))
    panel = Panel(
        title="what is put into the host",
        x=Axis(label="", places=tuple(names)),
        y=Axis(label="perplexity, host = 1"),
        series=tuple(series),
    )
    return Chart(
        title="Several organs in one host",
        note=over_seeds([len({row["seed"] for row in rows})], "lowest seed to highest"),
        rows=((panel,),),
        wide=True,
    )


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table for people, means over seeds, and which pairs keep what is aimed at."""
    means = summary(rows)
    lines = [list(row.values()) for row in means]
    names = ["change" if name.endswith("change") else name for name in means[0]]
    seeds = len({row["seed"] for row in rows})
    return "\n".join(
        [
            tables.table(names, lines),
            f"{seeds} {'seed' if seeds == 1 else 'seeds'}: means, and of the gain that two organs "
            "keep of each one's alone, in log perplexity, the lowest and the highest seed; by "
            "documents, the ends of the seeds' 95% intervals. Of one organ it is the part of the "
            "other's gain that it brings unasked.",
            f"Aimed at: {AIM:.0%} of each one's gain, with every seed. The plain averages choose "
            "nothing; of the others, tried on the same documents, the best is flattered.",
            "",
            *(f"- {one}" for one in aims(rows)),
            "",
        ]
    )


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """One row a composition, over its seeds; empty where a column says nothing of it."""
    lines = []
    for name in _names(rows):
        line = {"composition": name}
        for text in TEXTS:
            found = [row[text] for row in rows if row["composition"] == name]
            change = fmean(_ratios(rows, name, text)) - 1
            line[text] = f"{fmean(found):.2f}"
            line[f"{text} change"] = "" if name == HOST else f"{change:+.1%}"
        for text in DOMAINS:
            kept, lows, highs = _parts(rows, name, text)
            line[f"{text} gain kept"] = _reach(kept) if kept else ""
            line[f"{text} gain kept, by documents"] = (
                f"{min(lows):.0%} to {max(highs):.0%}" if kept else ""
            )
        lines.append(line)
    return lines


def brief(rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """What of the means fits a terminal."""
    shown = ("composition", *(f"{text} change" for text in TEXTS))
    shown += tuple(f"{text} gain kept" for text in DOMAINS)
    return [{name: line[name] for name in shown} for line in summary(rows)]


def aims(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """For each pair, the least part of a gain that it keeps, and whether that is enough."""
    for name in (one for one in _names(rows) if one.startswith(PAIR)):
        parts = [one for text in DOMAINS for one in zip(*_parts(rows, name, text), strict=True)]
        if parts:
            part, low, high = min(parts)
            yield (
                f"{name}: {part:.0%} at least, {'as' if part >= AIM else 'less than'} aimed at"
                f"{', not surely' if low < AIM <= high else ''}."
            )


def _parts(
    rows: Sequence[dict[str, Any]], name: str, text: str
) -> tuple[list[float], list[float], list[float]]:
    """By seed: the part of a gain that is kept, and its interval's ends; none if it is no pair."""
    key = f"{text} gain kept"
    own = [row for row in rows if row["composition"] == name and key in row]
    reaches = [row[f"{key}, documents"] for row in own]
    return [row[key] for row in own], [low for low, _ in reaches], [high for _, high in reaches]


def _reach(values: Sequence[float]) -> str:
    return f"{fmean(values):.0%} ({min(values):.0%} to {max(values):.0%})"


def _names(rows: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["composition"] for row in rows))


def _ratios(rows: Sequence[dict[str, Any]], name: str, text: str) -> list[float]:
    """Perplexities with a composition over the host's, by seed."""
    host = {row["seed"]: row[text] for row in rows if row["composition"] == HOST}
    return [row[text] / host[row["seed"]] for row in rows if row["composition"] == name]
