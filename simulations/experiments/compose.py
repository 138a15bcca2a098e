"""Several organs in one host, measured: other spans, stacked inserts, average and TIES.

Organs of two domains are trained on the demo's texts; every composition is measured on held-out
documents of both domains and on general text, beside the host and each organ alone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from not_core.learning.evaluation import Reading, compare, resampled
from not_core.learning.recipe import Recipe, default_span
from not_core.learning.records import Split, split
from not_core.manifest import Span
from not_core.surgery.checkpoint import open_checkpoint
from not_core.surgery.merge import Average, Method, Ties, merge
from not_core.surgery.organ import Label, Organ
from not_core.surgery.plan import Graft, Mode
from not_core.surgery.plan import compose as composed
from simulations.experiments.cells import tell
from simulations.experiments.compose_results import HOST, PAIR, chart, markdown
from simulations.experiments.kept import Kept, Readings
from simulations.material import domains
from simulations.tables import percent

LOW, HIGH = Span(start=10, stop=13), Span(start=20, stop=23)
HELD_OUT = 32
GENERAL = 24
THREADS = 1
RANK = 16


@dataclass(frozen=True, slots=True)
class Composition:
    """What is put into the host: organs by key, each with mode and position.

    An organ by factors stands where it was cut from: its position is None.
    """

    name: str
    grafts: tuple[tuple[str, Mode, int | None], ...]


COMPOSITIONS = (
    Composition(HOST, ()),
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
    Composition("medicine by factors", (("medicine-wide", "replace", None),)),
    Composition("law by factors", (("law-wide", "replace", None),)),
    Composition("both by factors, averaged", (("wide-average", "replace", None),)),
    Composition("both by factors, TIES x 1", (("wide-ties-1", "replace", None),)),
    Composition("both by factors, TIES x 1.5", (("wide-ties-1.5", "replace", None),)),
)
MERGES: dict[str, Method] = {
    "average": Average(),
    "ties-0.2": Ties(density=0.2),
    "ties-0.5": Ties(density=0.5),
    "ties-1": Ties(density=1.0),
}
WIDE_MERGES: dict[str, Method] = {
    "wide-average": Average(),
    "wide-ties-1": Ties(density=1.0),
    "wide-ties-1.5": Ties(density=1.0, scale=1.5),
}
ALONE = {
    "other spans": {"medicine": "medicine", "law": "law higher up"},
    "by factors": {"medicine": "medicine by factors", "law": "law by factors"},
    "": {"medicine": "medicine", "law": "law"},
}
"""By words in a pair's name, the first that it has: each of its organs alone."""


def experiment(
    model: str, out: Path, tokens: int, seeds: int, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Train, compose and measure; what is done is kept, and a second call goes on.

    What is kept lies under a digest of all that decides it, so that a call with another model,
    other texts or another number of tokens does it anew.

    Returns:
        One row a composition and seed: perplexities, their changes against the host, and for two
        organs the part of each one's gain alone, in log perplexity, that is kept; for one, the part
        of another's that it brings.
    """
    host = open_checkpoint(model)
    texts = {
        "medicine": split(_texts(domains.abstracts(say)), HELD_OUT, 0),
        "law": split(_texts(domains.cases(say)), HELD_OUT, 0),
    }
    held_out = {name: parts.held_out for name, parts in texts.items()}
    held_out["general"] = tuple(_texts(domains.general(say))[:GENERAL])
    kept = Kept(out, host, say)
    rows = (row for seed in range(seeds) for row in _composed(kept, texts, held_out, tokens, seed))
    told = tell(out, "compose", rows, lambda found: [*map(dict, found)], markdown, chart)
    kept.tell(Recipe(tokens=tokens, threads=THREADS, device="cpu"), seeds)
    return told


def _composed(
    kept: Kept,
    texts: dict[str, Split],
    held_out: dict[str, tuple[str, ...]],
    tokens: int,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """The rows of one seed."""
    organs = dict(_organs(kept, texts, tokens, seed))
    found = {one.name: _measure(one, kept, organs, held_out) for one in COMPOSITIONS}
    for name, readings in found.items():
        row: dict[str, Any] = {"composition": name, "seed": seed}
        for key, reading in readings.items():
            row[key] = round(reading.perplexity, 2)
            row[f"{key} change"] = percent(compare(found[HOST][key], reading, seed))
        for key, single in _beside(name).items():
            if single in found and single != name:
                host_, alone, this = (found[one][key] for one in (HOST, single, name))
                if part := gain_kept(host_, alone, this, seed):
                    row[f"{key} gain kept"] = part[0]
                    row[f"{key} gain kept, documents"] = list(part[1])
        yield row


def _beside(name: str) -> dict[str, str]:
    """By domain, the organ alone beside which a pair stands, or another organ alone."""
    if name.startswith(PAIR):
        return next(one for words, one in ALONE.items() if words in name)
    return next((one for one in reversed(ALONE.values()) if name in one.values()), {})


def gain_kept(
    host: Reading, alone: Reading, this: Reading, seed: int
) -> tuple[float, tuple[float, float]] | None:
    """Which part of one organ's gain alone, in log perplexity, a pair keeps or another brings.

    Args:
        host: Losses without any organ.
        alone: With the one.
        this: With both, or the other, all on the same documents.
        seed: Of the resampling.

    Returns:
        The part, and its 95% interval over documents, made as ``evaluation.compare`` makes one;
        None where the one organ gains nothing.
    """
    import numpy as np

    before, one, both = (
        np.array([loss.nats for loss in reading.losses]) for reading in (host, alone, this)
    )
    if (gain := (before - one).sum()) <= 0:
        return None
    part = (before - both).sum() / gain

    def parts(drawn: Any) -> Any:
        return (before - both)[drawn].sum(axis=1) / (before - one)[drawn].sum(axis=1)

    low, high = resampled(len(before), parts, seed)
    return round(float(part), 3), (round(low, 3), round(high, 3))


def _texts(records: Sequence[domains.Record]) -> list[str]:
    return [record.text for record in records]


def _organs(
    kept: Kept, texts: dict[str, Split], tokens: int, seed: int
) -> Iterator[tuple[str, Organ]]:
    def trained(key: str, domain: str, span: Span, rank: int | None) -> Organ:
        recipe = Recipe(rank=rank, tokens=tokens, seed=seed, threads=THREADS, device="cpu")
        return kept.organ(key, domain, span, texts[domain].train, recipe)

    wide = default_span(kept.host.layers, RANK)
    low = [trained(domain, domain, LOW, None) for domain in texts]
    high = [trained(f"{domain}-wide", domain, wide, RANK) for domain in texts]
    yield from zip(texts, low, strict=True)
    yield "law-high", trained("law-high", "law", HIGH, None)
    yield from ((f"{domain}-wide", organ) for domain, organ in zip(texts, high, strict=True))
    for pair, methods in ((low, MERGES), (high, WIDE_MERGES)):
        for key, method in methods.items():
            manifest, tensors = merge(pair, kept.host, Label(name="both"), method)
            yield key, Organ(manifest, tensors)


def _measure(
    composition: Composition,
    kept: Kept,
    organs: dict[str, Organ],
    held_out: dict[str, tuple[str, ...]],
) -> Readings:
    grafts = [
        Graft(
            organ=key,
            count=len(organs[key]),
            mode=mode,
            position=organs[key].manifest.span.start if position is None else position,
        )
        for key, mode, position in composition.grafts
    ]
    plan = composed(kept.host.layers, grafts)
    return kept.readings(composition.name, plan, organs, held_out)
