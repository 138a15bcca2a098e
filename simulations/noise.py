"""Federations for measurements of servers: a generated model, and records that do not matter."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from not_core.manifest import Span
from not_core.protocol import Terms
from simulations import bench_memory, exchange
from simulations.sites import load_sites

SITE = """
[[site]]
name = "{name}"
domain = "noise"
donates = {donates}
held_out = 20
records = {{ builtin = "abstracts", share = {documents} }}
"""


def base(place: Path, layer_bytes: float, layers: int, tokenizer: Path) -> None:
    """Generate the model that all sites of ``scenario`` have; see ``bench_memory.square``."""
    bench_memory.square(place / "base", layer_bytes, layers, tokenizer)


def scenario(
    place: Path, name: str, sites: Mapping[str, bool], documents: int, span: Span, tokens: int
) -> exchange.Scenario:
    """An exchange on the model that ``base`` has made, with homes in ``place``.

    Args:
        place: Its folder.
        name: Its name.
        sites: Whether each donates.
        documents: Of each.
        span: Layers that donors train.
        tokens: That they train on.
    """
    text = "".join(
        SITE.format(name=site, donates=str(donates).lower(), documents=documents)
        for site, donates in sites.items()
    )
    (place / "sites.toml").write_text(f'exchange = "{name}"\n{text}', encoding="utf-8")
    return exchange.Scenario(
        federation=load_sites(place / "sites.toml", None, 0),
        model=str(place / "base"),
        terms=Terms(span=span, rank=None, tokens=tokens, learning_rate=1e-3, seed=0),
        mode="replace",
        homes=place / "homes",
        # Nobody learns about records here: one donor's organs may be tried as often as it likes.
        donors=replace(exchange.OPEN, most_trials=10**6),
    )
