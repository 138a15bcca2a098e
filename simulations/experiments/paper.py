"""The paper's questions on real text: where an organ works, in whom, and who can take none.

Composition is ``compose``'s question, the comparison with LoRA ``compare``'s.

Source of the questions: Neural Organ Transplantation, arXiv:2601.13580.
"""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from not_core import atomic
from not_core.errors import IncompatibleOrganError, UnknownFamilyError
from not_core.learning.evaluation import compare
from not_core.learning.positions import Scan, scan
from not_core.learning.readings import read_plans
from not_core.learning.recipe import Recipe, default_span
from not_core.learning.records import split
from not_core.learning.text_blocks import document_blocks
from not_core.manifest import Span
from not_core.surgery.checkpoint import Checkpoint, open_checkpoint
from not_core.surgery.compatibility import check
from not_core.surgery.organ import Organ
from not_core.surgery.plan import Mode, Plan, transplant
from not_core.surgery.source import Source
from not_core.surgery.tensors import Held, Renamed, Tensors
from simulations.experiments import paper_results
from simulations.experiments.cells import publish
from simulations.experiments.contestants import CONTESTANTS, fit
from simulations.experiments.kept import BLOCK_TOKENS, Kept
from simulations.material import domains
from simulations.tables import percent

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Say = Callable[[str], None]
Row = dict[str, Any]

THREADS = 1
TRIED, HELD_OUT, GENERAL = 8, 24, 24
"""Documents to try positions on; of each domain, and general ones, to measure on."""
PROSE = 900
"""Other general documents, of which an organ is made, too: about as many as of a domain."""
MODES: tuple[Mode, Mode] = ("replace", "insert")
WAYS: dict[str, Recipe] = {
    "in place": Recipe(rank=None, tokens=1),
    "inserted": Recipe(rank=None, tokens=1, scaffold="inserted"),
    "the paper's": Recipe(rank=None, tokens=1, scaffold="alone", learning_rate=5e-4),
}
"""How organs of three layers are trained, but for tokens and seed."""
MADE_THERE = "made there"
"""The mode of an organ that is tried only where it was trained."""
TUNED_ON, GIVEN = "finance", "abstracts"
"""What the recipient of a transfer has tuned its base on, by LoRA, and what it is given an organ
of."""
REFUSED = ("bert", "roberta", "t5", "bart")


def positions(model: str, out: Path, tokens: int, seed: int, say: Say) -> list[Row]:
    """Perplexity with an organ at every position: of three ways to train it, and untrained.

    And with organs made at each tenth of the model, or so, every one where it was made.

    Returns:
        One row an organ, mode and position; ``change`` is against the host.
    """
    host = open_checkpoint(model)
    kept, parts = Kept(out, host, say), split(_texts(GIVEN, say), HELD_OUT, 0)
    span = default_span(host.layers, None)
    documents = document_blocks(host.tokenizer, parts.held_out[:TRIED], BLOCK_TOKENS, 1)
    sources: dict[str, Source] = {"untrained copy": _cut(host, span)}
    for way, recipe in WAYS.items():
        recipe = _with(recipe, tokens, seed)
        sources[way] = kept.organ(_name(way), GIVEN, span, parts.train, recipe).source
    rows: list[Row] = []
    for way, source in sources.items():
        for mode in MODES:
            say(f"trying {way}, {mode}")
            rows += _positions(way, mode, scan(host, source, mode, documents))
    for way, recipe in WAYS.items():
        say(f"trying {way}, {MADE_THERE}")
        made = _made_there(kept, way, _with(recipe, tokens, seed), len(span), parts.train)
        sources |= {_source(way, MADE_THERE, start): organ.source for start, organ in made.items()}
        plans = {start: _plan(host, sources, way, MADE_THERE, start) for start in made}
        found = read_plans(host, sources, plans, documents)
        rows += _positions(way, MADE_THERE, Scan(found.before, found.after, {}))
    others = document_blocks(host.tokenizer, parts.held_out[TRIED:], BLOCK_TOKENS, 1)
    _read_the_best(rows, host, sources, others)
    chart = paper_results.positions_chart(rows)
    kept.tell(_with(WAYS["in place"], tokens, seed))
    publish(out, "positions", rows, paper_results.positions(rows), chart)
    return rows


