"""Several organs in one host, measured: other spans, stacked inserts, average and TIES.

Organs of two domains are trained on the demo's texts; every composition is measured on held-out
documents of both domains and on general text, beside the host and each organ alone.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from not_core import atomic, canonical
from not_core.learning.evaluation import DocumentLoss, Reading, compare, read_losses
from not_core.learning.recipe import Recipe
from not_core.learning.records import Split, split
from not_core.learning.training import train
from not_core.manifest import Span
from not_core.surgery.assemble import assemble
from not_core.surgery.checkpoint import Checkpoint, open_checkpoint
from not_core.surgery.layer_config import fitting_fields
from not_core.surgery.merge import Average, Method, Ties, merge
from not_core.surgery.organ import Label, Organ, describe, read_organ, write_organ
from not_core.surgery.plan import Graft, Mode, compose
from simulations import domains
from simulations.sources import Report

LOW, HIGH = Span(start=10, stop=13), Span(start=20, stop=23)
HELD_OUT = 32
GENERAL = 24
BLOCK_TOKENS = 256
THREADS = 2


@dataclass(frozen=True, slots=True)
class Composition:
    """What is put into the host: organs by key, each with mode and position."""

    name: str
    grafts: tuple[tuple[str, Mode, int], ...]


COMPOSITIONS = (
    Composition("host", ()),
    Composition("medicine", (("medicine", "replace", 10),)),
    Composition("law", (("law", "replace", 10),)),
    Composition("law higher up", (("law-high", "replace", 20),)),
    Composition("both, other spans", (("medicine", "replace", 10), ("law-high", "replace", 20))),
    Composition("both, averaged", (("average", "replace", 10),)),
    Composition("both, TIES density 0.2", (("ties-0.2", "replace", 10),)),
    Composition("both, TIES density 0.5", (("ties-0.5", "replace", 10),)),
    Composition("both, TIES density 1", (("ties-1", "replace", 10),)),
    Composition("medicine inserted", (("medicine", "insert", 13),)),
    Composition("both inserted, stacked", (("medicine", "insert", 13), ("law", "insert", 13))),
)
MERGES: dict[str, Method] = {
    "average": Average(),
    "ties-0.2": Ties(density=0.2),
    "ties-0.5": Ties(density=0.5),
    "ties-1": Ties(density=1.0),
}


def experiment(
    model: str, out: Path, tokens: int, seeds: int, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Train, compose and measure; what is done is kept, and a second call goes on.

    What is kept lies under a digest of all that decides it, so that a call with another model,
    other texts or another number of tokens does it anew.

    Returns:
        One row a composition and seed: perplexities and their changes against the host.
    """
    host = open_checkpoint(model)
    texts = {
        "medicine": split(_texts(domains.abstracts(say)), HELD_OUT, 0),
        "law": split(_texts(domains.cases(say)), HELD_OUT, 0),
    }
    held_out = {name: parts.held_out for name, parts in texts.items()}
    held_out["general"] = tuple(_texts(domains.general(say))[:GENERAL])
    rows = []
    for seed in range(seeds):
        organs = dict(_organs(host, texts, out, tokens, seed, say))
        base = _measure(COMPOSITIONS[0], host, organs, held_out, out, say)
        for composition in COMPOSITIONS:
            found = _measure(composition, host, organs, held_out, out, say)
            row: dict[str, Any] = {"composition": composition.name, "seed": seed}
            for name, reading in found.items():
                change = compare(base[name], reading, seed)
                row[name] = round(reading.perplexity, 2)
                row[f"{name} change"] = (
                    f"{change.change:+.1%} [{change.low:+.1%}, {change.high:+.1%}]"
                )
            rows.append(row)
        atomic.write(out / "compose.json", json.dumps(rows, indent=2).encode())
    return rows


def _texts(records: Sequence[domains.Record]) -> list[str]:
    return [record.text for record in records]


def _key(host: Checkpoint, decides: dict[str, Any]) -> str:
    """Beginning of a digest over the model, the libraries and what else decides a result."""
    model = {
        "weights": host.weights_digest,
        "tokenizer": host.tokenizer_digest,
        "config": fitting_fields(host.config, host.anatomy),
        "layers": host.source.entries,
    }
    libraries = [metadata.version(name) for name in ("torch", "transformers")]
    return canonical.digest([model, libraries, decides])[:16]


def _organs(
    host: Checkpoint, texts: dict[str, Split], out: Path, tokens: int, seed: int, say: Report
) -> Iterator[tuple[str, Organ]]:
    trained = {}
    for key, domain, span in (
        ("medicine", "medicine", LOW),
        ("law", "law", LOW),
        ("law-high", "law", HIGH),
    ):
        recipe = Recipe(
            rank=None,
            tokens=tokens,
            learning_rate=1e-3,
            seed=seed,
            threads=THREADS,
            device="cpu",
        )
        decides = {"span": str(span), "recipe": asdict(recipe), "texts": texts[domain].train}
        folder = out / "organs" / f"{key}-{_key(host, decides)}"
        if not folder.is_dir():
            say(f"seed {seed}: training {key} at {span}")
            made = train(host, span, texts[domain].train, recipe)
            label = Label(name=key, domain=domain)
            manifest = describe(host, span, made.tensors, label, training=made.facts)
            write_organ(folder, made.tensors, manifest)
        trained[key] = read_organ(folder)
        yield key, trained[key]
    for key, method in MERGES.items():
        pair = (trained["medicine"], trained["law"])
        manifest, tensors = merge(pair, host, Label(name="both"), method)
        yield key, Organ(manifest, tensors)


def _measure(
    composition: Composition,
    host: Checkpoint,
    organs: dict[str, Organ],
    held_out: dict[str, tuple[str, ...]],
    out: Path,
    say: Report,
) -> dict[str, Reading]:
    decides = {
        "grafts": [
            (organs[key].manifest.digest, mode, position)
            for key, mode, position in composition.grafts
        ],
        "texts": held_out,
        "block_tokens": BLOCK_TOKENS,
    }
    kept = out / "readings" / f"{_key(host, decides)}.json"
    if not kept.is_file():
        say(f"measuring {composition.name}")
        plan = compose(
            host.layers,
            [
                Graft(organ=key, count=len(organs[key]), mode=mode, position=position)
                for key, mode, position in composition.grafts
            ],
        )
        model = assemble(plan, host, {key: organ.source for key, organ in organs.items()})
        losses = {
            name: [
                (loss.nats, loss.tokens)
                for loss in read_losses(
                    model, host.tokenizer, texts, block_tokens=BLOCK_TOKENS
                ).losses
            ]
            for name, texts in held_out.items()
        }
        atomic.write(kept, json.dumps(losses).encode())
    found = json.loads(kept.read_bytes())
    return {
        name: Reading(tuple(DocumentLoss(nats, tokens) for nats, tokens in losses))
        for name, losses in found.items()
    }
