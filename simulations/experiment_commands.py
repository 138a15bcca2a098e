"""Commands of ``organ-simulate`` that measure: benchmarks and experiments."""

import math
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from not_core.commands.program import Json, goes_on, listing, report, say

ResultsOut = Annotated[Path, typer.Option(help="Folder for results and what is kept.")]
BaseModel = Annotated[str | None, typer.Option(help="Default: the demo's.")]
OrganTokens = Annotated[int, typer.Option(min=256, help="Training tokens an organ.")]
Seed = Annotated[int, typer.Option(min=0, help="Of training.")]
KeptOnly = Annotated[
    bool, typer.Option("--kept-only", help="Measure nothing; tell what is measured already.")
]


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command("bench-speed")(bench_speed)
    app.command("bench-memory")(bench_memory)
    app.command("bench-seal")(bench_seal)
    app.command("bench-served")(bench_served)
    app.command("bench-coordinator")(bench_coordinator)
    app.command()(resumed(soak))
    app.command()(resumed(compose))
    app.command()(resumed(positions))
    app.command()(resumed(transfer))
    app.command()(encoders)
    app.command("compare")(resumed(compare_methods))
    app.command()(resumed(federated))
    app.command()(resumed(clinic))
    app.command()(resumed(attack))
    app.command("bench-dp")(resumed(bench_dp))
    app.command()(plot)
    app.command()(readme)


def resumed(command: Callable[..., None]) -> Callable[..., None]:
    """A command that goes on where it was stopped, and says so when it is."""

    @wraps(command)
    def run(**given: Any) -> None:
        with goes_on(f"what is finished is kept in {given['out']}; the same command goes on there"):
            command(**given)

    return run


def bench_speed(
    out: Annotated[Path, typer.Option(help="Folder for bench-speed.json.")],
    model: BaseModel = None,
    tokens: Annotated[int, typer.Option(min=256, help="Tokens a measurement.")] = 2048,
    runs: Annotated[int, typer.Option(min=1, help="Measurements of each contestant.")] = 3,
    as_json: Json = False,
) -> None:
    """Measure training and evaluation beside transformers' Trainer and the machine's arithmetic.

    Tokens a second, peak memory, ratios from one run, and a profile. About a quarter of an hour.

    Example: organ-simulate bench-speed --out runs/bench-speed
    """
    from simulations.benches.bench_speed import measure
    from simulations.material.model import base_model

    found = measure(base_model(model, say), out, tokens, runs, say)
    if as_json:
        report(found, as_json)
        return
    listing(found["work"], as_json)
    report(found["arithmetic"], as_json)


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
    from simulations.benches.bench_memory import measure

    report(measure(out, runs, keep, say), as_json)


def bench_seal(
    out: Annotated[Path, typer.Option(help="Folder for results and, while it runs, the files.")],
    size: Annotated[
        int, typer.Option("--bytes", min=1, max=8**11 - 1, help="Bytes of the organ's weights.")
    ] = 2_000_000_000,
    runs: Annotated[int, typer.Option(min=1, help="Measurements of each contestant.")] = 3,
    as_json: Json = False,
) -> None:
    """Measure sealing and opening a large organ: MB/s and peak memory.

    Beside them AES-256-GCM, SHA-256, plain copying and pyrage. Needs six times --bytes of space
    meanwhile. Exit code 1 when sealing or opening takes more than 200 MB of memory.

    Example: organ-simulate bench-seal --out docs/results/seal
    """
    from simulations.benches.bench_seal import measure

    report(measure(out, size, runs, say), as_json)


def bench_served(
    out: Annotated[
        Path, typer.Option(help="Folder for bench-served.json and, meanwhile, 20 GB of files.")
    ],
    megabytes: Annotated[int, typer.Option(min=1, help="About so large an organ.")] = 2000,
    as_json: Json = False,
) -> None:
    """Pass a large organ from site to site by real servers: every process's memory, and seconds.

    Exit code 1 when a process that does not need the model took more than 700 MB.

    Example: organ-simulate bench-served --out docs/results/served
    """
    from simulations.benches.bench_served import measure, shown

    result = measure(out, megabytes, say)
    if as_json:
        report(result, as_json)
    else:
        typer.echo(shown(result))