def _made_there(
    kept: Kept, way: str, recipe: Recipe, layers: int, texts: Sequence[str]
) -> dict[int, Organ]:
    """Organs by where they begin: spans beside each other, from the lowest layer up."""
    spans = [
        Span(start=start, stop=start + layers)
        for start in range(0, kept.host.layers - layers + 1, layers)
    ]
    return {
        span.start: kept.organ(f"{_name(way)}-{span.start}", GIVEN, span, texts, recipe)
        for span in spans
    }


def _name(way: str) -> str:
    return "-".join("".join(c for c in word if c.isalnum()) for word in way.split())


def _source(way: str, mode: str, position: int) -> str:
    """What an organ is called among the sources."""
    return f"{way} {position}" if mode == MADE_THERE else way


def _plan(
    host: Checkpoint, sources: Mapping[str, Source], way: str, mode: str, position: int
) -> Plan:
    name = _source(way, mode, position)
    put: Mode = "insert" if mode == "insert" else "replace"
    if mode == MADE_THERE and WAYS[way].scaffold == "inserted":
        put = "insert"
    return transplant(host.layers, name, len(sources[name].layers), mode=put, position=position)


def _positions(way: str, mode: str, found: Scan) -> list[Row]:
    before = found.before.perplexity
    changes = {position: compare(found.before, one, 0) for position, one in found.after.items()}
    return [
        {
            "organ": way,
            "mode": mode,
            "position": position,
            "perplexity": round(reading.perplexity, 2),
            "change": f"{reading.perplexity / before - 1:+.1%}",
            "best": position == found.best,
            "without": round(before, 2),
            "low": round(before * (1 + changes[position].low), 2),
            "high": round(before * (1 + changes[position].high), 2),
        }
        for position, reading in found.after.items()
    ]


def _read_the_best(
    rows: Sequence[Row], host: Checkpoint, sources: Mapping[str, Source], documents: Any
) -> None:
    """Add to each best position what it does on documents by which it was not chosen."""
    best = {(row["organ"], row["mode"], row["position"]): row for row in rows if row["best"]}
    plans = {key: _plan(host, sources, *key) for key in best}
    found = read_plans(host, sources, plans, documents)
    for key, row in best.items():
        change = compare(found.before, found.after[key], 0)
        row["on others"] = f"{found.after[key].perplexity:.2f}, {percent(change)}"


def _cut(host: Checkpoint, span: Span) -> Source:
    """A span's own layers, as an organ's."""
    return Source(
        tensors=host.tensors,
        layers={
            new: host.source.layer(old) for new, old in enumerate(range(span.start, span.stop))
        },
        entries={name: list(v[span.start : span.stop]) for name, v in host.source.entries.items()},
        start=span.start,
    )


def transfer(model: str, out: Path, tokens: int, seed: int, say: Say) -> list[Row]:
    """Organs of four domains in the same base, on all domains; and in a base tuned further.

    An organ of general prose stands beside them: what it does to a domain, any prose would. In the
    tuned base an organ takes the place of what tuning made, or what it changed is added to that.

    Returns:
        One row a recipient, organ and text, with the change against that recipient without the
        organ and its 95% interval over documents.
    """
    host = open_checkpoint(model)
    kept = Kept(out, host, say)
    parts = {name: split(_texts(name, say), HELD_OUT, 0) for name in domains.BUILTIN}
    held_out = {name: part.held_out for name, part in parts.items()}
    general = domains.general(say)
    held_out["general"] = tuple(record.text for record in general[:GENERAL])
    apart = {record.group for record in general[:GENERAL]}
    prose = [record.text for record in general if record.group not in apart]
    wide, narrow = default_span(host.layers, Recipe(tokens=1).rank), default_span(host.layers, None)
    learned = {**{name: part.train for name, part in parts.items()}, "general": prose[:PROSE]}
    organs = {
        name: kept.organ(name, name, wide, texts, _with(Recipe(tokens=1), tokens, seed))
        for name, texts in learned.items()
    }
    short = kept.organ(
        f"{GIVEN}-three", GIVEN, narrow, parts[GIVEN].train, _with(WAYS["in place"], tokens, seed)
    )
    given = {GIVEN: organs[GIVEN], f"{GIVEN}, three layers": short}
    tried = {name: organ.source for name, organ in (organs | given).items()}
    rows = _tried("base", host, tried, held_out, say)
    with tempfile.TemporaryDirectory(dir=out) as folder:
        say(f"tuning the base on {TUNED_ON} by LoRA")
        lora = fit(CONTESTANTS["lora"], host, parts[TUNED_ON].train, {"tokens": tokens}, seed)
        tuned = _written(lora.model(), host, Path(folder) / "tuned")
        for organ in given.values():
            _refused_unless_allowed(organ, tuned)
        tried = {name: organ.source for name, organ in given.items()}
        tried |= {f"{name}, added": _added(one, host, tuned) for name, one in given.items()}
        chosen = {name: held_out[name] for name in (GIVEN, TUNED_ON, "general")}
        rows += _tried(f"base tuned on {TUNED_ON}", tuned, tried, chosen, say)
    chart = paper_results.transfer_chart(rows)
    kept.tell(_with(Recipe(tokens=1), tokens, seed))
    publish(out, "transfer", rows, paper_results.transfer(rows), chart)
    return rows


