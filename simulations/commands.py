"""The ``organ-simulate`` command line."""

import math
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from not_core.commands import private as options
from not_core.commands.program import Json, errors, listing, new_app, report, run, say, span
from not_core.commands.surgery import ModeName

app = new_app(
    "Play an exchange between many institutions on this machine, with the same client and server "
    "code that institutions run.\n\n"
    "    organ-simulate exchange --out runs/demo\n"
)


ResultsOut = Annotated[Path, typer.Option(help="Folder for results and what is kept.")]
BaseModel = Annotated[str | None, typer.Option(help="Default: the demo's.")]
OrganTokens = Annotated[int, typer.Option(min=256, help="Training tokens an organ.")]
Seed = Annotated[int, typer.Option(min=0, help="Of training.")]


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
    rank: Annotated[
        int, typer.Option(min=0, help="Rank of the factors that learn; 0 trains layers whole.")
    ] = 0,
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
    if beside and dp_epsilon is None:
        raise typer.BadParameter("--beside takes --dp-epsilon: it shows what privacy costs")
    cut = span(span_) if span_ else None
    from client import home as site_home
    from not_core.learning.recipe import default_span
    from not_core.manifest import Span
    from not_core.protocol import Terms
    from not_core.surgery.checkpoint import open_checkpoint
    from simulations import exchange as simulation
    from simulations import report as reports
    from simulations.beside import read_beside
    from simulations.facts import gather
    from simulations.model import base_model
    from simulations.sites import load_sites
    from simulations.watch import Watch

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
            learning_rate=learning_rate,
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
    with watch.shown():
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
    from simulations import domains
    from simulations.model import base_model

    documents = {name: len(read(say)) for name, read in domains.BUILTIN.items()}
    documents["general"] = len(domains.general(say))
    report({"model": base_model(None, say), "documents": documents}, as_json)


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
    from not_core.errors import ExchangeError
    from simulations.exchange import MARKS, check_made
    from simulations.search import Needles
    from simulations.search import search as search_files

    check_made(homes)
    marks = (homes / MARKS).read_text(encoding="utf-8").splitlines()
    if not marks:
        raise ExchangeError("no sentence was planted; run the exchange with --plant 200")
    organs = sorted(homes.glob("sites/*/organs/made/*/organ.safetensors"))
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
        raise ExchangeError("the search does not find what is there, so it proves nothing")


@app.command("bench-speed")
def bench_speed(
    out: Annotated[Path, typer.Option(help="Folder for bench-speed.json.")],
    model: BaseModel = None,
    tokens: Annotated[int, typer.Option(min=256, help="Tokens a measurement.")] = 2048,
    runs: Annotated[int, typer.Option(min=1, help="Measurements of each contestant.")] = 3,
    as_json: Json = False,
) -> None:
    """Measure training and evaluation beside transformers' Trainer and the machine's arithmetic.

    Tokens a second, peak memory, ratios from one run, and a profile. About eight minutes.

    Example: organ-simulate bench-speed --out runs/bench-speed
    """
    from simulations.bench import bench as measure
    from simulations.model import base_model

    report(measure(base_model(model, say), out, tokens, runs, say), as_json)


@app.command("bench-memory")
def bench_memory(
    out: Annotated[
        Path, typer.Option(help="Folder for bench-memory.json and, while it runs, 20 GB of files.")
    ],
    runs: Annotated[int, typer.Option(min=1, help="Measurements of each contestant.")] = 3,
    keep: Annotated[bool, typer.Option(help="Keep the generated checkpoint.")] = False,
    as_json: Json = False,
) -> None:
    """Measure cutting and grafting on a generated 3 B checkpoint: peak memory, seconds, bytes read.

    Beside them from_pretrained, save_pretrained and mergekit, which must make the same tensors.
    Exit code 1 when cutting or grafting takes more than organ, embeddings and 500 MB.

    Example: organ-simulate bench-memory --out runs/bench-memory
    """
    from simulations.bench_memory import measure

    report(measure(out, runs, keep, say), as_json)


@app.command()
def compose(
    out: Annotated[Path, typer.Option(help="Folder for compose.json, organs and readings.")],
    model: BaseModel = None,
    tokens: Annotated[int, typer.Option(min=256, help="Training tokens an organ.")] = 16_384,
    seeds: Annotated[int, typer.Option(min=1, help="Times that all is trained anew.")] = 2,
    as_json: Json = False,
) -> None:
    """Measure several organs in one host: other spans, stacked inserts, average and TIES.

    About eight minutes a seed on two cores; a run that was cut off goes on.

    Example: organ-simulate compose --out runs/compose
    """
    from simulations.compose import experiment
    from simulations.model import base_model

    listing(experiment(base_model(model, say), out, tokens, seeds, say), as_json)


