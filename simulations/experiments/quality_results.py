"""What the comparison's measurements say together: a table, and which aims are met."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from not_core.errors import ExchangeError
from simulations import tables
from simulations.experiments.cells import MEASURED
from simulations.experiments.frontier import METHODS
from simulations.experiments.intervals import Pair, Row, by_documents, interval

BASELINE = "lora"
TIMED = ("lora", "lora-bf16")
"""Contestants whose time ours is given, too."""
RIVALS = (*TIMED, "lora-scaled")
"""Contestants beside which ours is judged."""
NAMES = {"stock": "untrained"} | {method: name for method, (name, *_) in METHODS.items()}
NOTE = """±: one standard error over questions. All intervals are 95%; those of `x LoRA` over seeds,
by Student's t, and over test documents, by a paired bootstrap: neither holds both kinds of chance.
Seconds and memory are means of the seeds that were timed on the machine that is named, and LoRA
with them. artefact MB: as each is written, organs in float16, PEFT's factors in float32.
"""


def summary(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One row a domain, budget and contestant: means over seeds, with 95% intervals.

    Ratios are to LoRA's of the same domain, budget and seed; under ``beside``, to those of each of
    ``RIVALS``. Seconds and memory are those of one kind of machine, that on which most seeds of
    both were measured, or of equals the last; ``timed on`` names it.

    Raises:
        ExchangeError: Measurements of a domain are of different documents.
    """
    _of_the_same_documents(rows)
    found: dict[tuple[str, int, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["domain"], row["budget"], row["name"]), []).append(row)
    table = []
    for (domain, budget, name), group in found.items():
        rivals = {one: found.get((domain, budget, one), []) for one in RIVALS if one != name}
        beside = {other: _beside(group, its) for other, its in rivals.items() if its}
        costs = beside.get(BASELINE, {}).get("by machine")
        machine = next(iter(costs)) if costs else _machines(group)[0]
        here = (costs or {}).get(machine, {})
        timed = [
            row
            for row in group
            if _where(row) == machine and row["seed"] in here.get("seeds", (row["seed"],))
        ]
        entry: dict[str, Any] = {
            "domain": domain,
            "tokens": budget,
            "method": name,
            "seeds": len(group),
            "trained tokens": round(fmean(row["tokens"] for row in group)),
            "perplexity": round(math.exp(fmean(_log(row, "domain") for row in group)), 3),
            "perplexity interval": interval([_log(row, "domain") for row in group]),
            "general": round(math.exp(fmean(_log(row, "general") for row in group)), 3),
            "machine": machine,
            "timed on": f"{machine}, {len(timed)} of {len(group)}",
            "cpu seconds": round(fmean(row["cpu_seconds"] for row in timed), 1),
            "peak MB": round(fmean(row["peak_mb"] for row in timed)),
            "trainable": group[0]["trainable"],
            "artefact MB": round(group[0]["artefact_bytes"] / 1e6, 1),
            "beside": beside,
        }
        asked = [row for row in group if "choices_accuracy" in row]
        if asked:
            # All seeds answer the same questions, so more of them do not make the error smaller.
            entry["accuracy"] = round(fmean(row["choices_accuracy"] for row in asked), 4)
            entry["accuracy error"] = round(fmean(row["choices_stderr"] for row in asked), 4)
            entry["questions"] = asked[0]["choices_items"]
        if name == BASELINE:
            entry |= {"x cpu": 1.0, "x peak": 1.0}
        elif pairs := _pairs(group, rivals[BASELINE]):
            entry["x LoRA"] = beside[BASELINE]["perplexity"]
            entry["x LoRA interval"] = beside[BASELINE]["perplexity interval"]
            entry["x LoRA by documents"] = beside[BASELINE]["perplexity by documents"]
            if against := [pair for pair in pairs if all("choices_right" in one for one in pair)]:
                entry["accuracy less LoRA's"] = _difference(against)
            entry |= {key: one for key, one in here.items() if key in ("x cpu", "x peak")}
        table.append(entry)
    return table


def _of_the_same_documents(rows: Sequence[Row]) -> None:
    """Check that all measurements of a domain are of the same documents.

    Raises:
        ExchangeError: Some are of others: kept by a program that dropped others, or none.
    """
    read: dict[tuple[str, str], list[int]] = {}
    for row, text in itertools.product(rows, ("domain", "general")):
        tokens = [count for _, count in row[f"{text}_losses"]]
        if read.setdefault((row["domain"], text), tokens) != tokens:
            raise ExchangeError(
                f"measurements of {row['domain']} are of different {text} documents, such as that "
                f"of {row['name']}, seed {row['seed']}; choose another --out"
            )


