"""What privacy costs an organ, beside LoRA under the same privacy: time, memory and perplexity.

Measurements are kept as in ``cells``; those without privacy are the comparison's own, and read
from its folder beside this one's where it has made them.
"""

import itertools
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from not_core import atomic, canonical
from not_core.commands.program import progress
from not_core.learning.guard import Clipping, Guard, plan
from not_core.learning.recipe import Recipe
from not_core.learning.records import record_units
from not_core.privacy import randomness
from not_core.surgery.checkpoint import open_checkpoint
from simulations.experiments import compare
from simulations.experiments.bench_dp_results import NOISELESS, chart, markdown, summary
from simulations.experiments.cells import read, run, stem, tell
from simulations.experiments.compare import GENERAL, Case
from simulations.experiments.contestants import CONTESTANTS, recipe_of
from simulations.experiments.documents import parts
from simulations.experiments.kept import recipe_facts
from simulations.experiments.private_contestants import fit_privately
from simulations.experiments.quality import QUICK_TOKENS, SEEDS, TOKENS
from simulations.machine import Meter, peak_bytes
from simulations.material import domains


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How a method learns under privacy; see ``Guard`` and ``Recipe``."""

    learning_rate: float = 2e-3
    rank: int | None = 16
    block_tokens: int = 128
    units_per_step: int = 8
    clip: float = 1.0
    most_blocks_per_unit: int = 1
    clipping: Clipping = "loop"
    batch_tokens: int = 1024


SETTINGS = {
    "organ": Setting(rank=None, block_tokens=64, units_per_step=32),
    "lora": Setting(learning_rate=1e-2, block_tokens=64, units_per_step=32),
}
"""What was chosen for each method, by the validation documents of abstracts: see ``search``."""
SEARCH_TOKENS, SEARCH_EPSILON = 16_384, 8.0
SHAPES = ((8, 128), (32, 64))
"""Units a step and longest block: the same places a step, in few long units or many short ones."""
LEARNABLE = {"organ": (None, 16), "lora": (16, 4)}
RATES = (2e-3, 4e-3, 1e-2, 2e-2)
DOMAINS = ("abstracts", "cases")
EPSILONS = (8.0, 3.0, 1.0)
DELTA = 1e-5
CLIPPINGS: tuple[Clipping, ...] = ("loop", "samples")
"""Ghost norms are refused in bfloat16, in which the frozen part may compute."""
COST_TOKENS, COST_UNITS, COST_EPSILON = QUICK_TOKENS, 8, 8.0
"""A cost is measured on few tokens, so in small steps; epsilon decides nothing of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateCase:
    """One measurement under privacy.

    Attributes:
        domain: One of ``domains.BUILTIN``.
        method: ``organ`` or ``lora``.
        guard: What bounds what a record adds.
        learning_rate: Peak.
        rank: Of what learns; None for whole layers.
        block_tokens: Longest block.
        tokens: Planned.
        seed: Of first values; sampling and noise have none.
        read: Whether perplexities are measured, too.
        part: Documents to measure on: ``test``, or ``validation`` while choosing.
        noiseless: Whether the noise is left out, and with it all privacy: a control that tells
            what the rest of the course costs.
    """

    domain: str
    method: str
    guard: Guard
    learning_rate: float
    rank: int | None
    block_tokens: int
    tokens: int
    seed: int
    read: bool = True
    part: str = "test"
    noiseless: bool = False

    @property
    def recipe(self) -> Recipe:
        """All that it learns by, beside the guard."""
        contestant = replace(
            CONTESTANTS[self.method], learning_rate=self.learning_rate, rank=self.rank
        )
        recipe = recipe_of(contestant, {"tokens": self.tokens}, self.seed)
        return replace(recipe, head_sample=None, block_tokens=self.block_tokens, scale=1.0)

    @property
    def file(self) -> str:
        """Name of its result."""
        facts = asdict(self)
        if not self.noiseless:
            del facts["noiseless"]  # as it was named before there was such a control
        decides = json.loads(json.dumps([facts, recipe_facts(self.recipe)]))
        words = [
            self.domain,
            self.method,
            "noiseless" if self.noiseless else f"epsilon{self.guard.epsilon:g}",
            self.guard.clipping,
            f"tokens{self.tokens}",
            f"seed{self.seed}",
            canonical.digest(decides)[:8],
        ]
        return "-".join(words) + ".json"