def bench_coordinator(
    out: Annotated[Path, typer.Option(help="Folder for results and, meanwhile, the homes.")],
    points: Annotated[
        str, typer.Option(help="Numbers of sites and donors, with commas between.")
    ] = "10x10,50x10,50x50,200x10,512x2",
    size: Annotated[
        int, typer.Option("--bytes", min=1, help="Bytes of each organ's weights.")
    ] = 1_000_000,
    runs: Annotated[int, typer.Option(min=1, help="Measurements of each small point.")] = 3,
    as_json: Json = False,
) -> None:
    """Measure what exchanges among many sites cost the coordinator: time, memory, bytes.

    Sites are real in all but models and records: keys, certificates, sealed organs, receipts. About
    ten minutes on one core.

    Example: organ-simulate bench-coordinator --points 10x10 --runs 1 --out runs/coordinator
    """
    asked = []
    for point in points.split(","):
        sites, _, donors = point.partition("x")
        if not (sites.isdecimal() and donors.isdecimal() and 0 < int(donors) <= int(sites) > 1):
            raise typer.BadParameter(
                f"expected sites x donors, at least 2 sites and no more donors, got {point}"
            )
        asked.append((int(sites), int(donors)))
    from simulations.benches.bench_coordinator import measure
    from simulations.benches.bench_coordinator_results import markdown

    result = measure(out, asked, size, runs, say)
    if as_json:
        report(result, as_json)
    else:
        typer.echo(markdown(result))


def soak(
    out: Annotated[Path, typer.Option(help="Folder for soak.json and, meanwhile, the homes.")],
    exchanges: Annotated[int, typer.Option(min=4, help="How many.")] = 200,
    as_json: Json = False,
) -> None:
    """Run many exchanges of small organs by the same servers: memory and open files must be flat.

    About an hour on two cores; a run that was cut off goes on. Exit code 1 when a process grew.

    Example: organ-simulate soak --out docs/results/soak
    """
    from simulations.benches import soak as servers

    result = servers.soak(out, exchanges, say)
    if as_json:
        report(result, as_json)
    else:
        typer.echo(servers.shown(result))


def compose(
    out: Annotated[Path, typer.Option(help="Folder for compose.json, organs and readings.")],
    model: BaseModel = None,
    tokens: Annotated[int, typer.Option(min=256, help="Training tokens an organ.")] = 16_384,
    seeds: Annotated[int, typer.Option(min=1, help="Times that all is trained anew.")] = 3,
    as_json: Json = False,
) -> None:
    """Measure several organs in one host: other spans, stacked inserts, average and TIES.

    About eight minutes a seed on two cores; a run that was cut off goes on.

    Example: organ-simulate compose --out runs/compose
    """
    from simulations.experiments import compose_results
    from simulations.experiments.compose import experiment
    from simulations.material.model import base_model

    rows = experiment(base_model(model, say), out, tokens, seeds, say)
    listing(rows if as_json else compose_results.brief(rows), as_json)
    for line in compose_results.aims(rows):
        say(line)


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
    from simulations.experiments.paper import positions as experiment
    from simulations.material.model import base_model

    listing(experiment(base_model(model, say), out, tokens, seed, say), as_json)


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
    from simulations.experiments.paper import transfer as experiment
    from simulations.material.model import base_model

    listing(experiment(base_model(model, say), out, tokens, seed, say), as_json)


def encoders(out: ResultsOut, as_json: Json = False) -> None:
    """Try to open models that are no decoders, which are refused, and list what is said of them.

    Example: organ-simulate encoders --out docs/results/encoders
    """
    from simulations.experiments.paper import encoders as experiment

    listing(experiment(out), as_json)


def compare_methods(
    out: Annotated[Path, typer.Option(help="Folder for the table and one file a measurement.")],
    model: BaseModel = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="One domain, one seed, few tokens: ten minutes.")
    ] = False,
    searching: Annotated[
        bool,
        typer.Option(
            "--search", help="Try ranks, learning rates and scales instead, on validation text."
        ),
    ] = False,
    kept_only: KeptOnly = False,
    as_json: Json = False,
) -> None:
    """Compare organs with LoRA and full fine-tuning on the same records, tokens and seconds.

    Four domains, three seeds; hours on two cores. A run that was cut off goes on. With the first
    seed, every fitted model also answers multiple-choice questions on its domain. Needs
    organ-exchange[comparison].

    Example: organ-simulate compare --quick --out runs/quality
    """
    _alone(searching, quick=quick, kept_only=kept_only)
    from simulations.experiments import quality, quality_results
    from simulations.experiments.cells import stem
    from simulations.material.model import base_model

    if searching:
        listing(quality.search(base_model(model, say), out, say), as_json)
    else:
        base = "" if kept_only else base_model(model, say)
        rows = quality.quality(base, out, say, quick=quick, kept_only=kept_only)
        listing(rows if as_json else [quality_results.shown(row) for row in rows], as_json)
        say(f"the whole table is in {out / stem('quality', quick=quick)}.md")


