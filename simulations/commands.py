"""The ``organ-simulate`` command line."""

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from not_core.commands import private as options
from not_core.commands.program import (
    Json,
    errors,
    goes_on,
    new_app,
    progress,
    report,
    run,
    say,
    span,
)
from not_core.commands.surgery import ModeName
from simulations import experiment_commands

FETCHED = "what came whole is kept; the same command fetches the rest"

app = new_app(
    "Play an exchange between many institutions on this machine, with the same client and server "
    "code that institutions run.\n\n"
    "    organ-simulate exchange --out runs/demo\n"
)


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
        typer.Option("--span", help="Layers START:STOP; default: three, or with --rank most."),
    ] = None,
    rank: Annotated[
        int, typer.Option(min=0, help="Rank of the factors that learn; 0 trains layers whole.")
    ] = 0,
    tokens: Annotated[int, typer.Option(min=1, help="Training tokens a donor.")] = 12_288,
    learning_rate: Annotated[
        float | None,
        typer.Option(min=1e-7, max=0.5, help="Peak; default: 2e-3 of factors, 1e-3 of layers."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same organ digests.")] = 0,
    mode: Annotated[ModeName, typer.Option(help="Take layers' place, or add.")] = ModeName.REPLACE,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads a site.")] = 1,
    parallel: Annotated[
        int | None, typer.Option(min=1, help="Sites at work at one time; default: the cores.")
    ] = None,
    homes: Annotated[
        Path | None, typer.Option(help="Folder for the sites' homes; default: in the user's cache.")
    ] = None,
    dp_epsilon: Annotated[
        float | None,
        typer.Option(help="Differential privacy at every donor: most that a record may cost."),
    ] = None,
    dp_delta: options.DpDelta = 1e-6,
    dp_units_per_step: options.DpUnits = 4,
    beside: Annotated[
        Path | None,
        typer.Option(help="The --out of the same exchange without privacy: shows what it costs."),
    ] = None,
    plant: Annotated[
        int, typer.Option(min=0, help="Marked sentences to plant in records, for a search.")
    ] = 0,
    keep_messages: Annotated[
        bool, typer.Option("--keep-messages", help="Keep every message the coordinator gets.")
    ] = False,
    served: Annotated[
        bool,
        typer.Option("--served", help="By real servers over TLS, not by the simulation engine."),
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew instead of resuming an earlier run.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run one exchange: donors train, every site receives, transplants, measures and judges.

    A run that was cut off is resumed by the same command: what was trained, delivered or measured
    is not done again.

    With --dp-epsilon, donors train on as many tokens as without, so for about as long. Their noise
    is never the same twice: equal seeds make equal organs only without it.

    Example: organ-simulate exchange --sites sites.toml --model ./my-model --out runs/mine
    """
    if served and keep_messages:
        raise typer.BadParameter("--keep-messages takes the simulation engine, not --served")
    if beside and dp_epsilon is None:
        raise typer.BadParameter("--beside takes --dp-epsilon: it shows what privacy costs")
    cut = span(span_) if span_ else None
    from client import home as site_home
    from not_core.learning.recipe import default_span
    from not_core.manifest import Span, default_learning_rate
    from not_core.protocol import Terms
    from not_core.surgery.checkpoint import open_checkpoint
    from simulations.federation import exchange as simulation
    from simulations.federation import report as reports
    from simulations.federation import served as servers
    from simulations.federation.beside import read_beside
    from simulations.federation.facts import gather
    from simulations.federation.sites import load_sites
    from simulations.federation.watch import Watch
    from simulations.material.model import base_model

    federation = load_sites(sites, data, seed)
    base = base_model(model, say)
    layers = open_checkpoint(base).layers
    scenario = simulation.Scenario(
        federation=federation,
        model=base,
        terms=Terms(
            span=Span(start=cut[0], stop=cut[1]) if cut else default_span(layers, rank or None),
            rank=rank or None,
            tokens=tokens,
            learning_rate=learning_rate or default_learning_rate(rank),
            seed=seed,
        ),
        mode=mode.value,
        donors=site_home.policy(
            asdict(simulation.OPEN)
            | {"epsilon": dp_epsilon, "delta": dp_delta, "units_per_step": dp_units_per_step}
        ),
        homes=(homes or simulation.default_homes(out)).resolve(),
        marks=plant,
        keep_messages=keep_messages,
        threads=threads,
        parallel=parallel or max(1, (os.cpu_count() or 1) // threads),
    )
    other = read_beside(beside, scenario) if beside else None
    if fresh:
        simulation.remove(scenario.homes)
    resumed = simulation.prepare(scenario, say)
    if resumed:
        say("resuming: what is already done is not done again")
    watch = Watch(scenario, errors)
    kept = f"what is finished is kept in {scenario.homes}; the same command goes on there"
    with goes_on(kept), watch.shown():
        if served:
            servers.run(scenario)
        else:
            simulation.run(scenario, watch.notify)
    facts = gather(scenario, resumed=resumed, beside=other)
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
    if dp_epsilon is not None and other is None:
        say("to see what privacy costs: run it without --dp-epsilon, then name that --out --beside")
    say(f"the sites' homes are in {scenario.homes}")


@app.command()
def fetch(as_json: Json = False) -> None:
    """Fetch the demo's model and text into the cache, checked by SHA-256, unless they are there.

    Example: organ-simulate fetch
    """
    from simulations.material import domains
    from simulations.material.model import base_model

    sources = {**domains.BUILTIN, "general": domains.general}
    documents = {}
    with goes_on(FETCHED), progress("fetching", len(sources) + 1, "sources") as bar:
        for name, read in sources.items():
            documents[name] = len(read(say))
            bar(1, name)
        model = base_model(None, say)
    report({"model": model, "documents": documents}, as_json)


@app.command()
def tutorial(
    out: Annotated[Path, typer.Argument(help="Folder to make; it must not exist yet.")],
    as_json: Json = False,
) -> None:
    """Make the folder that the guides work in: the demo's model, and records of two institutions.

    Example: organ-simulate tutorial runs/tutorial
    """
    from simulations.material import tutorial as folders

    report({"folder": str(out), "records": folders.write(out, say)}, as_json)


@app.command()
def search(
    homes: Annotated[Path, typer.Argument(help="The homes of a simulated exchange.")],
    as_json: Json = False,
) -> None:
    """Search all that the coordinator stored and kept for marked sentences and organs' bytes.

    Run the exchange with --plant 200 --keep-messages first. The same search over the sites' own
    folders shows that it can find. Exit code 1 when the coordinator has anything, or when the
    sites' own folders lack a sentence.

    Example: organ-simulate search HOMES
    """
    from client.store import Store
    from not_core.errors import ExchangeError
    from not_core.manifest import TENSORS
    from simulations.federation.exchange import MARKS, check_made
    from simulations.federation.leaks import Needles
    from simulations.federation.leaks import search as search_files

    check_made(homes)
    marks = (homes / MARKS).read_text(encoding="utf-8").splitlines()
    if not marks:
        raise ExchangeError("no sentence was planted; run the exchange with --plant 200")
    sites = sorted(homes.glob("sites/*"))
    organs = [folder / TENSORS for site in sites for folder in Store(site).all_made()]
    needles = Needles(marks, organs)
    outside = search_files([homes / "coordinator"], needles)
    inside = search_files([homes / "sites", homes / "private"], needles)
    report(
        {
            "sentences": len(marks),
            "organs": len(organs),
            "at the coordinator": asdict(outside),
            "at the sites": asdict(inside),
        },
        as_json,
    )
    if outside.sentences or outside.organ_blocks:
        raise ExchangeError("the coordinator holds what it must not; see the report")
    if inside.sentences < len(marks) or not inside.organ_blocks:
        raise ExchangeError(
            "the search does not find what is there, so it proves nothing; run the exchange anew "
            "with --plant, --keep-messages and --fresh"
        )


experiment_commands.add_to(app)


def main() -> None:
    """Entry point of ``organ-simulate``."""
    run(app)