def _pairs(group: Sequence[Row], rivals: Sequence[Row]) -> list[Pair]:
    """Measurements of a method, each with another's of the same seed."""
    theirs = {row["seed"]: row for row in rivals}
    return [(row, theirs[row["seed"]]) for row in group if row["seed"] in theirs]


def _where(row: Row) -> str:
    """The kind of machine, and which trainer if not today's: only what agrees in both compares."""
    by = row.get("measured", 0)
    return f"{row['machine']}, by trainer {by}" if by < MEASURED else str(row["machine"])


def _machines(rows: Sequence[Row]) -> list[str]:
    """Kinds of machines, today's trainer's first, then of most rows; of equals, of the last."""
    counts = Counter(map(_where, reversed(rows)))
    today = {_where(row) for row in rows if row.get("measured", 0) >= MEASURED}
    return sorted((one for one, _ in counts.most_common()), key=lambda one: one not in today)


def _beside(group: Sequence[Row], rivals: Sequence[Row]) -> dict[str, Any]:
    """A method beside another, seed by seed: perplexity, and costs by kind of machine."""
    pairs = _pairs(group, rivals)
    if not pairs:
        return {}
    same = [(a, b) for a, b in pairs if _where(a) == _where(b) and a["tokens"]]
    machines = {
        machine: [pair for pair in same if _where(pair[0]) == machine]
        for machine in _machines([a for a, _ in same])
    }
    return {
        **_ratios(pairs),
        "by machine": {
            machine: {
                **_ratios(there),
                "seeds": [a["seed"] for a, _ in there],
                **_costs(there),
            }
            for machine, there in machines.items()
        },
    }