@dataclass(frozen=True, slots=True)
class Cell:
    """A measurement, and which table it is for.

    Attributes:
        table: ``cost`` or ``utility``.
        case: What is measured.
    """

    table: str
    case: Case | PrivateCase

    @property
    def tags(self) -> dict[str, Any]:
        """What the tables know it by."""
        case = self.case
        guard = case.guard if isinstance(case, PrivateCase) else None
        return {
            "table": self.table,
            "domain": case.domain,
            "method": case.method if isinstance(case, PrivateCase) else case.name,
            "epsilon": NOISELESS if getattr(case, "noiseless", False) else guard and guard.epsilon,
            "clipping": guard and guard.clipping,
            "seed": case.seed,
        }


def private_case(
    domain: str,
    method: str,
    epsilon: float,
    tokens: int,
    seed: int,
    setting: Setting | None = None,
    **changes: Any,
) -> PrivateCase:
    """A measurement, by what was chosen for the method unless told otherwise.

    Args:
        domain: One of ``domains.BUILTIN``.
        method: ``organ`` or ``lora``.
        epsilon: Largest.
        tokens: Planned.
        seed: Of first values.
        setting: How it learns.
        changes: To the guard; and ``read``, ``part`` and ``noiseless``.
    """
    chosen = asdict(setting or SETTINGS[method])
    own = {name: chosen.pop(name) for name in ("learning_rate", "rank", "block_tokens")}
    own |= {name: changes.pop(name) for name in ("read", "part", "noiseless") if name in changes}
    guard = Guard(epsilon=epsilon, delta=DELTA, **chosen | changes)
    return PrivateCase(domain=domain, method=method, guard=guard, tokens=tokens, seed=seed, **own)


def plain_case(
    domain: str, name: str, tokens: int, seed: int, *, contestant: str | None = None
) -> Case:
    """A measurement without privacy, as the comparison makes it, and as privately unscaled.

    Args:
        domain: One of ``domains.BUILTIN``.
        name: What it is called in tables: ``stock``, ``organ`` or ``lora``.
        tokens: To learn from.
        seed: Of order and first values.
        contestant: What learns, where that is not what has the name.
    """
    stock = name == "stock"  # the model as it is has no seed and no budget
    return Case(
        domain=domain,
        name=name,
        contestant=CONTESTANTS[contestant or ("organ-unscaled" if name == "organ" else name)],
        budget=("tokens", 1 if stock else tokens),
        seed=0 if stock else seed,
        choices=tokens == TOKENS and seed == 0,
    )


def cells(*, quick: bool) -> Iterator[Cell]:
    """All measurements: costs first, then seed by seed, so that any stop is balanced.

    The quick ones take small steps, and what they cost is what they are measured for: one way to
    clip, no measurement twice.
    """
    tokens = QUICK_TOKENS if quick else TOKENS
    small: dict[str, Any] = {"units_per_step": COST_UNITS}
    for method in SETTINGS:
        # What learns is the same with privacy and without, or its cost would not be privacy's.
        whole = "organ-whole" if SETTINGS[method].rank is None else None
        plain = plain_case(DOMAINS[0], method, COST_TOKENS, 0, contestant=whole)
        yield Cell("cost", plain)
        for way in () if quick else CLIPPINGS:
            case = private_case(
                DOMAINS[0], method, COST_EPSILON, COST_TOKENS, 0, clipping=way, read=False, **small
            )
            yield Cell("cost", case)
    for seed in range(1 if quick else SEEDS):
        for domain in DOMAINS[:1] if quick else DOMAINS:
            yield Cell("utility", plain_case(domain, "stock", tokens, 0))
            epsilons = EPSILONS[:1] if quick else EPSILONS
            for epsilon in (None, *epsilons):
                for method in SETTINGS:
                    if epsilon is None:
                        yield Cell("utility", plain_case(domain, method, tokens, seed))
                    elif quick:
                        case = private_case(domain, method, epsilon, tokens, seed, **small)
                        yield from (Cell("cost", case), Cell("utility", case))
                    else:
                        case = private_case(domain, method, epsilon, tokens, seed)
                        yield Cell("utility", case)
            if not quick and not seed:
                for method in SETTINGS:
                    case = private_case(domain, method, EPSILONS[0], tokens, seed, noiseless=True)
                    yield Cell("utility", case)


def experiment(
    model: str,
    out: Path,
    say: Callable[[str], None],
    *,
    quick: bool = False,
    kept_only: bool = False,
) -> dict[str, Any]:
    """Measure what is not measured yet, and write what all says together.

    Args:
        model: Folder of the base model.
        out: Folder of tables, plot and ``cells``, which holds one file a measurement.
        say: Told of progress.
        quick: One domain, one seed, one epsilon, few tokens.
        kept_only: Measure nothing; say what is there.

    Returns:
        Rows of the tables ``cost`` and ``utility``, and sentences under ``said``.
    """
    wanted = list(dict.fromkeys(cells(quick=quick)))
    base = None if kept_only else open_checkpoint(model).weights_digest
    with progress("measuring", len(wanted), "cells") as bar:
        rows = (
            {**row, **cell.tags}
            for cell in wanted
            for row in run(
                [cell.case],
                model,
                _folder(cell.case.file, base, out),
                say,
                module=_module(cell.case),
                needs=compare.NEEDS,
                kept_only=kept_only,
                advance=bar,
            )
        )
        return tell(out, stem("bench-dp", quick=quick), rows, summary, markdown, chart)


