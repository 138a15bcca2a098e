"""Organs exchanged once: every site trains one, gets all others', and keeps what serves it best.

The organ travels as float16 factors: sealed once for all addressees, so its maker sends it once,
and every other site receives it once.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from not_core import atomic
from not_core.learning import device
from not_core.learning.evaluation import compare
from not_core.learning.recipe import default_span
from not_core.learning.training import train
from not_core.manifest import Span
from not_core.surgery.assemble import assemble
from not_core.surgery.checkpoint import Checkpoint, open_checkpoint
from not_core.surgery.compact import Expanded
from not_core.surgery.merge import Average, merge
from not_core.surgery.organ import Label, Organ, describe, extract
from not_core.surgery.plan import transplant
from not_core.surgery.tensors import SafetensorsFiles, read_names, write_safetensors
from simulations.experiments.contest import PARTS, Contest, losses, reading
from simulations.material.sources import Report

NOTHING = "nothing"
AVERAGE = "average"

Losses = Mapping[str, list[list[float]]]
"""Losses by part of the held-out documents."""


def run(
    contest: Contest, tokens: int, start: Mapping[str, Losses], report: Report
) -> dict[str, dict[str, Any]]:
    """One exchange of organs that learned from so many tokens at each site.

    Args:
        contest: Sites and setting.
        tokens: Training tokens a site.
        start: Losses of the base model by site.
        report: Told of progress.

    Returns:
        By site: what it kept, its losses, those with its own organ, perplexity on the choosing
        documents with each candidate, and seconds and bytes that it took. Seconds are until the
        slowest site has trained, then the site's own trying of all organs.
    """
    if kept := contest.kept(f"organs-{tokens}"):
        return dict(kept["sites"])
    host = open_checkpoint(contest.model)
    made = {site: _made(contest, host, site, tokens, report) for site in contest.sites}
    tried = {
        donor: _tried(
            contest,
            host,
            partial(_organ, contest, host, donor, tokens),
            f"{donor}-{tokens}",
            contest.sites,
            report,
        )
        for donor in contest.sites
    }
    slowest = max(one["seconds"] for one in made.values())
    sites = {}
    for site in contest.sites:
        candidates = {
            NOTHING: {**start[site], "seconds": 0.0},
            **{donor: tried[donor][site] for donor in contest.sites},
        }
        helpful = [donor for donor in contest.sites if _helps(start[site], tried[donor][site])]
        if len(helpful) > 1:
            mean = partial(_mean, contest, host, helpful, tokens)
            name = f"{AVERAGE}-at-{site}-{tokens}"
            found = _tried(contest, host, mean, name, (site,), report)[site]
            candidates[f"{AVERAGE} of {', '.join(helpful)}"] = found
        best = min(candidates, key=lambda name: _perplexity(candidates[name]))
        trying = sum(one["seconds"] for one in candidates.values())
        others = [made[donor]["bytes"] for donor in contest.sites if donor != site]
        sites[site] = {
            "kept": best,
            "own": tried[site][site]["measuring"],
            **{part: candidates[best][part] for part in PARTS},
            "candidates": {name: _perplexity(one) for name, one in candidates.items()},
            "tokens": made[site]["tokens"],
            "seconds": slowest + trying,
            "trying": trying,
            "up": made[site]["bytes"],
            "down": sum(others),
        }
    return dict(contest.keep(f"organs-{tokens}", {"tokens": tokens, "sites": sites})["sites"])


def _perplexity(candidate: Mapping[str, Any]) -> float:
    return reading(candidate["choosing"]).perplexity


def _helps(start: Losses, candidate: Mapping[str, Any]) -> bool:
    """Whether a site, from its choosing documents, is sure that an organ helps it."""
    before, after = reading(start["choosing"]), reading(candidate["choosing"])
    return compare(before, after, seed=0).high < 0


def _factors(contest: Contest, site: str, tokens: int) -> Path:
    return contest.work / "organs" / f"{site}-{tokens}.safetensors"


def _made(
    contest: Contest, host: Checkpoint, site: str, tokens: int, report: Report
) -> dict[str, Any]:
    """Train a site's organ, or find it trained: seconds, tokens, bytes of its factors."""
    name, path = f"organ-{site}-{tokens}", _factors(contest, site, tokens)
    kept = contest.kept(name)
    if kept and path.is_file():
        return kept
    report(f"{site} trains an organ on {tokens} tokens")
    began = time.process_time()
    recipe = contest.setting.recipe(tokens)
    trained = train(host, _span(contest, host), contest.documents[site].train, recipe)
    seconds = time.process_time() - began
    if trained.factors is None:
        raise ValueError("expected a recipe with factors")
    names = trained.factors.names()
    with atomic.file(path) as work:
        write_safetensors(work, trained.factors, names)
    size = sum(trained.factors.form(one).bytes for one in names)
    return contest.keep(name, {"seconds": seconds, "tokens": trained.facts.tokens, "bytes": size})


def _span(contest: Contest, host: Checkpoint) -> Span:
    return default_span(host.layers, contest.setting.rank)


def _organ(contest: Contest, host: Checkpoint, site: str, tokens: int) -> Organ:
    """A site's organ, its layers expanded from the factors when they are read."""
    span, path = _span(contest, host), _factors(contest, site, tokens)
    files = SafetensorsFiles({name: (path, name) for name in read_names(path)})
    tensors = Expanded(extract(host, span), files)
    return Organ(describe(host, span, tensors, Label(name=site), training=None), tensors)


def _mean(contest: Contest, host: Checkpoint, donors: Sequence[str], tokens: int) -> Organ:
    """The average of several sites' organs."""
    organs = [_organ(contest, host, donor, tokens) for donor in donors]
    return Organ(*merge(organs, host, Label(name=AVERAGE), Average()))


def _tried(
    contest: Contest,
    host: Checkpoint,
    make: Callable[[], Organ],
    name: str,
    sites: Sequence[str],
    report: Report,
) -> dict[str, dict[str, Any]]:
    """What sites measure with an organ in their model; seconds without the reported part."""
    if kept := contest.kept(f"tried-{name}"):
        return kept
    report(f"trying {name}")
    with device.threads(1):
        began = time.process_time()
        organ = make()
        span = organ.manifest.span
        plan = transplant(host.layers, "organ", len(span), mode="replace", position=span.start)
        model = assemble(plan, host, {"organ": organ.source}, dtype=contest.setting.precision)
        putting_in = time.process_time() - began
        rows = {}
        for site in sites:
            began = time.process_time()
            found = {
                "choosing": losses(
                    model, host.tokenizer, contest.documents[site], contest.setting, "choosing"
                )
            }
            seconds = putting_in + time.process_time() - began
            found["measuring"] = losses(
                model, host.tokenizer, contest.documents[site], contest.setting, "measuring"
            )
            rows[site] = {"seconds": seconds, **found}
    return contest.keep(f"tried-{name}", rows)
