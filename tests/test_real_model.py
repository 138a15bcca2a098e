"""The demo's real model and text, from the cache that ``make fetch`` fills."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from not_core.learning.evaluation import compare, read_losses
from not_core.learning.recipe import Recipe, default_span
from not_core.learning.records import read_records, read_units, split
from not_core.learning.training import train
from not_core.surgery import graft
from not_core.surgery import plan as plans
from not_core.surgery.assemble import assemble
from not_core.surgery.checkpoint import open_checkpoint
from not_core.surgery.organ import Label, Organ, describe
from simulations.material import domains, tutorial
from simulations.material.model import base_model

pytestmark = pytest.mark.real


def missing(line: str) -> None:
    raise AssertionError(f"the cache lacks something ({line}); run make fetch")


def test_a_real_organ_helps_on_real_text_and_loads_without_us(tmp_path: Path) -> None:
    host = open_checkpoint(base_model(None, missing))
    parts = split([record.text for record in domains.abstracts(missing)], 12, 0)
    stock = assemble(plans.identity(host.layers), host, {})
    before = read_losses(stock, host.tokenizer, parts.held_out)
    assert 15 < before.perplexity < 30

    span = default_span(host.layers, 16)
    trained = train(host, span, parts.train, Recipe(tokens=3000))
    manifest = describe(host, span, trained.tensors, Label(name="o"), training=trained.facts)
    name = manifest.digest
    plan = plans.transplant(host.layers, name, len(span), mode="replace", position=span.start)
    organ = Organ(manifest, trained.tensors)
    graft.transplant(plan, host, {name: organ}, tmp_path / "grafted")

    grafted = AutoModelForCausalLM.from_pretrained(tmp_path / "grafted")
    after = read_losses(grafted, host.tokenizer, parts.held_out)
    change = compare(before, after, seed=0)
    assert change.change < -0.08
    assert change.high < 0

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "grafted")
    prompt = tokenizer("The patients were", return_tensors="pt")
    greedy = {"max_new_tokens": 8, "do_sample": False}
    cached = grafted.generate(**prompt, **greedy, use_cache=True)
    assert torch.equal(cached, grafted.generate(**prompt, **greedy, use_cache=False))


def test_the_folder_of_the_guides(tmp_path: Path) -> None:
    counts = tutorial.write(tmp_path / "tutorial", missing)
    texts = {name: read_records(tmp_path / "tutorial" / name, "text") for name in counts}
    assert {name: len(read) for name, read in texts.items()} == counts
    assert list(counts.values()) == [400, 40, 20, 40]
    seen = [text for read in texts.values() for text in read]
    assert len(set(seen)) == len(seen)
    subjects = read_units(tmp_path / "tutorial" / "hospital.jsonl", "text", "patient")
    assert len(subjects) == 200
    assert open_checkpoint(tmp_path / "tutorial" / "SmolLM2").layers == 30
