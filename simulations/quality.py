"""The comparison as a whole: which cases, and what they say together, as table, plot and JSON."""

import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from not_core import atomic
from not_core.learning.evaluation import compare
from simulations.compare import Case, reading, run
from simulations.contestants import CONTESTANTS

DOMAINS = ("abstracts", "cases", "weaknesses", "finance")
LONG_DOMAINS = ("abstracts", "cases")
TOKENS, LONG_TOKENS, QUICK_TOKENS = 32_000, 100_000, 4_096
SEEDS = 3
BASELINE = "lora"
RANKS, RATES = (16, 8, 32), (2e-3, 1e-3, 4e-3)
SEARCH_DOMAIN, SEARCH_TOKENS = "abstracts", 16_384
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}
"""97.5% quantiles of Student's t by degrees of freedom."""


def quality(
    model: str, out: Path, say: Callable[[str], None], *, quick: bool = False
) -> list[dict[str, Any]]:
    """Measure all cases that are not measured yet, and write what they say together.

    Args:
        model: Folder of the base model.
        out: Folder of results; ``cells`` in it holds one file a measurement.
        say: Told of progress.
        quick: One domain, one seed, few tokens.

    Returns:
        Rows of the table.
    """
    rows: list[dict[str, Any]] = []
    for row in _measured(model, out / "cells", say, quick):
        rows.append(row)
        table = summary(rows)
        atomic.write(out / "quality.json", json.dumps(table, indent=1).encode())
        atomic.write(out / "quality.md", markdown(table).encode())
    return summary(rows)


def _measured(
    model: str, cells: Path, say: Callable[[str], None], quick: bool
) -> Iterator[dict[str, Any]]:
    """Seed by seed, so that what is there after any time is balanced."""
    tokens = QUICK_TOKENS if quick else TOKENS
    names = ("stock", "lora", "lora-bf16", "organ") if quick else tuple(CONTESTANTS)
    for seed in range(1 if quick else SEEDS):
        for domain in DOMAINS[:1] if quick else DOMAINS:
            yield from _round(model, cells, say, domain, names, tokens, seed)
    if not quick:
        names = ("stock", "lora", "lora-bf16", "organ")
        for seed in range(SEEDS):
            for domain in LONG_DOMAINS:
                yield from _round(model, cells, say, domain, names, LONG_TOKENS, seed)