def federated(
    out: Annotated[Path, typer.Option(help="Folder for the tables, the plot and all results.")],
    model: BaseModel = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Three sites, two rounds, few tokens: 8 minutes.")
    ] = False,
    only: Annotated[
        str, typer.Option(help="Sites with commas between, as of one field; default: all.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Compare one exchange of organs with federated averaging of LoRA, Flower's own, until flat.

    The same sites, records and tokens; perplexity over bytes and over seconds. Hours on one core.
    A run that was cut off goes on.

    Example: organ-simulate federated --only hospital,clinic --out runs/medicine
    """
    from simulations.experiments.federated import against_fedavg
    from simulations.experiments.federated_results import sentence
    from simulations.material.model import base_model

    sites = [name.strip() for name in only.split(",") if name.strip()]
    found = against_fedavg(base_model(model, say), out, say, quick=quick, only=sites)
    listing(found["table"], as_json)
    for row in found["comparison"]:
        say(sentence(row))


def clinic(
    out: Annotated[Path, typer.Option(help="Folder for table, plot and one file a measurement.")],
    model: BaseModel = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="20 records, one seed, a small organ.")
    ] = False,
    kept_only: KeptOnly = False,
    as_json: Json = False,
) -> None:
    """Measure what a hospital's organ, and recovery after it, is worth to a clinic of few records.

    20, 50 and 200 records, three seeds; hours on one core. A run that was cut off goes on.

    Example: organ-simulate clinic --out docs/results/clinic
    """
    from simulations import tables
    from simulations.experiments import clinic as clinics
    from simulations.experiments.cells import stem
    from simulations.material.model import base_model

    base = "" if kept_only else base_model(model, say)
    rows = clinics.experiment(base, out, say, quick=quick, kept_only=kept_only)
    listing(rows if as_json else tables.brief(rows), as_json)
    say(f"the whole table is in {out / stem('clinic', quick=quick)}.md")


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
    if not all(0 < one < math.inf for one in tested):
        raise typer.BadParameter(f"expected claims above 0, got {claims}")
    from simulations.experiments import attack as attacks
    from simulations.material.model import base_model

    listing(
        attacks.experiment(base_model(model, say), out, say, claims=tested, quick=quick), as_json
    )


def bench_dp(
    out: Annotated[Path, typer.Option(help="Folder for tables, plot and one file a measurement.")],
    model: BaseModel = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="One domain, seed and epsilon, few tokens: ten minutes.")
    ] = False,
    searching: Annotated[
        bool, typer.Option("--search", help="Choose how each learns, on validation text.")
    ] = False,
    kept_only: KeptOnly = False,
    as_json: Json = False,
) -> None:
    """Measure what differential privacy costs an organ and LoRA: time, memory and perplexity.

    Three ways to clip; epsilon 1, 3, 8 and none on two domains, three seeds; hours on one core. A
    run that was cut off goes on. Needs organ-exchange[comparison].

    Example: organ-simulate bench-dp --quick --out runs/privacy
    """
    _alone(searching, quick=quick, kept_only=kept_only)
    from simulations.experiments import bench_dp as private
    from simulations.material.model import base_model
    from simulations.tables import brief

    base = "" if kept_only else base_model(model, say)
    if searching:
        listing(private.search(base, out, say), as_json)
        return
    found = private.experiment(base, out, say, quick=quick, kept_only=kept_only)
    if as_json:
        report(found, as_json)
        return
    listing(brief(found["cost"]), as_json)
    listing(brief(found["utility"]), as_json)
    for line in found["said"]:
        say(line)
    say(f"the whole tables are in {out / 'bench-dp.md'}")


def _alone(searching: bool, **others: bool) -> None:
    """Refuse options of tables beside ``--search``, which makes none."""
    for name, given in others.items():
        if searching and given:
            raise typer.BadParameter(f"--search stands alone; leave out --{name.replace('_', '-')}")


def plot(
    folder: Annotated[Path, typer.Argument(help="Folder of results, an experiment's --out.")],
    as_json: Json = False,
) -> None:
    """Draw results that are kept, anew: a PNG each, and a CSV of the numbers in it.

    Measures nothing and needs no model. Experiments draw the same when they end.

    Example: organ-simulate plot docs/results/privacy
    """
    from simulations.plots import plot as draw

    report({"drawn": [str(path) for path in draw(folder)]}, as_json)


def readme(
    path: Annotated[Path, typer.Argument(help="The README to refresh.")] = Path("README.md"),
    as_json: Json = False,
) -> None:
    """Put the tables of kept results into the README.

    Example: organ-simulate readme
    """
    from simulations.results import refresh

    report({"changed": refresh(path, path.parent)}, as_json)
