"""The comparison as a whole: which cases are measured, in which order, and what is searched."""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from not_core import atomic
from not_core.commands.program import progress
from simulations.experiments import compare, frontier
from simulations.experiments.cells import MEASURED, run, stem, tell
from simulations.experiments.compare import OWN, Case
from simulations.experiments.contestants import CONTESTANTS
from simulations.experiments.quality_results import TIMED, page, summary
from simulations.machine import computes_in_bfloat16, processor

DOMAINS = ("abstracts", "cases", "weaknesses", "finance")
LONG_DOMAINS = ("abstracts", "cases")
TOKENS, LONG_TOKENS, QUICK_TOKENS = 32_000, 100_000, 4_096
SEEDS = 3
CORE = ("stock", "lora", "organ")
RANKS, RATES, SCALES = (16, 8, 32), (2e-3, 1e-3, 4e-3), (1.0, 0.9, 0.8)
"""What is tried, the values of the default recipe first but for the scale."""
SEARCH_DOMAIN, SEARCH_TOKENS = "abstracts", 16_384


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
    rounds = list(_rounds(quick=quick, kept_only=kept_only))
    with progress("measuring", sum(map(len, rounds)), "cells") as bar:
        measure = partial(_run, model=model, out=out, say=say, kept_only=kept_only, advance=bar)
        rows = (row for round_ in rounds for row in round_.measure(measure, say))
        return tell(out, stem("quality", quick=quick), rows, summary, page, frontier.chart)


def _run(cases: Sequence[Case], *, out: Path, **how: Any) -> Iterator[dict[str, Any]]:
    how |= {"module": compare.__name__, "needs": compare.NEEDS, "since": MEASURED}
    return run(cases, out=out / "cells", **how)


Measure = Callable[..., Iterator[dict[str, Any]]]
"""``cells.run`` for one model and folder."""


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
        for row in _run([case], model=model, out=out, say=say):
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
