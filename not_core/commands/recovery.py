"""``organ recover``."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from not_core.commands import private as options
from not_core.commands.learning import Data, Device, TextField, Threads, kept_in
from not_core.commands.program import Json, goes_on, progress, report, seconds
from not_core.commands.surgery import Out


class WhatName(StrEnum):
    """What learns in a recovery."""

    ORGAN = "organ"
    ORGAN_NORMS = "organ-norms"
    NORMS = "norms"
    ALL = "all"


def add_to(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command()(recover)


def recover(
    graft: Annotated[str, typer.Argument(help="Grafted model folder, as `transplant` wrote it.")],
    data: Data,
    out: Out,
    text_field: TextField = "text",
    what: Annotated[
        WhatName,
        typer.Option(help="What learns: the organs' layers or their norms, all norms, all layers."),
    ] = WhatName.ORGAN,
    rank: Annotated[
        int, typer.Option(min=0, help="Rank of the factors that learn; 0 trains layers whole.")
    ] = 16,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="Training tokens, about, instead of epochs.")
    ] = None,
    epochs: Annotated[
        float | None, typer.Option(min=0, help="Passes over the records; default: 3.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Time to take, such as 90s, 5m or 2h, instead of epochs.")
    ] = None,
    validation: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=0.5,
            help="Part of the records kept back to choose by; default: 0.2, and 0, which is a "
            "risk, with differential privacy.",
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Peak; default: 2e-3 for factors, 1e-3 for layers, 5e-3 for norms."),
    ] = None,
    keep_replaced: Annotated[
        bool, typer.Option(help="Set aside the layers that change, for `organ excise`.")
    ] = True,
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
    work: Annotated[
        Path | None,
        typer.Option(help="Private folder to go on from, should the process die."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same records: same model.")] = 0,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Tune a grafted model briefly on a site's own records, however few.

    A part of the records is kept back; where nothing reads better on it than the graft did, a copy
    of the graft is written. Without --dp-epsilon, the result may memorise records.

    Example: organ recover grafted/ --data clinic.jsonl --out recovered/
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
    from not_core.learning import recovery
    from not_core.learning.recipe import Recipe
    from not_core.verbs import learning

    try:
        recipe = Recipe(
            rank=rank or None,
            tokens=tokens,
            epochs=epochs if tokens or epochs or budget else recovery.PASSES,
            seconds=seconds(budget) if budget else None,
            learning_rate=learning_rate,
            patience=recovery.PATIENCE,
            seed=seed,
            device=device,
            threads=threads,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    with goes_on(kept_in(work, guard)), progress("recovering", recipe.tokens, "tokens") as bar:
        recovered = learning.recover(
            graft,
            data,
            out,
            text_field=text_field,
            what=what.value,
            recipe=recipe,
            validation=validation,
            keep_replaced=keep_replaced,
            guard=guard,
            unit_field=unit_field,
            ledger=ledger,
            bound=dp_bound,
            work=work,
            advance=lambda n, loss: bar(n, f"loss {loss:.3f}"),
        )
    report(recovered.facts(), as_json)
