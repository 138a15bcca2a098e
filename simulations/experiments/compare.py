"""One way to fit a model to private records, measured; for ``make bench-quality``."""

import json
import sys
from dataclasses import asdict, dataclass
from typing import Any

from not_core import canonical
from not_core.errors import ExchangeError
from not_core.surgery.checkpoint import open_checkpoint
from simulations.experiments import choices
from simulations.experiments.cells import read
from simulations.experiments.contestants import Contestant, fit, recipe_of
from simulations.experiments.documents import parts
from simulations.experiments.kept import computes_in, recipe_facts
from simulations.machine import Meter, peak_bytes
from simulations.material import domains

NEEDS = ("peft", "lm_eval")
"""Packages of the extra ``comparison``."""
GENERAL = 32
"""General documents to report on; as many others to choose by."""
OWN = 0.9
"""Least part of the seconds of a budget that must be the processor's."""


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


def measure(case: Case, model: str) -> dict[str, Any]:
    """Fit and measure; in this process, which should do nothing else."""
    documents = parts(case.domain)
    host = open_checkpoint(model)
    _ = host.tokenizer, host.weights_digest  # read once on any site, whatever it does
    imports, meter = peak_bytes(), Meter()
    fitted = fit(case.contestant, host, documents.train, dict([case.budget]), case.seed)
    took = meter.read()
    if case.budget[0] == "seconds" and took["cpu_seconds"] < OWN * took["seconds"]:
        raise ExchangeError(
            f"of {took['seconds']:.0f} seconds that were to be used, {took['cpu_seconds']:.0f} "
            "were the processor's: leave it a core to itself and run it again"
        )
    body = fitted.model()
    first = 0 if case.part == "test" else GENERAL  # what chooses is not what is reported on
    general = [record.text for record in domains.general()[first : first + GENERAL]]
    row: dict[str, Any] = {
        "recipe": case.recipe,
        "computes_in": computes_in(recipe_of(case.contestant, dict([case.budget]), case.seed)),
        "tokens": fitted.tokens,
        **took,
        "imports_mb": round(imports / 1e6),
        "trainable": fitted.trainable,
        "artefact_bytes": fitted.artefact_bytes,
        **read(body, host.tokenizer, {"domain": getattr(documents, case.part), "general": general}),
    }
    if case.choices:
        score = choices.score(body, host.tokenizer, case.domain)
        row["choices_items"] = len(score.right)
        row["choices_accuracy"] = round(score.accuracy, 4)
        row["choices_stderr"] = round(score.stderr, 4)
        row["choices_raw_accuracy"] = round(score.raw_accuracy, 4)
        row["choices_right"] = list(score.right)
    return row


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
