"""Random plans over random small configs keep every invariant of surgery."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from families import all_families, family_model
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from surgeries import generated, layers_run, logits, organ_of, shifted
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from not_core.errors import PlanError
from not_core.surgery import graft
from not_core.surgery.anatomy import anatomy
from not_core.surgery.assemble import assemble
from not_core.surgery.checkpoint import open_checkpoint
from not_core.surgery.plan import HOST, Graft, compose

SHAPES: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    # The class itself cannot run its new architecture without parallel attention.
    "falcon": st.fixed_dictionaries(
        {"new_decoder_architecture": st.just(True), "bias": st.booleans()}
    )
    | st.fixed_dictionaries(
        {"parallel_attn": st.booleans(), "bias": st.booleans(), "alibi": st.booleans()}
    ),
    "gpt2": st.fixed_dictionaries(
        {"n_inner": st.sampled_from([None, 48]), "scale_attn_by_inverse_layer_idx": st.booleans()}
    ),
    "gpt_neox": st.fixed_dictionaries(
        {"use_parallel_residual": st.booleans(), "attention_bias": st.booleans()}
    ),
    "opt": st.fixed_dictionaries(
        {"do_layer_norm_before": st.booleans(), "word_embed_proj_dim": st.sampled_from([16, 32])}
    ),
    "qwen3_moe": st.fixed_dictionaries(
        {
            "mlp_only_layers": st.lists(st.integers(0, 6), max_size=3, unique=True),
            "decoder_sparse_step": st.integers(1, 3),
        }
    ),
    "smollm3": st.fixed_dictionaries({"no_rope_layer_interval": st.integers(1, 4)}),
    "qwen2": st.fixed_dictionaries({"max_window_layers": st.integers(0, 6)}),
    "qwen3": st.fixed_dictionaries({"max_window_layers": st.integers(0, 6)}),
}


@st.composite
def shapes(draw: st.DrawFn, family: str) -> tuple[int, dict[str, Any]]:
    """A number of layers, and config changes."""
    fields, part = CONFIG_MAPPING[family]().to_dict(), anatomy({"model_type": family})
    count = draw(st.integers(2, 5))
    changes = draw(SHAPES.get(family, st.just({})))
    if "num_key_value_heads" in fields:
        changes |= {"num_key_value_heads": draw(st.sampled_from([1, 2, 4]))}
    if "layer_types" in part.per_layer:
        if draw(st.booleans()):
            kinds = st.sampled_from(["sliding_attention", "full_attention"])
            changes["layer_types"] = draw(st.lists(kinds, min_size=count, max_size=count))
    elif "sliding_window" in fields:
        changes["sliding_window"] = draw(st.sampled_from([None, 4]))
    changes["tie_word_embeddings"] = draw(st.booleans())
    return count, changes | {part.layer_count: count}


@st.composite
def surgeries(draw: st.DrawFn, layers: int) -> list[tuple[int, int, str, int, float]]:
    """Up to three grafts: span start and stop, mode, position, and a shift of the weights."""
    found = []
    for number in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, layers - 1))
        stop = draw(st.integers(start + 1, layers))
        mode = draw(st.sampled_from(["replace", "insert"]))
        last = layers - (stop - start) if mode == "replace" else layers
        position = draw(st.sampled_from([start, *range(last + 1)]))
        found.append((start, stop, mode, min(position, last), 0.01 * number))
    return found


@pytest.mark.parametrize("family", all_families())
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_random_surgery_keeps_every_invariant(family: str, data: st.DataObject) -> None:
    count, changes = data.draw(shapes(family))
    with TemporaryDirectory() as place:
        base = Path(place)
        host = open_checkpoint(family_model(base / "host", family, **changes))
        drawn = data.draw(surgeries(count))
        organs = [
            organ_of(host, start, stop, change=shifted(shift)) for start, stop, _, _, shift in drawn
        ]
        grafts = [
            Graft(organ=organ.manifest.digest, count=len(organ), mode=mode, position=position)
            for organ, (_, _, mode, position, _) in zip(organs, drawn, strict=True)
        ]
        out = base / "out"
        by_name = {organ.manifest.digest: organ for organ in organs}
        refusal = ""
        try:
            plan = compose(host.layers, grafts)
            written = graft.transplant(plan, host, by_name, out)
        except PlanError as error:
            refusal = str(error)
        if refusal:
            # Two organs want one place, or the class makes a layer depend on its place.
            moved = changes.get("scale_attn_by_inverse_layer_idx") and "attn.scaling" in refusal
            assert moved or "another organ replaces" in refusal
            assert not out.exists()
            event("moved" if moved else "overlapping")
            return
        event(f"{len(grafts)} organs")

        # Each layer's tensors are those of the layer that the plan names.
        graft_ = open_checkpoint(out)
        for place_, layer in enumerate(plan.layers):
            source = host.source if layer.source == HOST else by_name[layer.source].source
            there = graft_.source.layer(place_)
            assert there.keys() == source.layer(layer.index).keys()
            for rest, name in source.layer(layer.index).items():
                assert torch.equal(graft_.tensors.read(there[rest]), source.tensors.read(name))
        # It loads without us, runs all its layers, and the cache agrees.
        loaded, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
        assert not any(report.values())
        sources = {name: organ.source for name, organ in by_name.items()}
        assert torch.equal(logits(loaded), logits(assemble(plan, host, sources)))
        assert torch.equal(generated(loaded, cache=True), generated(loaded, cache=False))
        assert layers_run(loaded, host) == len(plan.layers)
        # Taken out one after the other, in any order, the host is what it was.
        assert graft_.weights_digest == written.weights
        model_ = graft_
        for number, name in enumerate(data.draw(st.permutations(sorted(by_name)))):
            if not (model_.origin / "organs.json").exists():
                break
            graft.excise(model_, name, base / f"out-{number}")
            model_ = open_checkpoint(base / f"out-{number}")
        assert model_.weights_digest == host.weights_digest
        assert not (model_.origin / "organs.json").exists()
        stock = AutoModelForCausalLM.from_pretrained(host.origin)
        assert torch.equal(
            logits(AutoModelForCausalLM.from_pretrained(model_.origin)), logits(stock)
        )