def _written(tuned: "PreTrainedModel", base: Checkpoint, out: Path) -> Checkpoint:
    """A tuned model as a folder, with the base's tokenizer."""
    tuned.save_pretrained(out)
    base.tokenizer.save_pretrained(out)
    return open_checkpoint(out)


def _refused_unless_allowed(organ: Organ, host: Checkpoint) -> None:
    """Check that a tuned base is noticed, and can be accepted."""
    try:
        check(organ.manifest, host)
    except IncompatibleOrganError:
        check(organ.manifest, host, {"base"})
        return
    raise ValueError("expected a tuned base to differ from the organ's")


def _added(organ: Organ, base: Checkpoint, tuned: Checkpoint) -> Source:
    """What an organ changed, added to what tuning made of the same layers.

    Source: Ilharco et al. (2023), task arithmetic, arXiv:2212.04089.
    """
    before, after = (_named(_cut(host, organ.manifest.span)) for host in (base, tuned))
    changed = {
        name: after.read(name) + organ.tensors.read(name) - before.read(name)
        for name in organ.tensors.names()
    }
    return replace(organ.source, tensors=Held(changed))


def _named(source: Source) -> Tensors:
    """A source's tensors, named as an organ's."""
    where = {
        f"{n}.{rest}": name for n, layer in source.layers.items() for rest, name in layer.items()
    }
    return Renamed(source.tensors, where)


def _tried(
    recipient: str,
    host: Checkpoint,
    sources: Mapping[str, Source],
    texts: Mapping[str, Sequence[str]],
    say: Say,
) -> list[Row]:
    """Each organ in place of the recipient's own layers, measured on each set of texts."""
    plans = {
        name: transplant(host.layers, name, len(one.layers), mode="replace", position=one.start)
        for name, one in sources.items()
    }
    rows: list[Row] = []
    for text, documents in texts.items():
        say(f"measuring {recipient} on {text}")
        blocks = document_blocks(host.tokenizer, documents, BLOCK_TOKENS, 1)
        found = read_plans(host, sources, plans, blocks)
        for name, reading in found.after.items():
            change = compare(found.before, reading, 0)
            rows.append(
                {
                    "recipient": recipient,
                    "organ of": name,
                    "text": text,
                    "without": round(found.before.perplexity, 2),
                    "with": round(reading.perplexity, 2),
                    "change": percent(change),
                    "ratio": [
                        round(1 + one, 4) for one in (change.change, change.low, change.high)
                    ],
                }
            )
    return rows


def encoders(out: Path) -> list[Row]:
    """What is said of models that are no decoders, of which only the config is read.

    Raises:
        ValueError: One was opened.
    """
    from transformers import AutoConfig

    rows: list[Row] = []
    for family in REFUSED:
        with tempfile.TemporaryDirectory() as folder:
            AutoConfig.for_model(family).save_pretrained(folder)
            try:
                open_checkpoint(folder)
            except UnknownFamilyError as error:
                rows.append({"family": family, "refused": str(error)})
            else:
                raise ValueError(f"expected {family} to be refused")
    atomic.write(out / "encoders.json", json.dumps(rows, indent=1).encode())
    return rows


def _texts(domain: str, say: Say) -> list[str]:
    return [record.text for record in domains.BUILTIN[domain](say)]


def _with(recipe: Recipe, tokens: int, seed: int) -> Recipe:
    return replace(recipe, tokens=tokens, seed=seed, threads=THREADS, device="cpu")
