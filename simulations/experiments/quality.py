"""The comparison as a whole: which cases, and what they say together, as table, plot and JSON."""

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from not_core import atomic
from not_core.commands.program import progress
from not_core.errors import ExchangeError
from not_core.learning.evaluation import DocumentLoss, Reading, compare
from simulations import charts, tables
from simulations.experiments import frontier
from simulations.experiments.compare import MEASURED, OWN, Case, run
from simulations.experiments.contestants import CONTESTANTS
from simulations.machine import computes_in_bfloat16, processor

DOMAINS = ("abstracts", "cases", "weaknesses", "finance")
LONG_DOMAINS = ("abstracts", "cases")
TOKENS, LONG_TOKENS, QUICK_TOKENS = 32_000, 100_000, 4_096
SEEDS = 3
BASELINE = "lora"
CORE = ("stock", "lora", "organ")
TIMED = ("lora", "lora-bf16")
"""Contestants whose time ours is given, too."""
RIVALS = (*TIMED, "lora-scaled")
"""Contestants beside which ours is judged."""
RANKS, RATES, SCALES = (16, 8, 32), (2e-3, 1e-3, 4e-3), (1.0, 0.9, 0.8)
"""What is tried, the values of the default recipe first but for the scale."""
SEARCH_DOMAIN, SEARCH_TOKENS = "abstracts", 16_384
NOTE = """±: one standard error over questions. All intervals are 95%; those of `x LoRA` over seeds,
by Student's t, and over test documents, by a paired bootstrap: neither holds both kinds of chance.
Seconds and memory are means of the seeds that were timed on the machine that is named, and LoRA
with them. artefact MB: as each is written, organs in float16, PEFT's factors in float32.
"""
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}
"""97.5% quantiles of Student's t by degrees of freedom."""


def quality(
    model: str,
    out: Path,
    say: Callable[[str], None],
    *,
    quick: bool = False,
    kept_only: bool = False,
) -> list[dict[str, Any]]:
    """Measure all cases that are not measured yet, and write what they say together.

    Args:
        model: Folder of the base model.
        out: Folder of results; ``cells`` in it holds one file a measurement.
        say: Told of progress.
        quick: One domain, one seed, few tokens, no questions.
        kept_only: Measure nothing; say what is there.

    Returns:
        Rows of the table.
    """
    rows: list[dict[str, Any]] = []
    table: list[dict[str, Any]] = []
    rounds = list(_rounds(quick=quick, kept_only=kept_only))
    with progress("measuring", sum(map(len, rounds)), "cells") as bar:
        measure = partial(
            run,
            model=model,
            out=out / "cells",
            say=say,
            since=MEASURED,
            kept_only=kept_only,
            advance=bar,
        )
        for round_ in rounds:
            rows += round_.measure(measure, say)
            table = summary(rows)
            atomic.write(out / "quality.json", json.dumps(table, indent=1).encode())
            page = "\n".join([markdown(table), NOTE, targets(table)])
            atomic.write(out / "quality.md", page.encode())
    charts.write(frontier.chart(table), out / "quality")
    return table


Row = Mapping[str, Any]
Pair = tuple[Row, Row]
"""Measurements of two methods with the same seed."""
Measure = Callable[..., Iterator[dict[str, Any]]]
"""``compare.run`` for one model and folder."""