def _module(case: Case | PrivateCase) -> str:
    return __name__ if isinstance(case, PrivateCase) else compare.__name__


def search(model: str, out: Path, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Try settings on validation documents: as many for LoRA as for the organ.

    Args:
        model: Folder of the base model.
        out: Folder of ``search.json`` and ``cells``.
        say: Told of progress.

    Returns:
        One row a trial.
    """
    rows = []
    grid = itertools.product(range(2), RATES, SHAPES, LEARNABLE)
    for which, rate, (units, block), method in grid:
        rank = LEARNABLE[method][which]
        setting = Setting(learning_rate=rate, rank=rank, block_tokens=block, units_per_step=units)
        case = private_case(
            DOMAINS[0], method, SEARCH_EPSILON, SEARCH_TOKENS, 0, setting, part="validation"
        )
        for row in run([case], model, out / "cells", say, module=__name__, needs=compare.NEEDS):
            rows.append(
                {
                    "method": method,
                    "rank": rank or "whole layers",
                    "learning rate": rate,
                    "units a step": units,
                    "block tokens": block,
                    "noise multiplier": row["mechanism"]["noise_multiplier"],
                    "steps": row["steps"],
                    "perplexity": row["domain_perplexity"],
                    "cpu seconds": row["cpu_seconds"],
                }
            )
    atomic.write(out / "search.json", json.dumps(rows, indent=1).encode())
    return rows


def _folder(file: str, base: str | None, out: Path) -> Path:
    """Where a measurement is, or will be: in the comparison's folder beside, if that has it.

    Nothing is written there.

    Args:
        file: Its name.
        base: Digest of the base that it must be of; None for any.
        out: Folder of these results.
    """
    beside = out.parent / "quality" / "cells"
    kept = beside / file
    if kept.is_file() and base in (None, json.loads(kept.read_bytes())["base"]):
        return beside
    return out / "cells"


def measure(case: PrivateCase, model: str) -> dict[str, Any]:
    """Fit and measure; in this process, which should do nothing else."""
    documents, host = parts(case.domain), open_checkpoint(model)
    _ = host.tokenizer, host.weights_digest  # read once on any site, whatever it does
    units = record_units(documents.train)
    imports, planning = peak_bytes(), Meter()
    planned = plan(case.guard, case.recipe, len(units))  # what it finds is kept for the fitting
    took_planning = planning.read()
    contestant = replace(CONTESTANTS[case.method], rank=case.rank)
    noise = {"noise_multiplier": 0.0} if case.noiseless else {}
    meter = Meter()
    with without_noise() if case.noiseless else nullcontext():
        done = fit_privately(contestant, host, units, case.guard, case.recipe)
    took = meter.read()
    row: dict[str, Any] = {
        "recipe": recipe_facts(case.recipe),
        "records": len(units),
        "mechanism": asdict(planned.mechanism) | noise,
        "epsilon_spent": None if case.noiseless else planned.epsilon,
        "tokens": done.read,
        "planned_tokens": done.fitted.tokens,
        "steps": done.steps,
        "units": done.units,
        **took,
        "planning_cpu_seconds": took_planning["cpu_seconds"],
        "noise_cpu_seconds": round(done.noise_seconds(), 3),
        "imports_mb": round(imports / 1e6),
        "trainable": done.fitted.trainable,
        "artefact_bytes": done.fitted.artefact_bytes,
    }
    if case.read:
        body = done.fitted.model()
        general = [record.text for record in domains.general()[:GENERAL]]
        texts = {"domain": getattr(documents, case.part), "general": general}
        row |= read(body, host.tokenizer, texts)
    return row


@contextmanager
def without_noise() -> Iterator[None]:
    """Private training without its noise, for a control; nothing else of it changes."""
    adding = randomness.add_noise
    randomness.add_noise = lambda *given: None
    try:
        yield
    finally:
        randomness.add_noise = adding


def _case(given: Mapping[str, Any]) -> PrivateCase:
    return PrivateCase(**{**given, "guard": Guard(**given["guard"])})


if __name__ == "__main__":
    print(json.dumps(measure(_case(json.loads(sys.argv[1])), sys.argv[2])))
