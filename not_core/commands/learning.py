"""``organ train``, ``organ evaluate`` and ``organ audit``."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from not_core.commands import private as options
from not_core.commands.program import Json, goes_on, new_place, progress, report, seconds, span
from not_core.commands.surgery import Model, Out

Data = Annotated[
    Path, typer.Option(help="Private records: JSONL, CSV, Parquet, text, or a folder of one kind.")
]
TextField = Annotated[str, typer.Option(help="Field that holds a record's text.")]


class ScaffoldName(StrEnum):
    """What stands around an organ in training."""

    IN_SITU = "in-situ"
    ALONE = "alone"
    EMULATOR = "emulator"
    INSERTED = "inserted"


class ShipName(StrEnum):
    """What an organ folder holds."""

    FACTORS = "factors"
    LAYERS = "layers"


class PrecisionName(StrEnum):
    """What the frozen model computes in."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; default: torch's choice.")]


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command()(train)
    app.command()(evaluate)
    app.command()(audit)


def kept_in(work: Path | None, guard: object | None) -> str:
    """What is kept of a training that is stopped, and how to go on."""
    if work:
        return (
            f"what was learned up to a minute ago is kept in {work}; the same command goes on there"
        )
    charged = "; what the ledger was charged stays charged" if guard else ""
    return f"nothing is kept without --work, a folder to go on from{charged}"


