"""Every invariant of surgery, for every family, on a small model of the real class."""

from pathlib import Path

import pytest
import torch
from families import LAYERS, all_families, family_model
from surgeries import cut_of, generated, layers_run, logits
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from not_core.surgery import graft
from not_core.surgery import plan as plans
from not_core.surgery.assemble import assemble
from not_core.surgery.checkpoint import open_checkpoint
from not_core.surgery.compatibility import check
from not_core.surgery.organ import read_organ, write_organ


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("families")
    return {family: family_model(base / family, family) for family in all_families()}


def test_windows_are_narrower_than_the_text_in_every_family_that_has_them(
    hosts: dict[str, Path],
) -> None:
    """Else the cache and the order of the layers' kinds would be tested in name only."""
    slide = [f for f in all_families() if "sliding_window" in CONFIG_MAPPING[f]().to_dict()]
    assert len(slide) == 11
    for family in slide:
        model = AutoModelForCausalLM.from_pretrained(hosts[family]).eval()
        config = model.config.to_dict()
        if "layer_types" in open_checkpoint(hosts[family]).source.entries:
            kinds = config["layer_types"]
            assert set(kinds) == {"sliding_attention", "full_attention"}, family
            assert len(set(kinds[2:4])) == 2, "the organ holds one of each"
        wide = AutoModelForCausalLM.from_pretrained(hosts[family], sliding_window=64).eval()
        assert not torch.equal(logits(model), logits(wide)), family


@pytest.mark.parametrize("family", all_families())
def test_surgery_keeps_every_invariant(family: str, hosts: dict[str, Path], tmp_path: Path) -> None:
    host = open_checkpoint(hosts[family])
    stock = AutoModelForCausalLM.from_pretrained(hosts[family]).eval()
    cut = cut_of(host, 2, 4)
    write_organ(tmp_path / "organ", cut.tensors, cut.manifest)
    organ = read_organ(tmp_path / "organ")
    check(organ.manifest, host)
    name = organ.manifest.digest

    # Put back where it came from, it is the host again: same logits, same digest.
    back = plans.transplant(LAYERS, name, 2, mode="replace", position=2)
    assert torch.equal(logits(assemble(back, host, {name: organ.source})), logits(stock))
    written = graft.transplant(back, host, {name: organ}, tmp_path / "back")
    assert written.weights == host.weights_digest

    for mode, position, count in (("replace", 1, LAYERS), ("insert", 5, LAYERS + 2)):
        out = tmp_path / mode
        plan = plans.transplant(LAYERS, name, 2, mode=mode, position=position)
        written = graft.transplant(plan, host, {name: organ}, out)
        loaded, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
        assert not any(report.values())
        held = assemble(plan, host, {name: organ.source})
        assert torch.equal(logits(loaded), logits(held))
        assert not torch.equal(logits(loaded), logits(stock))
        assert layers_run(loaded, host) == count == loaded.config.num_hidden_layers
        assert torch.equal(generated(loaded, cache=True), generated(loaded, cache=False))
        again = open_checkpoint(out)
        assert again.weights_digest == written.weights
        loaded.save_pretrained(tmp_path / f"{mode}-saved")
        assert open_checkpoint(tmp_path / f"{mode}-saved").weights_digest == written.weights
        # Taken out again, the host is what it was, without being asked for.
        restored = graft.excise(again, name[:12], tmp_path / f"{mode}-excised")
        assert restored.weights == host.weights_digest
        whole = open_checkpoint(tmp_path / f"{mode}-excised")
        assert whole.weights_digest == host.weights_digest
        assert whole.config == host.config
        assert torch.equal(
            logits(AutoModelForCausalLM.from_pretrained(tmp_path / f"{mode}-excised")),
            logits(stock),
        )
