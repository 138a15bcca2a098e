"""A clinic with few records: what a hospital's organ is worth to it, and a recovery after that.

The clinic has 20 to 200 abstracts, the hospital the rest. Everything that learns from the clinic's
records has the same ones, keeps back the same part of them, and stops and chooses by the same rule
(``Course``). Measurements are kept as in ``cells``.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from not_core import canonical
from not_core.cache import cache_home
from not_core.commands.program import progress
from not_core.learning import recovery
from not_core.learning.course import Course
from not_core.learning.lessons import Lessons
from not_core.learning.recipe import Recipe, default_span
from not_core.learning.records import Split, split
from not_core.learning.training import train
from not_core.surgery import graft
from not_core.surgery.assemble import assemble
from not_core.surgery.checkpoint import Checkpoint, open_checkpoint
from not_core.surgery.lineage import What
from not_core.surgery.organ import Label, Organ, describe
from not_core.surgery.plan import identity, transplant
from simulations.experiments.cells import read, run, stem, tell
from simulations.experiments.clinic_results import chart, markdown, summary
from simulations.experiments.contestants import CONTESTANTS, fit, lora_place, with_organ
from simulations.experiments.documents import TEST, shuffled
from simulations.experiments.kept import LIBRARIES, computes_in, recipe_facts
from simulations.machine import Meter
from simulations.material import domains
from simulations.material.sources import Report, quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DOMAIN = "abstracts"
SHARED = "lora-scaled"
"""What the hospital would share in an organ's stead."""
SIZES = (20, 50, 200)
SEEDS = 3
GENERAL = 16
"""General documents to measure forgetting on."""
DONOR_TOKENS, QUICK_TOKENS = 32_000, 4_096
MOST_TOKENS = 32_000
"""The clinic trains on ``recovery.PASSES`` of its records, but on no more than this."""
MOST_VALIDATION = 20
"""It keeps back ``recovery.VALIDATION`` of them, but no more than so many documents: all are read
eleven times."""


@dataclass(frozen=True, slots=True)
class Method:
    """What a clinic can do.

    Attributes:
        begins: With the base model, the hospital's organ, or a LoRA that the hospital would share
            in an organ's stead, scaled alike.
        tuning: What it then does on its own records: nothing; LoRA by PEFT; our training with
            factors, of an organ of its own; or a recovery of some part.
    """

    begins: Literal["base", "organ", "lora"]
    tuning: What | Literal["none", "lora", "low-rank"]


METHODS = {
    "stock": Method("base", "none"),
    "lora": Method("base", "lora"),
    "low-rank": Method("base", "low-rank"),
    "organ": Method("organ", "none"),
    "shared-lora": Method("lora", "none"),
    "organ+organ": Method("organ", "organ"),
    "organ+organ-norms": Method("organ", "organ-norms"),
    "organ+norms": Method("organ", "norms"),
    "organ+all": Method("organ", "all"),
    "organ+lora": Method("organ", "lora"),
}
"""Recoveries are named by what learns in them, after the plus."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One measurement.

    Attributes:
        method: One of ``METHODS``.
        records: Documents that the clinic has; 0 where it uses none.
        seed: Which these are, and the order of all learning.
        donor_tokens: Training tokens of the hospital's organ.
        most_tokens: Training tokens of the clinic, at most.
        passes: Of the clinic over its records, at most.
        patience: See ``Recipe``.
    """

    method: str
    records: int
    seed: int
    donor_tokens: int = DONOR_TOKENS
    most_tokens: int = MOST_TOKENS
    passes: float = recovery.PASSES
    patience: int = recovery.PATIENCE

    @property
    def donor(self) -> Recipe:
        """How the hospital trains its organ."""
        return Recipe(tokens=self.donor_tokens, seed=self.seed, threads=1, device="cpu")

    def recipe(self, there: int) -> Recipe:
        """How the clinic tunes on records of so many tokens."""
        return Recipe(
            tokens=min(round(self.passes * there), self.most_tokens),
            patience=self.patience,
            precision="float32",
            scale=1.0,  # validation chooses among what is read, which is not scaled
            seed=self.seed,
            threads=1,
            device="cpu",
        )

    @property
    def file(self) -> str:
        """Name of its result."""
        # With the trainer's defaults, so that nothing measured by others passes for the same.
        decides: list[Any] = [asdict(self), recipe_facts(self.recipe(self.most_tokens))]
        match METHODS[self.method].begins:
            case "organ":
                decides.append(recipe_facts(self.donor))
            case "lora":
                decides.append(json.loads(json.dumps(asdict(CONTESTANTS[SHARED]))))
        key = canonical.digest(decides)[:8]
        return f"{self.method}-{self.records}-seed{self.seed}-{key}.json"


