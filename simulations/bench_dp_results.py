"""What the measurements under privacy say together: two tables, sentences and a picture."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from not_core import atomic
from simulations import tables
from simulations.quality import interval

Row = Mapping[str, Any]
COLOURS = {"organ": "#0072b2", "lora": "#d55e00"}


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
            "clipping": row["clipping"] or "none",
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
                and row["epsilon"] != "none"
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


def markdown(found: Mapping[str, Any]) -> str:
    """All of it for people."""
    said = "".join(f"- {line}.\n" for line in found["said"])
    return "\n".join([_table(found["cost"]), _table(found["utility"]), said])


def _table(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    return tables.table(list(rows[0]), [list(map(tables.word, row.values())) for row in rows])


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Perplexity over epsilon, a panel a domain, and what a token costs by way to clip.

    Args:
        found: As ``summary`` returns it.
        path: The PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    table = found["utility"]
    domains = list(dict.fromkeys(row["domain"] for row in table))
    figure = Figure(
        figsize=(4.5 * (len(domains) + 1), 4.5), dpi=150, facecolor="white", layout="constrained"
    )
    FigureCanvasAgg(figure)
    *panels, last = figure.subplots(1, len(domains) + 1, squeeze=False)[0]
    for axes, domain in zip(panels, domains, strict=True):
        rows = [row for row in table if row["domain"] == domain]
        budgets = {row["epsilon"] for row in rows if row["epsilon"] != "none"}
        places = {one: place for place, one in enumerate([*sorted(budgets), "none"])}
        for row in rows:
            if row["method"] == "stock":
                axes.axhline(row["perplexity"], color="#8a8f98", linestyle="--", label="untrained")
        for method, colour in COLOURS.items():
            own = {places[row["epsilon"]]: row for row in rows if row["method"] == method}
            for place, row in own.items():
                if row["perplexity interval"]:
                    axes.vlines(place, *row["perplexity interval"], color=colour)
            across = sorted(own)
            heights = [own[place]["perplexity"] for place in across]
            axes.plot(across, heights, "o-", color=colour, label=method)
        axes.set_xticks(list(places.values()), [f"{one}" for one in places])
        axes.set_title(domain)
        axes.set_xlabel("epsilon")
        axes.set_ylabel("perplexity on test documents")
        axes.legend(frameon=False)
    for place, row in enumerate(found["cost"]):
        bar = last.bar(place, 1000 / row["tokens a cpu second"], color=COLOURS[row["method"]])
        last.bar_label(bar, [f"{row['peak MB']:,} MB"], rotation=90, padding=3)
    names = [f"{row['method']}, {row['clipping']}" for row in found["cost"]]
    last.set_xticks(range(len(names)), names, rotation=60, ha="right")
    last.set_ylabel("CPU seconds a thousand tokens")
    last.set_title("way to clip, and peak memory")
    last.margins(y=0.3)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    with atomic.file(path) as work, work.open("wb") as out:
        figure.savefig(out, format="png")
