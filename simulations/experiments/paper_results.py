"""What the paper's questions found, as tables and charts."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from simulations import charts, tables
from simulations.charts import Axis, Chart, Panel, Point, Series

Rows = Sequence[Mapping[str, Any]]


def positions(rows: Rows) -> str:
    """Each organ's best and worst position, and how many are surely better than no organ."""
    lines = []
    for (organ, mode), group in _groups(rows, "organ", "mode"):
        best = next(row for row in group if row["best"])
        worst = max(group, key=lambda row: row["perplexity"])
        better = sum(row["high"] < row["without"] for row in group)
        lines.append(
            [
                organ,
                mode,
                str(best["position"]),
                f"{best['perplexity']:.2f}, {best['change']}",
                best["on others"],
                f"{better} of {len(group)}",
                f"{worst['position']}, {worst['perplexity']:,.0f}",
            ]
        )
    names = ("organ", "mode", "best position", "there", "there, on others", "better", "worst")
    return "\n".join(
        [
            tables.table(names, lines),
            f"Without an organ: {rows[0]['without']:.2f}. A position is chosen by the documents "
            "that all positions are tried on, and measured on others, with its 95% interval; "
            "better: positions whose own interval, of so many, is below no organ. One seed.",
            "",
        ]
    )


def positions_chart(rows: Rows) -> Chart:
    """Perplexity over the position, a panel a mode."""
    return Chart(
        title="Where an organ works",
        note="one seed; bands: 95% over documents, paired bootstrap, of the change against no "
        "organ.",
        rows=(
            tuple(
                Panel(
                    title=f"{mode} at each position" if mode in ("replace", "insert") else mode,
                    x=Axis(label="position (layer of the recipient)"),
                    y=Axis(label="perplexity on held-out documents", log=True),
                    series=tuple(_lines(group)),
                )
                for (mode,), group in _groups(rows, "mode")
            ),
        ),
        share=True,
    )


def _lines(rows: Rows) -> Iterator[Series]:
    for number, ((organ,), group) in enumerate(_groups(rows, "organ")):
        points = tuple(
            Point(row["position"], row["perplexity"], row["low"], row["high"],
                  word="best" if row["best"] else "")
            for row in group
        )  # fmt: skip
        yield Series(name=organ, points=points, look="band", hue=number % charts.GREY, style=number)
    host = (Point(0, rows[0]["without"]),)
    yield Series(name="no organ", points=host, look="level", hue=charts.GREY)


def transfer(rows: Rows) -> str:
    """A row a recipient and organ, a column a text."""
    texts = list(dict.fromkeys(row["text"] for row in rows))
    lines = []
    for (recipient,), group in _groups(rows, "recipient"):
        without = {row["text"]: f"{row['without']:.2f}" for row in group}
        lines.append([recipient, "none", *(without.get(text, "") for text in texts)])
        for (organ,), own in _groups(group, "organ of"):
            found = {row["text"]: f"{row['with']:.2f}, {row['change']}" for row in own}
            lines.append([recipient, organ, *(found.get(text, "") for text in texts)])
    return "\n".join(
        [
            tables.table(("recipient", "organ of", *texts), lines),
            "Perplexity, and its change against the recipient without an organ with its 95% "
            "interval over documents. An organ takes the place of all that tuning did to its "
            "layers. One seed.",
            "",
        ]
    )


def transfer_chart(rows: Rows) -> Chart:
    """Perplexity with an organ over that without, by text, a panel a recipient."""
    texts = list(dict.fromkeys(row["text"] for row in rows))
    organs = list(dict.fromkeys(row["organ of"] for row in rows))
    panels = []
    for (recipient,), group in _groups(rows, "recipient"):
        series = [
            Series(
                name=f"organ of {organ}",
                points=tuple(Point(texts.index(row["text"]), *row["ratio"]) for row in own),
                look="marks",
                hue=organs.index(organ) % charts.GREY,
                style=organs.index(organ),
            )
            for (organ,), own in _groups(group, "organ of")
        ]
        series.append(Series(name="no organ", points=(Point(0, 1),), look="level", hue=charts.GREY))
        panels.append(
            Panel(
                title=recipient,
                x=Axis(label="", places=tuple(texts)),
                y=Axis(label="perplexity, without an organ = 1"),
                series=tuple(series),
            )
        )
    return Chart(
        title="In whom an organ works",
        note="one seed; bars: 95% over documents, paired bootstrap.",
        rows=(tuple(panels),),
        share=True,
    )


def _groups(rows: Rows, *keys: str) -> Iterator[tuple[tuple[str, ...], Rows]]:
    """Rows by the values of some columns, in order of the first of each."""
    found: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    yield from found.items()