def _ratios(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Of both kinds of perplexity, each with its 95% intervals over seeds and over documents.

    Neither interval holds both kinds of chance.
    """
    found: dict[str, Any] = {}
    for name, text in (("perplexity", "domain"), ("general", "general")):
        logs = [_log(a, text) - _log(b, text) for a, b in pairs]
        found[name] = round(math.exp(fmean(logs)), 4)
        found[f"{name} interval"] = interval(logs)
        found[f"{name} by documents"] = by_documents(pairs, text)
    return found


def _costs(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Of processor time and peak memory, each with its interval over seeds."""
    found: dict[str, Any] = {}
    for name, cost in (("x cpu", "cpu_seconds"), ("x peak", "peak_mb")):
        logs = [math.log(a[cost] / b[cost]) for a, b in pairs]
        found[name] = round(math.exp(fmean(logs)), 4)
        found[f"{name} interval"] = interval(logs)
    return found


def _difference(pairs: Sequence[Pair]) -> list[float]:
    """Gain in accuracy over the other of each pair, and its standard error over questions.

    Both were asked the same questions, so the error is of the differences by question, each the
    mean over seeds.
    """
    rights = [
        [x - y for x, y in zip(a["choices_right"], b["choices_right"], strict=True)]
        for a, b in pairs
    ]
    by_question = [fmean(seeds) for seeds in zip(*rights, strict=True)]
    error = stdev(by_question) / math.sqrt(len(by_question)) if len(by_question) > 1 else math.nan
    return [round(fmean(by_question), 4), round(error, 4)]


def _log(row: Row, name: str) -> float:
    return math.log(row[f"{name}_perplexity"])


REACHES = (" interval", " by documents")
"""What intervals are called after: over seeds, and over documents."""
COLUMNS = (
    "domain",
    "tokens",
    "method",
    "seeds",
    "perplexity",
    "x LoRA",
    "x LoRA interval",
    "x LoRA by documents",
    "general",
    "accuracy",
    "accuracy less LoRA's",
    "timed on",
    "cpu seconds",
    "x cpu",
    "peak MB",
    "x peak",
    "trainable",
    "artefact MB",
)
TERMINAL = ("domain", "tokens", "method", "seeds", "perplexity", "x LoRA", "x cpu", "x peak")


def markdown(table: Sequence[Row]) -> str:
    """The table for people; what loses to LoRA stands beside what wins."""
    rows = sorted(table, key=lambda row: (row["tokens"], row["domain"]))
    return tables.table(COLUMNS, [[_cell(row, name) for name in COLUMNS] for row in rows])


def page(table: Sequence[Row]) -> str:
    """All of it for people."""
    return "\n".join([markdown(table), NOTE, targets(table)])


def shown(row: Row) -> dict[str, Any]:
    """What of a row fits a terminal."""
    return {name: row.get(name, "") for name in TERMINAL}


def brief(table: Sequence[Row]) -> str:
    """The table turned, for the README: a row a method, a column a domain, a table a budget."""
    return "\n".join(_turned(table, budget) for budget in sorted({row["tokens"] for row in table}))


def _turned(table: Sequence[Row], budget: int) -> str:
    rows = {(row["method"], row["domain"]): row for row in table if row["tokens"] == budget}
    domains = sorted(domain for method, domain in rows if method == BASELINE)
    theirs = [f"{domain}, LoRA {rows[BASELINE, domain]['perplexity']:.2f}" for domain in domains]
    lines = []
    for method in NAMES:
        if own := [rows[method, domain] for domain in domains if (method, domain) in rows]:
            seeds = _reach([row["seeds"] for row in own], "")
            ratios = [_ratio(rows.get((method, domain), {})) for domain in domains]
            general = _reach(
                [1.0 if method == BASELINE else row["beside"][BASELINE]["general"] for row in own]
            )
            costs = [_reach([row[key] for row in own if key in row]) for key in ("x cpu", "x peak")]
            lines.append(
                [NAMES[method], seeds, *ratios, general, *costs, f"{own[0]['trainable'] / 1e6:.2f}"]
            )
    names = (
        "seeds",
        *theirs,
        "general text",
        "CPU seconds",
        "peak memory",
        "millions of numbers to send",
    )
    return tables.table((f"{budget:,} tokens", *names), lines)


def _ratio(row: Row) -> str:
    """Perplexity over LoRA's."""
    if not row or row["method"] == BASELINE:
        return "1" if row else ""
    return tables.ratio(row["x LoRA"], *(row[f"x LoRA{end}"] for end in REACHES))


def _reach(values: Sequence[float], form: str = ".2f") -> str:
    """The least and the greatest of some values."""
    ends = dict.fromkeys(f"{one:{form}}" for one in (min(values), max(values))) if values else ()
    return " to ".join(ends)


def targets(table: Sequence[Row]) -> str:
    """What was aimed at beside what was found, for people; misses are named as such.

    The unscaled organ is judged, too: only it was timed on some machines.
    """
    lines: list[list[str]] = []
    for row, rival in itertools.product(table, RIVALS):
        found, method = row["beside"].get(rival), row["method"]
        if not found:
            continue
        aims: list[tuple[str, Row, str, float]] = []
        machines = found["by machine"] or {"no machine in common": {}}
        if method == f"organ in the time of {rival}":
            for machine, there in machines.items():
                where = _timed_on(machine, there)
                aims += [
                    (f"perplexity in its seconds, {where}", there, "perplexity", 1),
                    (f"general perplexity in its seconds, {where}", there, "general", 1),
                    (f"peak memory in its seconds, {where}", there, "x peak", 0.6),
                ]
        elif method in ("organ", "organ-unscaled"):
            aims = [
                ("perplexity on equal tokens", found, "perplexity", 1.03),
                ("general perplexity on equal tokens", found, "general", 1),
            ]
            for machine, there in machines.items():
                where = _timed_on(machine, there)
                aims += [
                    (f"CPU seconds on equal tokens, {where}", there, "x cpu", 0.5),
                    (f"peak memory, {where}", there, "x peak", 0.6),
                ]
        for aim, of, key, most in aims:
            value, seeds, documents = (of.get(key + end) for end in ("", *REACHES))
            line = [row["domain"], f"{row['tokens']:,}", method.split(" in ")[0], rival, aim]
            found_ = [f"at most {most:g}", *map(tables.word, (value, seeds, documents))]
            lines.append([*line, *found_, _met(value, seeds, documents, most)])
    over = ("95% over seeds", "95% over documents")
    names = ("domain", "tokens", "method", "beside", "measure", "aim", "found", *over, "met")
    return tables.table(names, lines)


def _timed_on(machine: str, there: Row) -> str:
    seeds = len(there.get("seeds", ()))
    return f"{machine}, {seeds} seed{'s' * (seeds > 1)}" if seeds else machine


def _met(
    value: float | None,
    seeds: Sequence[float] | None,
    documents: Sequence[float] | None,
    most: float,
) -> str:
    """The verdict on an aim; where the aim lies in an interval, chance may have made it."""
    if value is None:
        return "not comparable"
    verdict = "yes" if value <= most else "**no**"
    if any(reach and reach[0] <= most < reach[1] for reach in (seeds, documents)):
        verdict += ", not surely"
    return verdict if seeds else f"{verdict}, one seed"


def _cell(row: Row, name: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if name == "accuracy":
        return f"{value:.3f} ± {row['accuracy error']:.3f}"
    if name == "accuracy less LoRA's":
        return f"{value[0]:+.3f} ± {value[1]:.3f}"
    return tables.word(value)
