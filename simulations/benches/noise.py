"""Federations for measurements of servers: a generated model, and records that do not matter."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from not_core.manifest import Span
from not_core.protocol import Terms
from simulations.benches import bench_memory
from simulations.federation import exchange
from simulations.federation.sites import load_sites
from simulations.material import domains

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


def small_tokenizer(folder: Path, entries: int) -> None:
    """Train a tokenizer of few entries, so that neither it nor a head of its size costs much.

    Args:
        folder: To be made; gets the tokenizer, and a ``config.json`` that says its size.
        entries: Of its vocabulary.
    """
    from tokenizers import Tokenizer
    from tokenizers.decoders import ByteLevel as Bytes
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), Bytes()
    trainer = BpeTrainer(
        vocab_size=entries, initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator((one.text for one in domains.general()), trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    size = json.dumps({"vocab_size": tokenizer.get_vocab_size()})
    (folder / "config.json").write_text(size, encoding="utf-8")


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
