"""Several organs in one host, measured: other spans, stacked inserts, average and TIES.

Organs of two domains are trained on the demo's texts; every composition is measured on held-out
documents of both domains and on general text, beside the host and each organ alone.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from not_core import atomic
from not_core.learning.evaluation import Reading, compare, resampled
from not_core.learning.recipe import Recipe, default_span
from not_core.learning.records import Split, split
from not_core.manifest import Span
from not_core.surgery.checkpoint import open_checkpoint
from not_core.surgery.merge import Average, Method, Ties, merge
from not_core.surgery.organ import Label, Organ
from not_core.surgery.plan import Graft, Mode
from not_core.surgery.plan import compose as composed
from simulations import charts, tables
from simulations.charts import Axis, Chart, Panel, Point, Series, over_seeds
from simulations.experiments.kept import Kept, Readings
from simulations.material import domains
from simulations.tables import percent

LOW, HIGH = Span(start=10, stop=13), Span(start=20, stop=23)
HELD_OUT = 32
GENERAL = 24
THREADS = 1
RANK = 16
HOST = "host"
DOMAINS = ("medicine", "law")
TEXTS = (*DOMAINS, "general")
AIM = 0.8
"""Part of each organ's gain alone that two in one host should keep."""


@dataclass(frozen=True, slots=True)
class Composition:
    """What is put into the host: organs by key, each with mode and position.

    An organ by factors stands where it was cut from: its position is None.
    """

    name: str
    grafts: tuple[tuple[str, Mode, int | None], ...]


COMPOSITIONS = (
    Composition(HOST, ()),
    Composition("medicine", (("medicine", "replace", 10),)),
    Composition("law", (("law", "replace", 10),)),
    Composition("law higher up", (("law-high", "replace", 20),)),
    Composition("both, other spans", (("medicine", "replace", 10), ("law-high", "replace", 20))),
    Composition("both, averaged", (("average", "replace", 10),)),
    Composition("both, TIES density 0.2", (("ties-0.2", "replace", 10),)),
    Composition("both, TIES density 0.5", (("ties-0.5", "replace", 10),)),
    Composition("both, TIES density 1", (("ties-1", "replace", 10),)),
    Composition("medicine inserted", (("medicine", "insert", 13),)),
    Composition("both inserted, stacked", (("medicine", "insert", 13), ("law", "insert", 13))),
    Composition("medicine by factors", (("medicine-wide", "replace", None),)),
    Composition("law by factors", (("law-wide", "replace", None),)),
    Composition("both by factors, averaged", (("wide-average", "replace", None),)),
    Composition("both by factors, TIES x 1", (("wide-ties-1", "replace", None),)),
    Composition("both by factors, TIES x 1.5", (("wide-ties-1.5", "replace", None),)),
)
MERGES: dict[str, Method] = {
    "average": Average(),
    "ties-0.2": Ties(density=0.2),
    "ties-0.5": Ties(density=0.5),
    "ties-1": Ties(density=1.0),
}
WIDE_MERGES: dict[str, Method] = {
    "wide-average": Average(),
    "wide-ties-1": Ties(density=1.0),
    "wide-ties-1.5": Ties(density=1.0, scale=1.5),
}
ALONE = {
    "other spans": {"medicine": "medicine", "law": "law higher up"},
    "by factors": {"medicine": "medicine by factors", "law": "law by factors"},
    "": {"medicine": "medicine", "law": "law"},
}
"""By words in a pair's name, the first that it has: each of its organs alone."""


