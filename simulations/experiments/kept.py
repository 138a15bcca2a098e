"""Organs and readings of experiments, kept under a digest of all that decides them.

A second call with the same model, texts, recipe and libraries finds them; any other makes its own.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from not_core import atomic, canonical
from not_core.learning import device
from not_core.learning.evaluation import DocumentLoss, Reading, read_losses
from not_core.learning.recipe import Recipe
from not_core.learning.training import train
from not_core.manifest import Span
from not_core.surgery.assemble import assemble
from not_core.surgery.checkpoint import Checkpoint
from not_core.surgery.expansion import read_expanded
from not_core.surgery.layer_config import fitting_fields
from not_core.surgery.organ import Label, Organ, describe, write_organ
from not_core.surgery.plan import Plan
from simulations.machine import processor
from simulations.material.sources import Report

RESULTS = Path("docs/results")
"""Where what is published is kept."""
BLOCK_TOKENS = 256
LIBRARIES = ("torch", "transformers")
Readings = dict[str, Reading]
"""Losses by the name of a set of texts."""


def recipe_facts(recipe: Recipe) -> dict[str, Any]:
    """All of a recipe that decides a result; what came to be later, where it changes one.

    What was kept before so keeps its name.
    """
    facts = asdict(recipe)
    del facts["scale"]
    if recipe.scaling != 1:
        facts["scale"] = recipe.scaling
    if not recipe.compiled:
        del facts["compiled"]
    return facts


def computes_in(recipe: Recipe) -> str:
    """The type that a recipe's frozen model computes in on this machine."""
    return device.precision(recipe.precision, device.pick(recipe.device))


@dataclass(frozen=True, slots=True)
class Kept:
    """A folder of organs and readings of one base.

    Attributes:
        folder: Where they are kept.
        host: The base.
        say: Told what is made anew.
    """

    folder: Path
    host: Checkpoint
    say: Report

    def organ(
        self, name: str, domain: str, span: Span, texts: Sequence[str], recipe: Recipe
    ) -> Organ:
        """An organ trained on documents, or found."""
        decides = {
            "span": str(span),
            "recipe": recipe_facts(recipe),
            "computes in": computes_in(recipe),
            "texts": list(texts),
        }
        folder = self.folder / "organs" / f"{name}-{self._key(decides)}"
        if not folder.is_dir():
            self.say(f"seed {recipe.seed}: training {name} at {span}")
            made = train(self.host, span, texts, recipe)
            label = Label(name=name, domain=domain)
            manifest = describe(self.host, span, made.tensors, label, training=made.facts)
            write_organ(folder, made.tensors, manifest)
        return read_expanded(folder, self.host)

    def readings(
        self,
        name: str,
        plan: Plan,
        organs: Mapping[str, Organ],
        texts: Mapping[str, Sequence[str]],
    ) -> Readings:
        """Losses of the model of a plan on each set of texts, measured or found.

        Args:
            name: What is measured, for ``say``.
            plan: Its layers.
            organs: By the plan's source names.
            texts: Documents by name.
        """
        used = sorted({layer.source for layer in plan.layers} & organs.keys())
        decides = {
            "layers": [
                [organs[one.source].manifest.digest if one.source in organs else "", one.index]
                for one in plan.layers
            ],
            "texts": {key: list(value) for key, value in texts.items()},
            "block_tokens": BLOCK_TOKENS,
        }
        kept = self.folder / "readings" / f"{self._key(decides)}.json"
        if not kept.is_file():
            self.say(f"measuring {name}")
            model = assemble(plan, self.host, {key: organs[key].source for key in used})
            found = {
                key: read_losses(
                    model, self.host.tokenizer, value, block_tokens=BLOCK_TOKENS
                ).losses
                for key, value in texts.items()
            }
            rows = {
                key: [(one.nats, one.tokens) for one in losses] for key, losses in found.items()
            }
            atomic.write(kept, json.dumps(rows).encode())
        return {
            key: Reading(tuple(DocumentLoss(nats, tokens) for nats, tokens in losses))
            for key, losses in json.loads(kept.read_bytes()).items()
        }

    def tell(self, recipe: Recipe, seeds: int = 1) -> None:
        """Write beside the results what they are measured with: ``about.json``."""
        facts = {
            "base": self.host.weights_digest,
            "tokens": recipe.tokens,
            "seeds": list(range(recipe.seed, recipe.seed + seeds)),
            "computes in": computes_in(recipe),
            "machine": processor(),
            **{name: metadata.version(name) for name in LIBRARIES},
        }
        atomic.write(self.folder / "about.json", json.dumps(facts, indent=1).encode())

    def _key(self, decides: dict[str, Any]) -> str:
        """Beginning of a digest over the model, the libraries and what else decides a result."""
        model = {
            "weights": self.host.weights_digest,
            "tokenizer": self.host.tokenizer_digest,
            "config": fitting_fields(self.host.config, self.host.anatomy),
            "layers": self.host.source.entries,
        }
        libraries = [metadata.version(name) for name in LIBRARIES]
        return canonical.digest([model, libraries, decides])[:16]
