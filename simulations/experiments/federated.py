"""Organ exchange against federated averaging: the same sites, records, tokens and documents."""

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from not_core.errors import ExchangeError
from simulations.experiments import averaging, cells, one_shot
from simulations.experiments.contest import PARTS, Setting, prepare
from simulations.federation.sites import Federation, load_sites

QUICK = Setting(round_tokens=512, rounds=2, choosing=3, measuring=6, shares=(2, 1))
QUICK_SITES = 3


def against_fedavg(
    model: str,
    out: Path,
    say: Callable[[str], None],
    *,
    quick: bool = False,
    only: Collection[str] = (),
) -> dict[str, Any]:
    """Compare both methods at the demo's sites and write what they say together.

    What is done is kept, and a second call goes on.

    Args:
        model: Folder of the base model.
        out: Folder for federated.json, .md, .png and .csv; ``cells`` in it holds a file a result.
        say: Told of progress.
        quick: Three sites, two rounds, few tokens.
        only: Names of sites, such as those of one field; none for all.

    Returns:
        What federated.json holds.

    Raises:
        ExchangeError: There is no such site, or the simulation could not be carried out.
        RecordsError: A site holds too few documents.
        SourceError: Text cannot be fetched.
    """
    setting = QUICK if quick else Setting()
    federation = load_sites(None, None, setting.seed)
    if unknown := {*only} - {site.name for site in federation.sites}:
        names = ", ".join(site.name for site in federation.sites)
        raise ExchangeError(f"no site is called {min(unknown)}; expected some of {names}")
    if only:
        sites = tuple(site for site in federation.sites if site.name in only)
        federation = replace(federation, sites=sites)
    elif quick:
        federation = replace(federation, sites=federation.sites[:QUICK_SITES])
    name = cells.stem("federated", *only, quick=quick)
    return experiment(setting, federation, model, out, say, name)


def experiment(
    setting: Setting,
    federation: Federation,
    model: str,
    out: Path,
    say: Callable[[str], None],
    name: str = "federated",
) -> dict[str, Any]:
    """Carry out a contest, or what is left of it, and report on it; see ``against_fedavg``."""
    from simulations.experiments.federated_results import chart, markdown, summary

    contest = prepare(setting, federation, model, out, say)
    rounds = averaging.run(contest, say)
    # A site's base model is the averaged one before any round.
    start = {site: {part: row[part] for part in PARTS} for site, row in rounds[0]["sites"].items()}
    tokens = setting.round_tokens * (len(rounds) - 1)
    exchanges = [
        {"tokens": part, "sites": one_shot.run(contest, part, start, say)}
        for part in (max(1, tokens // share) for share in setting.shares)
    ]
    found = summary(setting, rounds, exchanges)
    cells.publish(out, name, found, markdown(found), chart(found))
    return found
