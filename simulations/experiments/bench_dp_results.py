"""What the measurements under privacy say together: two tables, sentences and a chart."""

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from simulations import charts, tables
from simulations.charts import Axis, Chart, Look, Panel, Point, Series, over_seeds, valued
from simulations.experiments.intervals import interval

Row = Mapping[str, Any]
NOISELESS = "no noise"
"""In the place of an epsilon: the same course, and no privacy."""
DRAWN = {
    "organ": ("organ", charts.BLUE, 0),
    "lora": ("LoRA", charts.ORANGE, 1),
    "stock": ("untrained", charts.GREY, 0),
}
"""Name, hue and style of each method."""


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Both tables and what they come to in words.

    Args:
        rows: Measurements with ``Cell.tags``.

    Returns:
        Rows of ``cost`` and ``utility``; sentences under ``said``.
    """
    utility = list(_utility([row for row in rows if row["table"] == "utility"]))
    return {
        "cost": list(_cost([row for row in rows if row["table"] == "cost"])),
        "utility": utility,
        "said": list(_sentences(utility)),
    }


def _cost(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """One row a method and way to clip; ratios are to the same method without privacy.

    Tokens are those that were read, which chance decides under privacy. Set-up counts everywhere,
    the search for the noise nowhere.
    """
    plain = {row["method"]: row for row in rows if row["clipping"] is None}
    for row in rows:
        steps = row.get("steps") or row["tokens"] / row["recipe"]["step_tokens"]
        entry: dict[str, Any] = {
            "method": row["method"],
            "learns": f"rank {row['recipe']['rank']}" if row["recipe"]["rank"] else "whole layers",
            "clipping": row["clipping"] or "none",
            "frozen part in": _precision(row),
            "tokens": row["tokens"],
            "tokens a step": round(row["tokens"] / steps),
            "cpu seconds a step": round(row["cpu_seconds"] / steps, 2),
            "tokens a cpu second": round(row["tokens"] / row["cpu_seconds"], 1),
            "x non-private": None,
            "peak MB": row["peak_mb"],
            "x peak": None,
            "noise, seconds a step": None,
            "noise, part of a step": None,
        }
        beside = plain.get(row["method"])
        if row["clipping"] and row["tokens"]:
            entry["noise, seconds a step"] = row["noise_cpu_seconds"]
            part = row["noise_cpu_seconds"] * steps / row["cpu_seconds"]
            entry["noise, part of a step"] = round(part, 4)
            if beside and beside["machine"] == row["machine"]:
                ours, theirs = (one["cpu_seconds"] / one["tokens"] for one in (row, beside))
                entry["x non-private"] = round(ours / theirs, 3)
                entry["x peak"] = round(row["peak_mb"] / beside["peak_mb"], 3)
        yield entry


def _precision(row: Row) -> str:
    """What the frozen part computed in; ``auto`` is bfloat16 where the processor has it."""
    wanted: str = row["recipe"]["precision"]
    if wanted != "auto":
        return wanted
    return "bfloat16" if "_bf16" in row["machine"] else "float32"


def _utility(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """One row a domain, epsilon and method: means over seeds, with 95% intervals.

    Ratios are by seed: to the untrained model, to the same method without privacy, and to LoRA
    under the same privacy.
    """
    found: dict[tuple[str, float | None, str], dict[int, Row]] = {}
    for row in rows:
        found.setdefault((row["domain"], row["epsilon"], row["method"]), {})[row["seed"]] = row
    for (domain, epsilon, method), seeds in found.items():
        logs = [math.log(row["domain_perplexity"]) for row in seeds.values()]
        general = [math.log(row["general_perplexity"]) for row in seeds.values()]
        entry: dict[str, Any] = {
            "domain": domain,
            "epsilon": epsilon or "none",
            "method": method,
            "seeds": len(seeds),
            "tokens": round(fmean(row["tokens"] for row in seeds.values())),
            "perplexity": round(math.exp(fmean(logs)), 3),
            "perplexity interval": interval(logs),
            "general": round(math.exp(fmean(general)), 3),
        }
        untrained = found.get((domain, None, "stock"), {})
        beside = {
            "x untrained": dict.fromkeys(seeds, untrained[0]) if untrained else {},
            "x non-private": found.get((domain, None, method), {}) if epsilon else {},
            "x LoRA": found.get((domain, epsilon, "lora"), {}) if method != "lora" else {},
        }
        for name, others in beside.items():
            ratios = [
                math.log(row["domain_perplexity"] / others[seed]["domain_perplexity"])
                for seed, row in seeds.items()
                if seed in others and method != "stock"
            ]
            entry[name] = round(math.exp(fmean(ratios)), 4) if ratios else None
            entry[f"{name} interval"] = interval(ratios)
        yield entry


def _sentences(table: Sequence[Row]) -> Iterator[str]:
    """Where each private method beats what it must beat, and where it does not."""
    for domain in dict.fromkeys(row["domain"] for row in table):
        for method, ratio, other in (
            ("organ", "x LoRA", "private LoRA"),
            ("organ", "x untrained", "the untrained model"),
            ("lora", "x untrained", "the untrained model"),
        ):
            rows = [
                row
                for row in table
                if (row["domain"], row["method"]) == (domain, method)
                and not isinstance(row["epsilon"], str)
                and row[ratio]
            ]
            if rows:
                name = "organ" if method == "organ" else "LoRA"
                won = [_at(row, ratio) for row in rows if row[ratio] < 1]
                lost = [_at(row, ratio) for row in rows if row[ratio] >= 1]
                where = f"at epsilon {', '.join(won)}" if won else "at no epsilon"
                rest = f"; it does not at {', '.join(lost)}" if lost else ""
                yield f"{domain}: the private {name} beats {other} {where}{rest}"


def _at(row: Row, ratio: str) -> str:
    """An epsilon, the difference there, and whether it may be chance."""
    range_ = row[f"{ratio} interval"]
    sure = "one seed"
    if range_:
        sure = "perhaps by chance" if range_[0] <= 1 <= range_[1] else "surely"
    return f"{row['epsilon']:g} ({row[ratio] - 1:+.1%}, {sure})"


def brief(found: Mapping[str, Any]) -> str:
    """One row a domain: perplexity untrained, and of organ and LoRA at each epsilon."""
    rows = {(row["domain"], row["epsilon"], row["method"]): row for row in found["utility"]}
    epsilons = sorted({one for _, one, _ in rows if not isinstance(one, str)}, reverse=True)
    control = [NOISELESS] * any(one == NOISELESS for _, one, _ in rows)
    lines = []
    for domain in dict.fromkeys(domain for domain, _, _ in rows):
        cells = [f"{rows[domain, 'none', 'stock']['perplexity']:.1f}"]
        for epsilon in (*epsilons, *control, "none"):
            pair = [rows.get((domain, epsilon, method)) for method in ("organ", "lora")]
            cells.append(", ".join(f"{one['perplexity']:.1f}" for one in pair if one))
        lines.append((domain, *cells))
    names = [f"ε = {one:g}: organ, LoRA" for one in epsilons]
    names += [f"{one}: organ, LoRA" for one in control]
    return tables.table(("domain", "untrained", *names, "no privacy: organ, LoRA"), lines)


def markdown(found: Mapping[str, Any]) -> str:
    """All of it for people."""
    said = "".join(f"- {line}.\n" for line in found["said"])
    return "\n".join([_table(found["cost"]), _table(found["utility"]), said])


def _table(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    return tables.table(list(rows[0]), [list(map(tables.word, row.values())) for row in rows])


def chart(found: Mapping[str, Any]) -> Chart:
    """Perplexity over epsilon, a panel a domain, and what a token costs by way to clip.

    Args:
        found: As ``summary`` returns it.
    """
    table = found["utility"]
    panels = [_curves(domain, table) for domain in dict.fromkeys(row["domain"] for row in table)]
    if found["cost"]:
        panels.append(_costs(found["cost"]))
    counts = over_seeds(row["seeds"] for row in table if row["method"] != "stock")
    computed = {f"{DRAWN[r['method']][0]} in {r['frozen part in']}": None for r in found["cost"]}
    return Chart(
        title="What differential privacy costs an organ and LoRA",
        note=f"{counts}. Costs: one run each; frozen parts computed: {', '.join(computed)}.",
        rows=(tuple(panels),),
    )


def _curves(domain: str, table: Sequence[Row]) -> Panel:
    rows = [row for row in table if row["domain"] == domain]
    found = {row["epsilon"] for row in rows}
    budgets = sorted(one for one in found if not isinstance(one, str))
    words = [one for one in (NOISELESS, "none") if one in found]
    places = {one: place for place, one in enumerate([*budgets, *words])}
    series = []
    for method, (name, hue, style) in DRAWN.items():
        own = sorted(
            (row for row in rows if row["method"] == method), key=lambda row: places[row["epsilon"]]
        )
        points = tuple(
            valued(
                places[row["epsilon"]],
                row["perplexity"],
                row["perplexity interval"],
                f"seeds: {row['seeds']}",
            )
            for row in own
        )
        look: Look = "level" if method == "stock" else "line"
        if points:
            series.append(Series(name=name, points=points, look=look, hue=hue, style=style))
    return Panel(
        title=domain,
        x=Axis(label="epsilon (none: no privacy)", places=tuple(_epsilon(one) for one in places)),
        y=Axis(label="perplexity on test documents"),
        series=tuple(series),
    )


def _costs(rows: Sequence[Row]) -> Panel:
    """One bar a way to clip, with peak memory beside it."""
    series = [
        Series(
            name=DRAWN[method][0],
            points=tuple(
                Point(
                    place, round(1000 / row["tokens a cpu second"], 3),
                    word=f"{row['peak MB']:,} MB",
                )
                for place, row in enumerate(rows)
                if row["method"] == method
            ),
            look="bars",
            hue=DRAWN[method][1],
        )
        for method in dict.fromkeys(row["method"] for row in rows)
    ]  # fmt: skip
    places = tuple(f"{DRAWN[r['method']][0]}, {r['clipping']}, {r['frozen part in']}" for r in rows)
    return Panel(
        title="cost by way to clip, peak memory",
        x=Axis(label="", places=places),
        y=Axis(label="CPU seconds a thousand tokens"),
        series=tuple(series),
    )


def _epsilon(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"