@dataclass(frozen=True, slots=True)
class _Round:
    """Some contestants on equal tokens, and ours in the time that each LoRA took."""

    domain: str
    names: tuple[str, ...]
    tokens: int
    seed: int
    choices: bool

    def __len__(self) -> int:
        """How many measurements it takes."""
        return len(self.names) + sum(name in TIMED for name in self.names)

    def measure(self, measure: Measure, say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
        for name in self.names:
            for row in measure([self._case(name)]):
                yield self._tagged(row, name)
                if name in TIMED:
                    title = f"organ in the time of {name}"
                    timed = [self._timed(title, row["cpu_seconds"])]
                    # Another machine's seconds are not this one's, nor those of which others had
                    # a part.
                    own = row["cpu_seconds"] >= OWN * row["seconds"]
                    here = {} if own and row["machine"] == processor() else {"kept_only": True}
                    others = list(measure(timed, **here))
                    yield from (self._tagged(other, title) for other in others)
                    if here and not others:
                        say(
                            f"{name} of {self.domain}, seed {self.seed}, was timed on another kind "
                            "of machine, or on a busy one: ours in its time is not measured"
                        )

    def _case(self, name: str) -> Case:
        stock = name == "stock"  # the model as it is has no seed and no budget
        return Case(
            domain=self.domain,
            name=name.removesuffix("-unscaled"),  # as it is kept: there was no scale at first
            contestant=CONTESTANTS[name],
            budget=("tokens", 1 if stock else self.tokens),
            seed=0 if stock else self.seed,
            choices=self.choices,
        )

    def _timed(self, title: str, seconds: float) -> Case:
        return Case(
            domain=self.domain,
            name=title.replace(" ", "-"),
            contestant=CONTESTANTS["organ"],
            budget=("seconds", seconds),
            seed=self.seed,
        )

    def _tagged(self, row: dict[str, Any], name: str) -> dict[str, Any]:
        return {
            **row,
            "domain": self.domain,
            "name": name,
            "budget": self.tokens,
            "seed": self.seed,
        }


def _rounds(*, quick: bool, kept_only: bool = False) -> Iterator[_Round]:
    """Who is measured when: the question first, its controls after, so that any stop is balanced.

    Questions cost as much as training and differ little between seeds: the first seed answers them.
    """
    if quick:
        yield _Round(DOMAINS[0], CORE, QUICK_TOKENS, 0, choices=False)
        return
    for seed in range(SEEDS):
        # The stock model is measured once: it has no seed.
        for names in (CORE[1:] if seed else CORE, controls(kept_only=kept_only)):
            for domain in DOMAINS:
                yield _Round(domain, names, TOKENS, seed, choices=seed == 0)
        for domain in LONG_DOMAINS:
            also = controls(kept_only=True) if kept_only else ()  # of earlier recipes
            yield _Round(domain, CORE[1:] + also, LONG_TOKENS, seed, choices=False)


def controls(*, kept_only: bool = False) -> tuple[str, ...]:
    """The other contestants; those in bfloat16 are measured where the processor multiplies it."""
    native = kept_only or computes_in_bfloat16()
    return tuple(
        name for name in CONTESTANTS if name not in CORE and (native or "bf16" not in name)
    )


def search(model: str, out: Path, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Choose rank, learning rate and scale: as many trials for LoRA as for ours.

    By validation documents, and by general passages that no table is of. Where the processor
    multiplies bfloat16, LoRA is searched in it: that costs it nothing in perplexity and a third of
    its time less.
    """
    rows = []
    lora = "lora-bf16" if "lora-bf16" in controls() else "lora"
    trials = [(rank, rate, 1.0) for rank, rate in itertools.product(RANKS, RATES)]
    trials += [(RANKS[0], RATES[0], scale) for scale in SCALES[1:]]
    for (rank, rate, scale), name in itertools.product(trials, ("organ", lora)):
        contestant = replace(CONTESTANTS[name], rank=rank, learning_rate=rate, scale=scale)
        case = Case(
            domain=SEARCH_DOMAIN,
            name=name,
            contestant=contestant,
            budget=("tokens", SEARCH_TOKENS),
            seed=0,
            part="validation",
        )
        for row in run([case], model, out / "cells", say, since=MEASURED):
            rows.append(
                {
                    "method": name,
                    "rank": rank,
                    "learning rate": rate,
                    "scale": scale,
                    "perplexity": row["domain_perplexity"],
                    "general": row["general_perplexity"],
                    "cpu seconds": row["cpu_seconds"],
                }
            )
        atomic.write(out / "search.json", json.dumps(rows, indent=1).encode())
    return rows


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
    """The kind of machine, and whether by another trainer: only what agrees in both compares."""
    earlier = row.get("measured", 1) < MEASURED
    return f"{row['machine']}, by an earlier trainer" if earlier else str(row["machine"])


def _machines(rows: Sequence[Row]) -> list[str]:
    """Kinds of machines, that of most rows first; of equals, that of the last."""
    counts = Counter(map(_where, reversed(rows)))
    return [machine for machine, _ in counts.most_common()]


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


def by_documents(pairs: Sequence[Pair], text: str = "domain") -> list[float]:
    """95% interval of a ratio over documents, by a paired bootstrap of losses, means over seeds.

    Args:
        pairs: Measurements, each with another's of the same seed.
        text: Which losses: ``domain`` or ``general``.
    """
    ours, theirs = (_means([pair[side][f"{text}_losses"] for pair in pairs]) for side in (0, 1))
    change = compare(theirs, ours, seed=0)
    return [round(1 + change.low, 4), round(1 + change.high, 4)]


def _means(seeds: Sequence[Sequence[tuple[float, int]]]) -> Reading:
    """Losses of each document, means over seeds."""
    return Reading(
        tuple(
            DocumentLoss(fmean(nats for nats, _ in losses), losses[0][1])
            for losses in zip(*seeds, strict=True)
        )
    )


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


def interval(logs: Sequence[float]) -> list[float] | None:
    """95% interval over seeds of exp(mean), by Student's t; None for one seed."""
    if len(logs) < 2:
        return None
    half = STUDENT[len(logs) - 1] * stdev(logs) / math.sqrt(len(logs))
    return [round(math.exp(fmean(logs) + side * half), 4) for side in (-1, 1)]


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


def markdown(table: Sequence[Row], names: Sequence[str] = COLUMNS) -> str:
    """The table for people; what loses to LoRA stands beside what wins."""
    rows = sorted(table, key=lambda row: (row["tokens"], row["domain"]))
    return tables.table(names, [[_cell(row, name) for name in names] for row in rows])


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
