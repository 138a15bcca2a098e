"""``organ train``, ``organ evaluate`` and ``organ audit``."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from not_core.commands import private as options
from not_core.commands.program import Json, goes_on, progress, report, seconds, span
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
    scale: Annotated[
        float | None,
        typer.Option(
            help="Part of what factors learned that stays at the end: less keeps more of what the "
            "model could do before. Default: 0.9 in place; 1 elsewhere and under privacy."
        ),
    ] = None,
    precision: Annotated[
        PrecisionName, typer.Option(help="Type that the frozen model computes in.")
    ] = PrecisionName.AUTO,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, more time.")
    ] = False,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compile the layers first: on a processor a minute, for 2% a step; not measured "
            "on a GPU.",
        ),
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
    from not_core.learning.recipe import Recipe
    from not_core.verbs import learning

    try:
        recipe = Recipe(
            scaffold=scaffold.value,
            rank=rank or None,
            tokens=tokens if tokens or epochs or budget else 16_384,
            epochs=epochs,
            seconds=seconds(budget) if budget else None,
            learning_rate=learning_rate,
            block_tokens=block_tokens,
            scale=scale,
            precision=precision.value,
            gradient_checkpointing=gradient_checkpointing,
            compiled=compiled,
            seed=seed,
            device=device,
            threads=threads,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    with goes_on(kept_in(work, guard)), progress("training", recipe.tokens, "tokens") as bar:
        heard = 0

        def texts_read(texts: int) -> None:
            nonlocal heard
            heard += texts
            bar(0, f"audit: {heard} of {2 * canaries} texts")

        trained = learning.train(
            model,
            data,
            out,
            text_field=text_field,
            span=wanted,
            recipe=recipe,
            ship=form.value,
            validation=validation,
            canaries=canaries,
            guard=guard,
            unit_field=unit_field,
            ledger=ledger,
            bound=dp_bound,
            work=work,
            name=name,
            domain=domain,
            licence=licence,
            version=version,
            advance=lambda n, loss: bar(n, f"loss {loss:.3f}"),
            read=texts_read,
        )
    report(trained.facts(), as_json)


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
    from not_core.verbs import measurement

    with progress("evaluating", None, "tokens") as bar:
        reading = measurement.evaluate(
            model,
            data,
            text_field=text_field,
            block_tokens=block_tokens,
            whole_documents=whole_documents,
            limit=limit,
            device=device,
            threads=threads,
            advance=lambda read, total: bar(read, total=total),
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
    from not_core.verbs import measurement

    found = measurement.audit(organ, report=kept)
    report(audits.summary(found), as_json)
    if found.verdict == "contradicts the claim":
        raise OrganError("the audit contradicts what the organ claims; do not ship or use it")