@app.command()
def positions(
    out: ResultsOut,
    model: BaseModel = None,
    tokens: OrganTokens = 16_384,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Try organs at every position: trained in place, inserted, as in the paper, and untrained.

    Example: organ-simulate positions --out docs/results/positions
    """
    from simulations.model import base_model
    from simulations.paper import positions as experiment

    listing(experiment(base_model(model, say), out, tokens, seed, say), as_json)


@app.command()
def transfer(
    out: ResultsOut,
    model: BaseModel = None,
    tokens: OrganTokens = 16_384,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Try organs of four domains on all domains, and in a base that was tuned further.

    Example: organ-simulate transfer --out docs/results/transfer
    """
    from simulations.model import base_model
    from simulations.paper import transfer as experiment

    listing(experiment(base_model(model, say), out, tokens, seed, say), as_json)


@app.command()
def encoders(out: ResultsOut, as_json: Json = False) -> None:
    """Try to open models that are no decoders, which are refused, and list what is said of them.

    Example: organ-simulate encoders --out docs/results/encoders
    """
    from simulations.paper import encoders as experiment

    listing(experiment(out), as_json)


@app.command("compare")
def compare_methods(
    out: Annotated[Path, typer.Option(help="Folder for the table and one file a measurement.")],
    model: BaseModel = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="One domain, one seed, few tokens: ten minutes.")
    ] = False,
    searching: Annotated[
        bool, typer.Option("--search", help="Choose ranks and learning rates on validation text.")
    ] = False,
    kept_only: Annotated[
        bool, typer.Option("--kept-only", help="Measure nothing; tell what is measured already.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare organs with LoRA and full fine-tuning on the same records, tokens and seconds.

    Four domains, three seeds; hours on two cores. A run that was cut off goes on. With the first
    seed, every fitted model also answers multiple-choice questions on its domain. Needs
    organ-exchange[comparison].

    Example: organ-simulate compare --quick --out runs/quality
    """
    from simulations import quality
    from simulations.model import base_model
    from simulations.results import brief

    base = base_model(model, say)
    if searching:
        listing(quality.search(base, out, say), as_json)
    else:
        rows = quality.quality(base, out, say, quick=quick, kept_only=kept_only)
        listing(rows if as_json else [brief(row) for row in rows], as_json)
        say(f"the whole table is in {out / 'quality.md'}")


@app.command()
def federated(
    out: Annotated[Path, typer.Option(help="Folder for the tables, the plot and all results.")],
    model: BaseModel = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Three sites, two rounds, few tokens: 8 minutes.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare one exchange of organs with federated averaging of LoRA, Flower's own, until flat.

    The same sites, records and tokens; perplexity over bytes and over seconds. Hours on one core.
    A run that was cut off goes on.

    Example: organ-simulate federated --quick --out runs/federated
    """
    from simulations.federated import against_fedavg
    from simulations.federated_report import sentence
    from simulations.model import base_model

    found = against_fedavg(base_model(model, say), out, say, quick=quick)
    listing(found["table"], as_json)
    for row in found["comparison"]:
        say(sentence(row))


@app.command()
def clinic(
    out: Annotated[Path, typer.Option(help="Folder for table, plot and one file a measurement.")],
    model: BaseModel = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="20 records, one seed, a small organ.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure what a hospital's organ, and recovery after it, is worth to a clinic of few records.

    20, 50 and 200 records, three seeds; hours on one core. A run that was cut off goes on.

    Example: organ-simulate clinic --out docs/results/clinic
    """
    from simulations import clinic as clinics
    from simulations.model import base_model

    listing(clinics.experiment(base_model(model, say), out, say, quick=quick), as_json)


@app.command()
def attack(
    out: Annotated[Path, typer.Option(help="Folder for table, plot and one file a measurement.")],
    model: BaseModel = None,
    claims: Annotated[
        str, typer.Option(help="Epsilons to put to the test, with commas between.")
    ] = "1,4,8",
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer canaries, records and passes: two minutes.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Attack organs: tell their records from others, make them recite, bound epsilon from below.

    Without noise the audit must find more than is claimed; that is its control. A run that was cut
    off goes on.

    Example: organ-simulate attack --claims 1,8 --out runs/attack
    """
    try:
        tested = [float(one) for one in claims.split(",")]
    except ValueError:
        raise typer.BadParameter(f"expected numbers such as 1,8, got {claims}") from None
    if not all(0 <= one < math.inf for one in tested):
        raise typer.BadParameter(f"expected claims of at least 0, got {claims}")
    from simulations import attack as attacks
    from simulations.model import base_model

    listing(
        attacks.experiment(base_model(model, say), out, say, claims=tested, quick=quick), as_json
    )


@app.command("bench-dp")
def bench_dp(
    out: Annotated[Path, typer.Option(help="Folder for tables, plot and one file a measurement.")],
    model: BaseModel = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="One domain, seed and epsilon, few tokens: ten minutes.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure what differential privacy costs an organ and LoRA: time, memory and perplexity.

    Three ways to clip; epsilon 1, 3, 8 and none on two domains, three seeds; hours on one core. A
    run that was cut off goes on. Needs organ-exchange[comparison].

    Example: organ-simulate bench-dp --quick --out runs/privacy
    """
    from simulations import bench_dp as private
    from simulations.model import base_model

    found = private.experiment(base_model(model, say), out, say, quick=quick)
    if as_json:
        report(found, as_json)
        return
    listing(found["cost"], as_json)
    listing(found["utility"], as_json)
    for line in found["said"]:
        say(line)


@app.command()
def readme(
    path: Annotated[Path, typer.Argument(help="The README to refresh.")] = Path("README.md"),
    as_json: Json = False,
) -> None:
    """Put the table of kept results into the README.

    Example: organ-simulate readme
    """
    from simulations.results import QUALITY, refresh

    report({"changed": refresh(path, path.parent / QUALITY)}, as_json)


def main() -> None:
    """Entry point of ``organ-simulate``."""
    run(app)
