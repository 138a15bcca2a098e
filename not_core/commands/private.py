"""Options of private training, which several commands take."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
import typer
from click.core import ParameterSource

if TYPE_CHECKING:
    from not_core.learning.guard import Guard


class ClippingName(StrEnum):
    """How a sum of clipped gradients is made."""

    LOOP = "loop"
    SAMPLES = "samples"
    GHOST = "ghost"


DpEpsilon = Annotated[
    float | None,
    typer.Option(help="Differential privacy: most that a unit may cost; finds the noise."),
]
DpNoise = Annotated[
    float | None,
    typer.Option("--dp-noise-multiplier", help="Instead of an epsilon: the noise, over the clip."),
]
DpDelta = Annotated[float, typer.Option(help="Probability that the epsilon leaves out.")]
DpClip = Annotated[float, typer.Option(help="Largest norm of one unit's gradient.")]
DpUnits = Annotated[int, typer.Option("--dp-units-per-step", help="Units a step, on average.")]
DpClipping = Annotated[
    ClippingName,
    typer.Option(help="One unit at a time; or side by side, holding gradients or only norms."),
]
MaxBlocks = Annotated[
    int, typer.Option("--max-blocks-per-unit", help="Blocks of a unit that make one gradient.")
]
UnitField = Annotated[
    str | None,
    typer.Option(help="Field that names whom a record is about: all of theirs is one unit."),
]
LedgerFolder = Annotated[
    Path | None,
    typer.Option("--ledger", help="Folder of the privacy ledger; see `organ ledger --help`."),
]
DpBound = Annotated[
    float, typer.Option(help="Most that a unit may cost over all runs in the ledger.")
]


ONLY_PRIVATE = frozenset(
    {
        "dp_delta",
        "dp_clip",
        "dp_units_per_step",
        "dp_clipping",
        "dp_bound",
        "max_blocks_per_unit",
        "unit_field",
        "ledger",
    }
)
"""Parameters that mean nothing without a guard: who gives one expects to be protected."""


def guard_of(
    *,
    epsilon: float | None,
    noise_multiplier: float | None,
    delta: float,
    clip: float,
    units_per_step: int,
    most_blocks: int,
    clipping: ClippingName,
    unit_field: str | None,
    validation: float | None,
) -> "Guard | None":
    """The guard that options ask for, if any; a usage error where they contradict it.

    Raises:
        PrivacyError: It would guard nothing.
    """
    from not_core.learning.guard import Guard

    if epsilon is None and noise_multiplier is None:
        if given := _given():
            raise typer.BadParameter(f"{given} takes --dp-epsilon or --dp-noise-multiplier")
        return None
    guard = Guard(
        epsilon=epsilon,
        noise_multiplier=noise_multiplier,
        delta=delta,
        unit="record" if unit_field is None else "subject",
        clip=clip,
        units_per_step=units_per_step,
        most_blocks_per_unit=most_blocks,
        clipping=clipping.value,
    )
    if validation:
        raise typer.BadParameter("--validation chooses by records, which --dp-epsilon cannot bound")
    return guard


def _given() -> str:
    """Names of the options of private training that the command line holds, but for the two."""
    context = click.get_current_context()
    return ", ".join(
        f"--{name.replace('_', '-')}"
        for name in context.params
        if name in ONLY_PRIVATE
        and context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    )
