"""The ``organ-simulate`` command line."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from not_core.commands.program import Json, errors, new_app, run, span
from not_core.commands.surgery import ModeName

app = new_app(
    "Play an exchange between many institutions on this machine, with the same client and server "
    "code that institutions run.\n\n"
    "    organ-simulate exchange --out runs/demo\n"
)


@app.callback()
def _group() -> None:
    pass


@app.command()
def exchange(
    out: Annotated[Path, typer.Option(help="Folder for report.json, .html and .png.")],
    sites: Annotated[
        Path | None, typer.Option(help="Your own federation; default: the demo's five sites.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model folder, .gguf file or hub id; default: the demo's.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder with records named after the sites.")
    ] = None,
    span_: Annotated[
        str | None,
        typer.Option("--span", help="Layers START:STOP; default: three, a third of the way up."),
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Training tokens a donor.")] = 12_288,
    learning_rate: Annotated[
        float, typer.Option(min=1e-7, max=0.5, help="Peak learning rate.")
    ] = 1e-3,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same organ digests.")] = 0,
    mode: Annotated[ModeName, typer.Option(help="Take layers' place, or add.")] = ModeName.REPLACE,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads a site.")] = 1,
    parallel: Annotated[
        int | None, typer.Option(min=1, help="Sites at work at one time; default: the cores.")
    ] = None,
    homes: Annotated[
        Path | None, typer.Option(help="Folder for the sites' homes; default: in the user's cache.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew instead of resuming an earlier run.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run one exchange: donors train, every site receives, transplants, measures and judges.

    A run that was cut off is resumed by the same command: what was trained, delivered or measured
    is not done again.

    Example: organ-simulate exchange --sites sites.toml --model ./my-model --out runs/mine
    """
    cut = span(span_) if span_ else None
    from not_core.learning.training import default_span
    from not_core.manifest import Span
    from not_core.protocol import Terms
    from not_core.surgery.checkpoint import open_checkpoint
    from simulations import exchange as simulation
    from simulations import report as reports
    from simulations.facts import gather
    from simulations.model import base_model
    from simulations.sites import load_sites
    from simulations.watch import Watch

    def say(line: str) -> None:
        errors.print(line, highlight=False, markup=False)

    federation = load_sites(sites, data, seed)
    base = base_model(model, say)
    layers = open_checkpoint(base).layers
    plan = simulation.Plan(
        federation=federation,
        model=base,
        terms=Terms(
            span=Span(start=cut[0], stop=cut[1]) if cut else default_span(layers),
            tokens=tokens,
            learning_rate=learning_rate,
            seed=seed,
        ),
        mode=mode.value,
        homes=(homes or simulation.default_homes(out)).resolve(),
        threads=threads,
        parallel=parallel or max(1, (os.cpu_count() or 1) // threads),
    )
    if fresh:
        simulation.remove(plan.homes)
    if simulation.prepare(plan, say):
        say("resuming: what is already done is not done again")
    watch = Watch(plan, errors)
    with watch.shown():
        simulation.run(plan, watch.notify)
    facts = gather(plan)
    out.mkdir(parents=True, exist_ok=True)
    reports.write_json(facts, out / "report.json")
    (out / "report.html").write_text(reports.render_html(facts), encoding="utf-8")
    reports.draw_png(facts, out / "report.png")
    console = Console(width=None if sys.stdout.isatty() else 100)
    if as_json:
        console.print_json(data=facts)
    else:
        reports.print_matrix(facts, console)
        console.print(f"wrote {out}/report.json, report.html and report.png", highlight=False)
    say(f"the sites' homes are in {plan.homes}")


def main() -> None:
    """Entry point of ``organ-simulate``."""
    run(app)