@dataclass(frozen=True, slots=True)
class Documents:
    """Who has which; near-duplicates of a test document are nowhere else."""

    test: tuple[str, ...]
    clinic: tuple[str, ...]
    hospital: tuple[str, ...]


def documents(seed: int, report: Report = quiet) -> Documents:
    """The same test documents for all; clinics of different seeds have no document in common."""
    groups = shuffled(DOMAIN, report)
    first, size = TEST, max(SIZES)

    def flat(part: Sequence[Sequence[str]]) -> tuple[str, ...]:
        return tuple(text for group in part for text in group)

    clinics = flat(groups[first : first + SEEDS * size])
    return Documents(
        test=flat(groups[:first]),
        clinic=clinics[seed * size : (seed + 1) * size],
        hospital=flat(groups[first + SEEDS * size :]),
    )


def visits(*, quick: bool) -> Iterator[Visit]:
    """All measurements, the fewest records first, with every seed."""
    for size in SIZES[:1] if quick else SIZES:
        for seed in range(1 if quick else SEEDS):
            for name, method in METHODS.items():
                yield Visit(
                    method=name,
                    records=0 if method.tuning == "none" else size,
                    seed=seed if name != "stock" else 0,
                    donor_tokens=QUICK_TOKENS if quick else DONOR_TOKENS,
                    most_tokens=QUICK_TOKENS if quick else MOST_TOKENS,
                )


def experiment(
    model: str,
    out: Path,
    say: Callable[[str], None],
    *,
    quick: bool = False,
    kept_only: bool = False,
) -> list[dict[str, Any]]:
    """Measure what is not measured yet, and write what all says together.

    Args:
        model: Folder of the base model.
        out: Folder of results; ``cells`` in it holds one file a measurement.
        say: Told of progress.
        quick: One size, one seed, few tokens.
        kept_only: Measure nothing; say what is there.

    Returns:
        Rows of the table.
    """
    wanted = list(dict.fromkeys(visits(quick=quick)))
    with progress("measuring", len(wanted), "cells") as bar:
        rows = (
            {**row, **asdict(visit)}
            for visit in wanted
            for row in run(
                [visit], model, out / "cells", say,
                module=__name__, needs=("peft",), kept_only=kept_only, advance=bar,
            )
        )  # fmt: skip
        return tell(out, stem("clinic", quick=quick), rows, summary, markdown, chart)


def measure(visit: Visit, model: str) -> dict[str, Any]:
    """Tune and measure; in this process, which should do nothing else."""
    texts = documents(visit.seed)
    host, method = open_checkpoint(model), METHODS[visit.method]
    own = Split(train=(), held_out=())
    if visit.records:
        back = min(round(recovery.VALIDATION * visit.records), MOST_VALIDATION)
        own = split(texts.clinic[: visit.records], back, visit.seed)
    base, shared = host, None
    if method.begins == "organ":
        # In a process of its own: its memory is the hospital's.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            base = open_checkpoint(pool.submit(hospital, model, texts.hospital, visit).result())
    elif method.begins == "lora":
        budget = {"tokens": visit.donor_tokens}
        shared = fit(CONTESTANTS[SHARED], host, texts.hospital, budget, visit.seed)
    _ = base.tokenizer, base.weights_digest
    meter = Meter()
    tuned = Tuned(shared.model()) if shared else tune(method.tuning, base, own, visit)
    took = meter.read()
    general = [record.text for record in domains.general()[:GENERAL]]
    return {
        "recipe": tuned.recipe and recipe_facts(tuned.recipe),
        "tokens": tuned.tokens,
        **took,
        "validation_documents": len(own.held_out),
        "validation": [round(one, 4) for one in tuned.readings],
        **read(tuned.model, host.tokenizer, {"domain": texts.test, "general": general}),
    }