def experiment(
    model: str, out: Path, tokens: int, seeds: int, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Train, compose and measure; what is done is kept, and a second call goes on.

    What is kept lies under a digest of all that decides it, so that a call with another model,
    other texts or another number of tokens does it anew.

    Returns:
        One row a composition and seed: perplexities, their changes against the host, and for two
        organs the part of each one's gain alone, in log perplexity, that is kept.
    """
    host = open_checkpoint(model)
    texts = {
        "medicine": split(_texts(domains.abstracts(say)), HELD_OUT, 0),
        "law": split(_texts(domains.cases(say)), HELD_OUT, 0),
    }
    held_out = {name: parts.held_out for name, parts in texts.items()}
    held_out["general"] = tuple(_texts(domains.general(say))[:GENERAL])
    kept, rows = Kept(out, host, say), []
    kept.tell(Recipe(tokens=tokens, threads=THREADS, device="cpu"), seeds)
    for seed in range(seeds):
        organs = dict(_organs(kept, texts, tokens, seed))
        found = {
            one.name: _measure(one, kept, organs, held_out)
            for one in COMPOSITIONS
            if all(key in organs for key, _, _ in one.grafts)
        }
        for name, readings in found.items():
            row: dict[str, Any] = {"composition": name, "seed": seed}
            for key, reading in readings.items():
                row[key] = round(reading.perplexity, 2)
                row[f"{key} change"] = percent(compare(found[HOST][key], reading, seed))
            if name.startswith("both"):
                alone = next(one for words, one in ALONE.items() if words in name)
                for key, single in alone.items():
                    if single in found:
                        host_, alone_, pair = (found[one][key] for one in (HOST, single, name))
                        part, reach = gain_kept(host_, alone_, pair, seed)
                        row[f"{key} gain kept"] = part
                        row[f"{key} gain kept, documents"] = list(reach)
            rows.append(row)
        atomic.write(out / "compose.json", json.dumps(rows, indent=2).encode())
        atomic.write(out / "compose.md", markdown(rows).encode())
    charts.write(chart(rows), out / "compose")
    return rows


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
            "documents, the ends of the seeds' 95% intervals.",
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
    for name in _names(rows):
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


def gain_kept(
    host: Reading, alone: Reading, pair: Reading, seed: int
) -> tuple[float, tuple[float, float]]:
    """Which part of one organ's gain alone a pair keeps, in log perplexity.

    Args:
        host: Losses without any organ.
        alone: With the one.
        pair: With both, all on the same documents.
        seed: Of the resampling.

    Returns:
        The part, and its 95% interval over documents, made as ``evaluation.compare`` makes one.
    """
    import numpy as np

    before, one, both = (
        np.array([loss.nats for loss in reading.losses]) for reading in (host, alone, pair)
    )
    part = (before - both).sum() / (before - one).sum()

    def parts(drawn: Any) -> Any:
        return (before - both)[drawn].sum(axis=1) / (before - one)[drawn].sum(axis=1)

    low, high = resampled(len(before), parts, seed)
    return round(float(part), 3), (round(low, 3), round(high, 3))


def _texts(records: Sequence[domains.Record]) -> list[str]:
    return [record.text for record in records]


def _organs(
    kept: Kept, texts: dict[str, Split], tokens: int, seed: int
) -> Iterator[tuple[str, Organ]]:
    def trained(key: str, domain: str, span: Span, rank: int | None) -> Organ:
        recipe = Recipe(rank=rank, tokens=tokens, seed=seed, threads=THREADS, device="cpu")
        return kept.organ(key, domain, span, texts[domain].train, recipe)

    wide = default_span(kept.host.layers, RANK)
    low = [trained(domain, domain, LOW, None) for domain in texts]
    high = [trained(f"{domain}-wide", domain, wide, RANK) for domain in texts]
    yield from zip(texts, low, strict=True)
    yield "law-high", trained("law-high", "law", HIGH, None)
    yield from ((f"{domain}-wide", organ) for domain, organ in zip(texts, high, strict=True))
    for pair, methods in ((low, MERGES), (high, WIDE_MERGES)):
        for key, method in methods.items():
            manifest, tensors = merge(pair, kept.host, Label(name="both"), method)
            yield key, Organ(manifest, tensors)


def _measure(
    composition: Composition,
    kept: Kept,
    organs: dict[str, Organ],
    held_out: dict[str, tuple[str, ...]],
) -> Readings:
    grafts = [
        Graft(
            organ=key,
            count=len(organs[key]),
            mode=mode,
            position=organs[key].manifest.span.start if position is None else position,
        )
        for key, mode, position in composition.grafts
    ]
    plan = composed(kept.host.layers, grafts)
    return kept.readings(composition.name, plan, organs, held_out)
