"""Which way to fit a model to private records is worth it; for ``make bench-quality``.

One file a measurement, in a folder that is kept; what is there is not measured again. Every
measurement runs in a process of its own, on one thread, so that its memory and time are its own.
"""

import importlib.util
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Protocol

from not_core import atomic, canonical
from not_core.errors import ExchangeError
from not_core.learning.evaluation import read_losses
from not_core.learning.near_duplicates import held
from not_core.surgery.checkpoint import open_checkpoint
from simulations.experiments import choices
from simulations.experiments.contestants import Contestant, fit, recipe_of
from simulations.experiments.kept import computes_in, recipe_facts
from simulations.machine import peak_bytes, processor
from simulations.material import domains
from simulations.material.sources import Report, quiet

TEST, VALIDATION, GENERAL = 80, 40, 32
"""Documents to report on and to choose by, of which ``CLOSE`` drops some; general ones."""
SPLIT_SEED = 20_261_124
BLOCK_TOKENS = 256
READ_WORDS = 190
"""About as many words as a block of ``BLOCK_TOKENS`` has, which is what is read of a document."""
CLOSE = 0.25
"""A document of which training documents together have a larger part is not read."""
OWN = 0.9
"""Least part of the seconds of a budget that must be the processor's."""
MEASURED = 2
"""Raised when the trainer or its rivals come to compute otherwise or at another cost, or are given
other defaults. It stands in what is kept; 1 is what does not say."""
NEEDED = ("peft", "lm_eval")
"""Packages of the extra ``comparison``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One measurement.

    Attributes:
        domain: One of ``domains.BUILTIN``.
        contestant: One of ``CONTESTANTS``, or a variant of one for a search.
        name: What the contestant is called.
        budget: ``tokens`` or ``seconds``.
        seed: Of order and first values.
        part: Documents to measure on: ``test``, or ``validation`` while choosing.
        choices: Ask the domain's multiple-choice questions too: two minutes more.
    """

    domain: str
    name: str
    contestant: Contestant
    budget: tuple[str, float]
    seed: int
    part: str = "test"
    choices: bool = False

    @property
    def recipe(self) -> dict[str, Any]:
        """All that it learns by."""
        return recipe_facts(recipe_of(self.contestant, dict([self.budget]), self.seed))

    @property
    def file(self) -> str:
        """Name of its result."""
        kind, size = self.budget
        # With the recipe as it is asked for; defaults that the trainer fills in are ``MEASURED``'s.
        contestant = {key: one for key, one in asdict(self.contestant).items() if key != "scale"}
        decides = {"contestant": contestant, "recipe": self.recipe}
        key = canonical.digest(json.loads(json.dumps(decides)))[:8]
        words = [self.domain, self.name, f"{kind}{size:g}", f"seed{self.seed}", self.part, key]
        return "-".join(words + ["choices"] * self.choices) + ".json"


@dataclass(frozen=True, slots=True)
class Parts:
    """A domain's documents."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


class Measurement(Protocol):
    """A dataclass that says all about one measurement; ``file`` is the name of its result."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def file(self) -> str:
        """Name of its result."""


def shuffled(domain: str, report: Report = quiet) -> list[list[str]]:
    """A domain's documents by groups of near-duplicates, in the same order for everybody.

    Groups of one come first: many near-duplicates are one opinion.
    """
    records = domains.BUILTIN[domain](report)
    groups = sorted({record.group for record in records})
    random.Random(SPLIT_SEED).shuffle(groups)  # noqa: S311 - a split, not a secret
    members: dict[str, list[str]] = {}
    for record in records:
        members.setdefault(record.group, []).append(record.text)
    order = sorted(groups, key=lambda group: len(members[group]) > 1)
    return [members[group] for group in order]


def parts(domain: str, report: Report = quiet) -> Parts:
    """Split a domain's documents, near-duplicates on one side, the same for everybody.

    Nor is any read of which training documents together hold more than ``CLOSE``, as entries of a
    catalogue do of each other and judgments do of their formulas.
    """
    texts = shuffled(domain, report)
    train = tuple(text for one in texts[TEST + VALIDATION :] for text in one)

    def apart(groups: Sequence[Sequence[str]]) -> tuple[str, ...]:
        found = [text for one in groups for text in one]
        shared = held(found, train, READ_WORDS)
        return tuple(text for text, part in zip(found, shared, strict=True) if part <= CLOSE)

    return Parts(train, apart(texts[TEST : TEST + VALIDATION]), apart(texts[:TEST]))