def train(
    model: Model,
    data: Data,
    out: Out,
    text_field: TextField = "text",
    span_: Annotated[
        str | None,
        typer.Option("--span", help="Layers START:STOP; default: all but the lowest sixth."),
    ] = None,
    scaffold: Annotated[
        ScaffoldName, typer.Option(help="What stands around the organ while it learns.")
    ] = ScaffoldName.IN_SITU,
    rank: Annotated[
        int, typer.Option(min=0, help="Rank of the factors that learn; 0 trains layers whole.")
    ] = 16,
    ship: Annotated[
        ShipName | None,
        typer.Option(
            help="What the folder holds: small factors, which expand on this very model only, or "
            "whole layers; default: what was trained."
        ),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="Training tokens, about; default: 16384.")
    ] = None,
    epochs: Annotated[
        float | None, typer.Option(min=0, help="Passes over the records, instead of tokens.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Time to take, such as 90s, 5m or 2h, instead of tokens.")
    ] = None,
    validation: Annotated[
        float,
        typer.Option(min=0, max=0.5, help="Part of the records kept back to stop in time."),
    ] = 0.0,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak; default: 2e-3 for factors, 1e-3 for whole layers.")
    ] = None,
    precision: Annotated[
        PrecisionName, typer.Option(help="Type that the frozen model computes in.")
    ] = PrecisionName.AUTO,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, more time.")
    ] = False,
    canaries: Annotated[
        int,
        typer.Option(
            "--audit",
            min=0,
            help="Canaries to make: a coin plants each or not, and the organ is searched for them. "
            "The report lies beside the organ; 500 can show an epsilon of 4.6, 5000 one of 6.7.",
        ),
    ] = 0,
    dp_epsilon: options.DpEpsilon = None,
    dp_noise_multiplier: options.DpNoise = None,
    dp_delta: options.DpDelta = 1e-6,
    dp_clip: options.DpClip = 1.0,
    dp_units_per_step: options.DpUnits = 8,
    dp_clipping: options.DpClipping = options.ClippingName.LOOP,
    max_blocks_per_unit: options.MaxBlocks = 1,
    unit_field: options.UnitField = None,
    ledger: options.LedgerFolder = None,
    dp_bound: options.DpBound = 10.0,
    block_tokens: Annotated[
        int, typer.Option(min=8, help="Longest block of a document, in tokens.")
    ] = 256,
    work: Annotated[
        Path | None,
        typer.Option(help="Private folder to go on from, should the process die."),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Same seed and records: same organ, but with privacy.")
    ] = 0,
    name: Annotated[str, typer.Option(help="The organ's name.")] = "organ",
    domain: Annotated[str, typer.Option(help="What its records are about.")] = "unspecified",
    licence: Annotated[str, typer.Option(help="Licence of the organ.")] = "unspecified",
    version: Annotated[int, typer.Option(min=1, help="Version; later ones are higher.")] = 1,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Train an organ on private records: the model around it stays frozen.

    With --dp-epsilon, what the organ can tell of a record, or of a subject, is bounded; the ledger
    is charged before the first step. Without it, the organ may memorise records.

    Example: organ train --model SmolLM2/ --data hospital.jsonl --dp-epsilon 8 --out organ/
    """
    new_place(out)
    guard = options.guard_of(
        epsilon=dp_epsilon,
        noise_multiplier=dp_noise_multiplier,
        delta=dp_delta,
        clip=dp_clip,
        units_per_step=dp_units_per_step,
        most_blocks=max_blocks_per_unit,
        clipping=dp_clipping,
        unit_field=unit_field,
        validation=validation,
    )
    wanted = span(span_) if span_ else None
    form = ship or (ShipName.FACTORS if rank else ShipName.LAYERS)
    if form is ShipName.FACTORS and not rank:
        raise typer.BadParameter("--ship factors takes a --rank above 0")
    from not_core.learning import audit as audits
    from not_core.learning.guard import check_base
    from not_core.learning.private import train_privately
    from not_core.learning.recipe import Recipe, default_span
    from not_core.learning.records import read_records, split_part
    from not_core.learning.training import train as train_organ
    from not_core.manifest import TENSORS, Span
    from not_core.surgery import organ as organs
    from not_core.surgery.checkpoint import open_checkpoint

    try:
        recipe = Recipe(
            scaffold=scaffold.value,
            rank=rank or None,
            tokens=tokens if tokens or epochs or budget else 16_384,
            epochs=epochs,
            seconds=seconds(budget) if budget else None,
            learning_rate=learning_rate,
            block_tokens=block_tokens,
            precision=precision.value,
            gradient_checkpointing=gradient_checkpointing,
            seed=seed,
            device=device,
            threads=threads,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if guard:
        recipe = replace(recipe, head_sample=None)
    label = organs.make_label(name=name, domain=domain, licence=licence, version=version)
    host = open_checkpoint(model)
    cut = default_span(host.layers, recipe.rank)
    if wanted:
        cut = Span(start=wanted[0], stop=wanted[1])
    planted = audits.canaries_for(host, canaries, work) if canaries else None
    more = planted.to_plant if planted else ()

    with goes_on(kept_in(work, guard)), progress("training", recipe.tokens, "tokens") as bar:

        def advance(n: int, loss: float) -> None:
            bar(n, f"loss {loss:.3f}")

        if guard:
            check_base(host)
            private = options.private_of(
                guard,
                data,
                text_field,
                unit_field,
                more=more,
                ledger=ledger,
                bound=dp_bound,
                label=name,
            )
            trained = train_privately(host, cut, private, recipe, work=work, advance=advance)
        else:
            parts = split_part(read_records(data, text_field), validation, seed)
            trained = train_organ(
                host,
                cut,
                (*parts.train, *more),
                recipe,
                validation=parts.held_out,
                work=work,
                advance=advance,
            )
    manifest = organs.describe(
        host,
        cut,
        trained.tensors,
        label,
        training=trained.facts,
        privacy=trained.privacy,
        form=form.value,
    )
    found = None
    if planted:
        organ = organs.Organ(manifest, trained.tensors)
        with goes_on(kept_in(work, guard)), progress("audit", 2 * canaries, "texts") as read:
            found = audits.audited(
                host, organ, planted, claim=audits.claimed(manifest), advance=read
            )
        manifest = replace(manifest, audit=found.digest)
        audits.write_report(audits.beside(out), found)
    organs.write_organ(out, trained.tensors, manifest)
    audits.forget(work)
    trained.finished()
    report(
        {
            "organ": str(out),
            "digest": manifest.digest,
            "span": str(cut),
            "form": manifest.stored.form,
            "artefact_bytes": (out / TENSORS).stat().st_size,
            "tokens": trained.facts.tokens,
            "steps": trained.facts.steps,
            # Of private training these would be exact means of what was drawn.
            **({} if guard else {"loss_first": trained.losses[0]}),
            **({} if guard else {"loss_last": trained.losses[-1]}),
            "validation": list(trained.validation),
            "privacy": manifest.privacy.words,
            "audit": audits.summary(found) if found else None,
        },
        as_json,
    )


def evaluate(
    model: Annotated[str, typer.Argument(help="Model folder, .gguf file or hub id.")],
    data: Data,
    text_field: TextField = "text",
    block_tokens: Annotated[int, typer.Option(min=2, help="Longest block read, in tokens.")] = 256,
    whole_documents: Annotated[
        bool, typer.Option(help="Read all blocks of a document, not the first only.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Read at most so many records.")] = None,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Measure a model's token-weighted perplexity on held-out records, by document.

    Example: organ evaluate grafted/ --data clinic.jsonl --json
    """
    from not_core.learning import device as devices
    from not_core.learning.evaluation import read_losses
    from not_core.learning.records import read_records
    from not_core.surgery.assemble import assemble
    from not_core.surgery.checkpoint import open_checkpoint
    from not_core.surgery.plan import identity

    host = open_checkpoint(model)
    texts = read_records(data, text_field)[:limit]
    with devices.threads(threads):
        body = assemble(identity(host.layers), host, {}).to(devices.pick(device))
        with progress("evaluating", len(texts) * block_tokens, "tokens") as bar:
            reading = read_losses(
                body,
                host.tokenizer,
                texts,
                block_tokens=block_tokens,
                blocks_per_document=None if whole_documents else 1,
                advance=bar,
            )
    report(
        {
            "model": model,
            "perplexity": reading.perplexity,
            "documents": len(reading.losses),
            "tokens": reading.tokens,
        },
        as_json,
    )


def audit(
    organ: Annotated[Path, typer.Argument(help="Organ folder.")],
    kept: Annotated[
        Path | None,
        typer.Option("--report", help="The audit's report; default: ORGAN.audit.json."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what the audit of an organ found, if it is the one that the organ's manifest names.

    Audits are made by `organ train --audit`. Exit code 1 when the audit contradicts the claim.

    Example: organ audit organ/
    """
    from not_core.errors import OrganError
    from not_core.learning import audit as audits
    from not_core.surgery.organ import read_manifest

    found = audits.read_report(kept or audits.beside(organ), read_manifest(organ))
    report(audits.summary(found), as_json)
    if found.verdict == "contradicts the claim":
        raise OrganError("the audit contradicts what the organ claims; do not ship or use it")