def hospital(model: str, texts: Sequence[str], visit: Visit) -> Path:
    """The model with the hospital's organ in it, by the default recipe; made once for each seed.

    It lies in the cache, because a graft is as large as the model.
    """
    host, recipe = open_checkpoint(model), visit.donor
    span = default_span(host.layers, recipe.rank)
    libraries = [metadata.version(name) for name in LIBRARIES]
    how = [recipe_facts(recipe), computes_in(recipe)]
    decides = [host.weights_digest, str(span), *how, list(texts), libraries]
    folder = cache_home() / "clinic" / canonical.digest(decides)[:16]
    if not folder.is_dir():
        trained = train(host, span, texts, recipe)
        label = Label(name="organ", donor="hospital")
        organ = Organ(
            describe(host, span, trained.tensors, label, training=trained.facts), trained.tensors
        )
        name = organ.manifest.digest
        plan = transplant(host.layers, name, len(span), mode="replace", position=span.start)
        folder.parent.mkdir(parents=True, exist_ok=True)
        graft.transplant(plan, host, {name: organ}, folder, keep_replaced=False)
    return folder


@dataclass(frozen=True, slots=True)
class Tuned:
    """A model to measure; how it was tuned, on how many tokens, and readings on validation."""

    model: "PreTrainedModel"
    recipe: Recipe | None = None
    tokens: int = 0
    readings: tuple[float, ...] = ()


def tune(tuning: str, base: Checkpoint, own: Split, visit: Visit) -> Tuned:
    """Tune a model on the clinic's records."""
    if tuning == "none":
        return Tuned(assemble(identity(base.layers), base, {}, dtype="float32"))
    one = Recipe(tokens=1)
    there = Lessons(base.tokenizer, own.train, (), one).there
    recipe = visit.recipe(there)
    if tuning == "lora":
        return _lora(base, own, recipe)
    if tuning == "low-rank":
        span = default_span(base.layers, recipe.rank)
        trained = train(base, span, own.train, recipe, validation=own.held_out)
        fitted = with_organ(base, span, trained)
        return Tuned(fitted, recipe, trained.facts.tokens, trained.validation)
    what: What = tuning  # type: ignore[assignment]
    done = recovery.recover(base, own.train, recipe, what=what, validation=own.held_out)
    tokens = done.facts.training.tokens
    return Tuned(recovery.assembled(base, done), recipe, tokens, done.validation)


def _lora(base: Checkpoint, own: Split, recipe: Recipe) -> Tuned:
    """PEFT's LoRA in the course that ours takes: same packs, readings, patience and choice."""
    lessons = Lessons(base.tokenizer, own.train, own.held_out, recipe)
    lora = CONTESTANTS["lora"]
    with lora_place(lora, base, lessons.blocks, recipe, apart=False) as (place, model):
        course = Course(
            place.scene, place.masters, lessons, recipe, place.kept, lambda tokens, loss: None
        )
        progress = course.run(time.monotonic())
    fitted = model.merge_and_unload().eval()
    return Tuned(fitted, recipe, progress.tokens, tuple(progress.readings))


if __name__ == "__main__":
    print(json.dumps(measure(Visit(**json.loads(sys.argv[1])), sys.argv[2])))