def measure(case: Case, model: str) -> dict[str, Any]:
    """Fit and measure; in this process, which should do nothing else."""
    import resource

    documents = parts(case.domain)
    host = open_checkpoint(model)
    _ = host.tokenizer, host.weights_digest  # read once on any site, whatever it does
    imports = peak_bytes()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    began, cpu = time.monotonic(), usage.ru_utime + usage.ru_stime
    fitted = fit(case.contestant, host, documents.train, dict([case.budget]), case.seed)
    seconds = time.monotonic() - began
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu_seconds = usage.ru_utime + usage.ru_stime - cpu
    if case.budget[0] == "seconds" and cpu_seconds < OWN * seconds:
        raise ExchangeError(
            f"of {seconds:.0f} seconds that were to be used, {cpu_seconds:.0f} were the "
            "processor's: leave it a core to itself and run it again"
        )
    row: dict[str, Any] = {
        "base": host.weights_digest,
        "recipe": case.recipe,
        "computes_in": computes_in(recipe_of(case.contestant, dict([case.budget]), case.seed)),
        "tokens": fitted.tokens,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "peak_mb": round(peak_bytes() / 1e6),
        "imports_mb": round(imports / 1e6),
        "trainable": fitted.trainable,
        "artefact_bytes": fitted.artefact_bytes,
    }
    body = fitted.model()
    first = 0 if case.part == "test" else GENERAL  # what chooses is not what is reported on
    general = [record.text for record in domains.general()[first : first + GENERAL]]
    for name, texts in (("domain", getattr(documents, case.part)), ("general", general)):
        reading = read_losses(body, host.tokenizer, texts, block_tokens=BLOCK_TOKENS)
        row[f"{name}_perplexity"] = round(reading.perplexity, 4)
        row[f"{name}_losses"] = [(round(one.nats, 4), one.tokens) for one in reading.losses]
    if case.choices:
        score = choices.score(body, host.tokenizer, case.domain)
        row["choices_items"] = len(score.right)
        row["choices_accuracy"] = round(score.accuracy, 4)
        row["choices_stderr"] = round(score.stderr, 4)
        row["choices_raw_accuracy"] = round(score.raw_accuracy, 4)
        row["choices_right"] = list(score.right)
    return row


def run(
    cases: Sequence[Measurement],
    model: str,
    out: Path,
    say: Callable[[str], None],
    *,
    module: str = "simulations.experiments.compare",
    since: int = 1,
    kept_only: bool = False,
    advance: Callable[..., None] = lambda *units, **how: None,
) -> Iterator[dict[str, Any]]:
    """Measurements of cases, in order: kept ones are read, others made and kept, or left out.

    Args:
        cases: What to measure.
        model: Folder of the base model.
        out: Folder of one file a measurement.
        say: Told of progress.
        module: What is run for each, with the case as JSON and the model; it prints the result.
        since: What is kept by an earlier ``MEASURED`` is measured anew.
        kept_only: Whether cases that are not kept are left out, and those kept taken as they are.
        advance: Told of each that is there; see ``program.Advance``.

    Raises:
        ExchangeError: A measurement failed, or what is kept is of another model, or PEFT or lm-eval
            is not installed.
    """
    if not kept_only:
        _prepare(out)
    for case in cases:
        kept = out / case.file
        there = kept.is_file()
        if kept_only and not there:
            continue
        if there and not kept_only:
            row = json.loads(kept.read_bytes())
            base = _base(model)
            if row.get("base", base) != base:
                raise ExchangeError(f"{kept} is of another base model; choose another --out")
            there = row.get("measured", 1) >= since
        if not there:
            say(f"measuring {kept.stem}")
            done = subprocess.run(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", module, json.dumps(asdict(case)), model],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise ExchangeError(
                    f"{kept.stem} failed, the same command goes on from there; it said: "
                    f"{done.stderr[-2000:]}"
                )
            row = json.loads(done.stdout.splitlines()[-1])
            atomic.write(kept, json.dumps({**_about(case), **row}, indent=1).encode())
        advance(1, kept=there)
        yield json.loads(kept.read_bytes())


@lru_cache(maxsize=1)
def _base(model: str) -> str:
    """Digest of a model's weights, read once a process: cases are often run one by one."""
    return open_checkpoint(model).weights_digest


def _prepare(out: Path) -> None:
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            raise ExchangeError(
                f"the package {name} is not installed; install organ-exchange[comparison]"
            )
    out.mkdir(parents=True, exist_ok=True)


def _about(case: Measurement) -> dict[str, Any]:
    return {
        "measured": MEASURED,
        "case": json.loads(json.dumps(asdict(case))),
        "machine": processor(),
        "versions": {name: metadata.version(name) for name in ("torch", "transformers", *NEEDED)},
    }


def _case(text: str) -> Case:
    given = json.loads(text)
    contestant = given.pop("contestant")
    for name in ("targets", "span"):
        if isinstance(contestant[name], list):
            contestant[name] = tuple(contestant[name])
    budget = given.pop("budget")
    return Case(**given, contestant=Contestant(**contestant), budget=(budget[0], budget[1]))


if __name__ == "__main__":
    print(json.dumps(measure(_case(sys.argv[1]), sys.argv[2])))