def _round(
    model: str,
    cells: Path,
    say: Callable[[str], None],
    domain: str,
    names: Sequence[str],
    tokens: int,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """All contestants on equal tokens, and ours in the time that each LoRA took."""

    def case(name: str, contestant: str, budget: tuple[str, float], seed: int = seed) -> Case:
        return Case(
            domain=domain,
            name=name,
            contestant=CONTESTANTS[contestant],
            budget=budget,
            seed=seed,
        )

    for name in names:
        # The model as it is has no seed and no budget.
        wanted = (
            case(name, name, ("tokens", 1), 0)
            if name == "stock"
            else case(name, name, ("tokens", tokens))
        )
        for row in run([wanted], model, cells, say):
            yield {**row, "domain": domain, "name": name, "budget": tokens, "seed": seed}
            if name.startswith("lora") and name != "lora-attention":
                timed = f"organ in the time of {name}"
                again = case(timed.replace(" ", "-"), "organ", ("seconds", row["cpu_seconds"]))
                for other in run([again], model, cells, say):
                    yield {**other, "domain": domain, "name": timed, "budget": tokens, "seed": seed}


def search(model: str, out: Path, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Choose rank and learning rate by validation documents: as many trials for LoRA as for ours.

    LoRA is searched in bfloat16, which costs it nothing in perplexity and halves its time.
    """
    rows = []
    for rank, rate in itertools.product(RANKS, RATES):
        for name in ("organ", "lora-bf16"):
            contestant = replace(CONTESTANTS[name], rank=rank, learning_rate=rate)
            case = Case(
                domain=SEARCH_DOMAIN,
                name=name,
                contestant=contestant,
                budget=("tokens", SEARCH_TOKENS),
                seed=0,
                part="validation",
            )
            for row in run([case], model, out / "cells", say):
                rows.append(
                    {
                        "method": name,
                        "rank": rank,
                        "learning rate": rate,
                        "perplexity": row["domain_perplexity"],
                        "general": row["general_perplexity"],
                        "cpu seconds": row["cpu_seconds"],
                    }
                )
        atomic.write(out / "search.json", json.dumps(rows, indent=1).encode())
    return rows


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a domain, budget and contestant: means over seeds, with 95% intervals.

    Ratios are to LoRA's of the same domain, budget and seed, on the same machine; a ratio over
    machines of two kinds is left out for time.
    """
    found: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["domain"], row["budget"], row["name"]), []).append(row)
    table = []
    for (domain, budget, name), group in found.items():
        baseline = {row["seed"]: row for row in found.get((domain, budget, BASELINE), [])}
        pairs = [(row, baseline[row["seed"]]) for row in group if row["seed"] in baseline]
        same = [(a, b) for a, b in pairs if a["machine"] == b["machine"] and a["tokens"]]
        entry: dict[str, Any] = {
            "domain": domain,
            "tokens": budget,
            "method": name,
            "seeds": len(group),
            "trained tokens": round(fmean(row["tokens"] for row in group)),
            "perplexity": round(math.exp(fmean(_log(row, "domain") for row in group)), 3),
            "general": round(math.exp(fmean(_log(row, "general") for row in group)), 3),
            "cpu seconds": round(fmean(row["cpu_seconds"] for row in group), 1),
            "peak MB": round(fmean(row["peak_mb"] for row in group)),
            "trainable": group[0]["trainable"],
            "artefact MB": round(group[0]["artefact_bytes"] / 1e6, 1),
        }
        if pairs and name != BASELINE:
            logs = [_log(a, "domain") - _log(b, "domain") for a, b in pairs]
            entry["x LoRA"] = round(math.exp(fmean(logs)), 4)
            entry["x LoRA interval"] = interval(logs)
            over = [
                compare(reading(b, "domain"), reading(a, "domain"), seed=0) for a, b in pairs[:1]
            ]
            entry["by documents, seed 0"] = [round(1 + over[0].low, 4), round(1 + over[0].high, 4)]
        if same:
            for key, field in (("x cpu", "cpu_seconds"), ("x peak", "peak_mb")):
                entry[key] = round(fmean(a[field] / b[field] for a, b in same), 3)
        table.append(entry)
    return table


def _log(row: dict[str, Any], name: str) -> float:
    return math.log(row[f"{name}_perplexity"])


def interval(logs: Sequence[float]) -> list[float] | None:
    """95% interval over seeds of exp(mean), by Student's t; None for one seed."""
    if len(logs) < 2:
        return None
    half = STUDENT[len(logs) - 1] * stdev(logs) / math.sqrt(len(logs))
    return [round(math.exp(fmean(logs) + side * half), 4) for side in (-1, 1)]


def markdown(table: Sequence[dict[str, Any]]) -> str:
    """The table for people; what loses to LoRA stands beside what wins."""
    names = (
        "domain",
        "tokens",
        "method",
        "seeds",
        "perplexity",
        "x LoRA",
        "x LoRA interval",
        "general",
        "cpu seconds",
        "x cpu",
        "peak MB",
        "x peak",
        "trainable",
        "artefact MB",
    )
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in sorted(table, key=lambda row: (row["tokens"], row["domain"])):
        cells = [row.get(name) for name in names]
        lines.append("| " + " | ".join("" if one is None else _word(one) for one in cells) + " |")
    return "\n".join(lines) + "\n"


def _word(value: Any) -> str:
    if isinstance(value, list):
        return f"{value[0]:.3f} to {value[1]:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
