"""Organs shipped as factors: made whole on their base, and refused everywhere else."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_model, save_tokenizer, sentences
from families import all_families, family_model
from safetensors.torch import load_file, save_file
from surgeries import logits, organ_of, put, shifted

from not_core import canonical
from not_core.errors import CheckpointError, FormatError, IncompatibleOrganError, OrganError
from not_core.learning.recipe import Recipe
from not_core.learning.training import TrainedOrgan, train
from not_core.manifest import (
    Manifest,
    Span,
    StoredFactors,
    StoredLayers,
    TensorFacts,
    TrainingFacts,
)
from not_core.surgery import compact, expansion, graft
from not_core.surgery import organ as organs
from not_core.surgery.assemble import assemble
from not_core.surgery.checkpoint import Checkpoint, open_checkpoint
from not_core.surgery.compatibility import check
from not_core.surgery.organ import CompactOrgan, Label, describe, extract, write_organ
from not_core.surgery.plan import identity
from not_core.surgery.tensors import Held, tensor_digest, tensor_facts

SPAN = Span(start=2, stop=4)
RANK = 3
Q = "0.self_attn.q_proj.weight"
FACTS = TrainingFacts(
    scaffold="in-situ",
    rank=RANK,
    tokens=64,
    steps=1,
    seed=0,
    learning_rate=1e-3,
    block_tokens=16,
    step_tokens=16,
    head_sample=None,
    precision="float32",
    device="cpu",
    threads=1,
    libraries={},
)


@pytest.fixture
def host(models: dict[str, Path]) -> Checkpoint:
    return open_checkpoint(models["llama"])


def made(host: Checkpoint, seed: int = 0) -> compact.Expanded:
    """An organ's tensors, changed by factors as training would."""
    cut = extract(host, SPAN)
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for name in cut.names():
        if len(shape := cut.form(name).shape) == 2:
            left = torch.randn(shape[0], RANK, generator=generator)
            right = torch.randn(RANK, shape[1], generator=generator)
            factors[name + compact.LEFT] = (0.3 * left).half()
            factors[name + compact.RIGHT] = (0.3 * right).half()
    return compact.Expanded(cut, Held(factors))


def shipped(host: Checkpoint, out: Path, seed: int = 0) -> Manifest:
    """Write a compact organ."""
    tensors = made(host, seed)
    manifest = describe(host, SPAN, tensors, Label(name="o"), training=FACTS, form="factors")
    write_organ(out, tensors, manifest)
    return manifest


@pytest.fixture
def folder(host: Checkpoint, tmp_path: Path) -> Path:
    shipped(host, tmp_path / "compact")
    return tmp_path / "compact"


@pytest.mark.parametrize("family", all_families())
def test_what_was_trained_comes_out_of_its_factors(family: str, tmp_path: Path) -> None:
    """Weights stored by rows and by columns, with biases, experts and norms beside them."""
    save_tokenizer(family_model(tmp_path / "host", family))
    host = open_checkpoint(tmp_path / "host")
    recipe = Recipe(rank=4, tokens=64, block_tokens=16, threads=1, learning_rate=1e-2)
    trained = train(host, SPAN, sentences(4, seed=1), recipe)
    _ship(host, trained, tmp_path / "organ")

    again = expansion.read_expanded(tmp_path / "organ", open_checkpoint(tmp_path / "host"))
    assert again.tensors.names() == trained.tensors.names() == extract(host, SPAN).names()
    for name in again.tensors.names():
        assert torch.equal(again.tensors.read(name), trained.tensors.read(name))
    stored = load_file(tmp_path / "organ" / "organ.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    changed = [name for name in again.tensors.names() if name + compact.LEFT in stored]
    assert len(stored) == 2 * len(changed) > 0
    cut = extract(host, SPAN)
    differ = [n for n in cut.names() if not torch.equal(cut.read(n), again.tensors.read(n))]
    assert differ
    assert set(differ) <= set(changed)


def _ship(host: Checkpoint, trained: TrainedOrgan, out: Path) -> Manifest:
    manifest = describe(
        host, SPAN, trained.tensors, Label(name="o"), training=trained.facts, form="factors"
    )
    write_organ(out, trained.tensors, manifest)
    return manifest


def test_an_inserted_organ_begins_at_zero_at_its_recipient_too(
    host: Checkpoint, tmp_path: Path
) -> None:
    recipe = Recipe(scaffold="inserted", rank=4, tokens=64, block_tokens=16, threads=1)
    trained = train(host, SPAN, sentences(4, seed=1), recipe)
    manifest = _ship(host, trained, tmp_path / "organ")
    assert isinstance(manifest.stored, StoredFactors)
    assert sorted(manifest.stored.zeroed) == [
        f"{layer}.{name}.weight"
        for layer in (0, 1)
        for name in ("mlp.down_proj", "self_attn.o_proj")
    ]
    again = expansion.read_expanded(tmp_path / "organ", host)
    for name in again.tensors.names():
        assert torch.equal(again.tensors.read(name), trained.tensors.read(name))


def test_the_signed_digests_are_those_of_the_formula(folder: Path, host: Checkpoint) -> None:
    """By another library, at once and not by rows: the sums are exact, whoever adds them."""
    stored = load_file(folder / "organ.safetensors")
    cut = extract(host, SPAN)
    facts = {one.name: one.sha256 for one in organs.read_manifest(folder).tensors}
    for name in cut.names():
        wanted = cut.read(name).numpy()
        if name + compact.LEFT in stored:
            left, right = (
                stored[name + side].numpy().astype(np.float64)
                for side in (compact.LEFT, compact.RIGHT)
            )
            backwards = left[:, ::-1] @ right[::-1]
            wanted = (wanted.astype(np.float64) + backwards).astype(np.float32)
        assert tensor_digest(torch.from_numpy(wanted)) == facts[name]


def test_rows_are_expanded_alike_however_few_at_once(
    folder: Path, host: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compact, "CHUNK", 100)  # three rows of 32, the last chunk shorter
    assert len(expansion.read_expanded(folder, host)) == 2


def test_only_factors_are_shipped_and_their_bytes_are_signed(
    folder: Path, host: Checkpoint
) -> None:
    manifest = organs.read_manifest(folder)
    assert isinstance(manifest.stored, StoredFactors)
    tensors = made(host)
    assert manifest.stored.tensors == tensor_facts(tensors.factors)
    assert manifest.tensors == tensor_facts(tensors)
    assert "factors of rank 3" in (folder / "README.md").read_text()
    layers = describe(host, SPAN, tensors, Label(name="o"), training=FACTS)
    assert (layers.stored, layers.tensors) == (StoredLayers(), manifest.tensors)
    assert layers.digest != manifest.digest


def test_put_in_and_taken_out_again(folder: Path, host: Checkpoint, tmp_path: Path) -> None:
    organ = expansion.read_expanded(folder, host)
    put(host, tmp_path / "grafted", (organ, "replace", 2))
    grafted = open_checkpoint(tmp_path / "grafted")
    assert grafted.weights_digest != host.weights_digest
    stock, changed = (assemble(identity(6), model, {}) for model in (host, grafted))
    assert not torch.allclose(logits(stock), logits(changed))
    written = graft.excise(grafted, organ.manifest.digest, tmp_path / "back")
    assert written.weights == host.weights_digest


def test_a_model_with_organs_in_it_still_has_its_base(
    folder: Path, host: Checkpoint, tmp_path: Path
) -> None:
    """The layers that a factor stands on may stand elsewhere, or be set aside."""
    put(host, tmp_path / "g", (organ_of(host, 1, 3, change=shifted(0.1)), "replace", 1))
    put(host, tmp_path / "i", (organ_of(host, 1, 3, change=shifted(0.1)), "insert", 0))
    wanted = expansion.read_expanded(folder, host)
    for model in ("g", "i"):
        found = expansion.read_expanded(folder, open_checkpoint(tmp_path / model))
        assert tensor_facts(found.tensors) == tensor_facts(wanted.tensors)
    both = put(open_checkpoint(tmp_path / "i"), tmp_path / "b", (wanted, "replace", 4))
    written = graft.excise(open_checkpoint(both), wanted.manifest.digest, tmp_path / "back")
    assert written.weights == open_checkpoint(tmp_path / "i").weights_digest


def test_layers_that_were_not_kept_are_asked_for(
    folder: Path, host: Checkpoint, tmp_path: Path
) -> None:
    other = organ_of(host, 1, 3, change=shifted(0.1))
    put(host, tmp_path / "g", (other, "replace", 1), keep_replaced=False)
    with pytest.raises(OrganError, match=r"has not kept layers \[2\] of its base"):
        expansion.read_expanded(folder, open_checkpoint(tmp_path / "g"))


def test_forged_layers_of_a_base_do_not_pass(
    folder: Path, host: Checkpoint, tmp_path: Path
) -> None:
    put(host, tmp_path / "g", (organ_of(host, 1, 3, change=shifted(0.1)), "replace", 1))
    aside = tmp_path / "g" / "replaced" / "layers.safetensors"
    kept = load_file(aside)
    kept["root.2.self_attn.q_proj.weight"][0, 0] += 1e-3
    save_file(kept, aside)
    with pytest.raises(CheckpointError, match=r"root\.2\.self_attn\.q_proj\.weight in .* is not"):
        expansion.read_expanded(folder, open_checkpoint(tmp_path / "g"))


def test_no_other_base_will_do_and_nothing_allows_it(
    folder: Path, host: Checkpoint, tmp_path: Path
) -> None:
    other = open_checkpoint(make_model(tmp_path / "other", "llama", seed=1))
    with pytest.raises(IncompatibleOrganError, match="it expands on its own base only"):
        expansion.read_expanded(folder, other)
    manifest = organs.read_manifest(folder)
    with pytest.raises(IncompatibleOrganError, match="compact organ expands on its own base only"):
        check(manifest, other, frozenset({"base"}))
    check(manifest, host)
    check(expansion.as_layers(manifest), other, frozenset({"base"}))


def test_without_a_base_a_compact_organ_is_only_looked_at(folder: Path) -> None:
    assert isinstance(organs.read_stored(folder), CompactOrgan)
    with pytest.raises(OrganError, match="takes its base"):
        organs.read_organ(folder)


def test_expanded_on_disk_it_is_an_organ_like_any_other(
    folder: Path, host: Checkpoint, tmp_path: Path
) -> None:
    parent = organs.claim(folder, "clinic")
    organ = expansion.read_expanded(folder, host)
    manifest = expansion.as_layers(parent)
    assert (manifest.donor, manifest.parents) == (None, (parent.digest,))
    write_organ(tmp_path / "layers", organ.tensors, manifest)
    again = organs.read_organ(tmp_path / "layers")
    assert tensor_facts(again.tensors) == parent.tensors
    assert f"expanded from | `{parent.digest}`" in (tmp_path / "layers/README.md").read_text()
    with pytest.raises(OrganError, match="holds layers already"):
        expansion.as_layers(manifest)


def test_what_stands_on_no_base_cannot_be_shipped_as_factors(
    host: Checkpoint, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="trained by factors"):
        describe(host, SPAN, extract(host, SPAN), Label(name="o"), training=FACTS, form="factors")
    other = open_checkpoint(make_model(tmp_path / "other", "llama", seed=1))
    with pytest.raises(ValueError, match="does not stand on the base's tensor"):
        describe(other, SPAN, made(host), Label(name="o"), training=FACTS, form="factors")


def test_a_manifest_of_factors_says_that_factors_were_trained(folder: Path) -> None:
    manifest = organs.read_manifest(folder)
    for training in (None, replace(FACTS, rank=None)):
        with pytest.raises(ValueError, match="trained by factors only"):
            replace(manifest, training=training)
    text = canonical.encode(manifest)
    for edit in (
        (b'"form":"factors"', b'"form":"pickles"'),
        (b'"form":"factors"', b'"form":"layers"'),
        (b'"form":"factors",', b""),
    ):
        (folder / "manifest.json").write_bytes(text.replace(*edit))
        with pytest.raises(FormatError, match="not valid at stored"):
            organs.read_manifest(folder)


Edit = Callable[[dict[str, torch.Tensor]], None]


def _both(left: torch.Tensor, right: torch.Tensor) -> Edit:
    return lambda held: held.update({Q + ".left": left, Q + ".right": right})


def _fill(value: float) -> Edit:
    return lambda held: held[Q + ".left"].view(-1)[5:6].fill_(value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_fill(float("nan")), "values that are not finite"),
        (_fill(float("inf")), "values that are not finite"),
        (_fill(60_000.0), "expected less than 32"),
        (lambda held: held.pop(Q + ".left"), "one factor without the other"),
        (lambda held: held.update({Q: torch.ones(2).half()}), "one factor without the other"),
        (_both(torch.ones(32, 4).half(), torch.ones(4, 32).half()), "rank 4, the training had 3"),
        (_both(torch.ones(32, 33).half(), torch.ones(33, 32).half()), "expected 1 to 32"),
        (_both(torch.ones(32, 0).half(), torch.ones(0, 32).half()), "rank 0, expected 1"),
        (_both(torch.ones(32, 3).half(), torch.ones(2, 32).half()), "the tensor is float32 32x32"),
        (_both(torch.ones(31, 3).half(), torch.ones(3, 32).half()), "the tensor is float32 32x32"),
        (_both(torch.ones(3).half(), torch.ones(3).half()), "the tensor is float32 32x32"),
        (_both(torch.ones(32, 3), torch.ones(3, 32)), "expected float16 factors"),
        (
            lambda held: held.update(
                {f"0.none.{side}": torch.ones(1, 1).half() for side in ("left", "right")}
            ),
            "no tensor of the organ",
        ),
        (
            lambda held: held.update(
                {
                    f"0.input_layernorm.weight.{side}": torch.ones(1, 1).half()
                    for side in ("left", "right")
                }
            ),
            "the tensor is float32 32",
        ),
    ],
)
def test_hostile_factors_are_refused_before_a_base_is_asked_for(
    edit: Edit, message: str, folder: Path
) -> None:
    """Its maker signs what it likes: file and manifest agree."""
    held = load_file(folder / "organ.safetensors")
    edit(held)
    save_file(held, folder / "organ.safetensors")
    _restate(folder, tensors=tensor_facts(Held(held)))
    with pytest.raises(OrganError, match=message):
        organs.read_stored(folder)


def _restate(folder: Path, tensors: tuple[TensorFacts, ...], **more: object) -> None:
    """Write a manifest that says of the folder's factors what it is told to say."""
    manifest = organs.read_manifest(folder)
    stored = StoredFactors(tensors=tensors, **more)
    (folder / "manifest.json").write_bytes(canonical.encode(replace(manifest, stored=stored)))


def test_a_manifest_that_contradicts_itself_is_refused(folder: Path) -> None:
    manifest = organs.read_manifest(folder)
    assert isinstance(manifest.stored, StoredFactors)
    facts = manifest.stored.tensors
    _restate(folder, (*facts, facts[0]))
    with pytest.raises(OrganError, match="names a tensor or factor twice"):
        organs.read_stored(folder)
    _restate(folder, facts, zeroed=("0.none",))
    with pytest.raises(OrganError, match=r"0\.none begins at zero"):
        organs.read_stored(folder)


def test_damaged_factors_are_found(folder: Path) -> None:
    held = load_file(folder / "organ.safetensors")
    save_file(held | {Q + ".left": held[Q + ".left"] * 2}, folder / "organ.safetensors")
    with pytest.raises(OrganError, match="is not the tensor that the manifest declares"):
        organs.read_stored(folder)
    save_file({name: held[name] for name in sorted(held)[1:]}, folder / "organ.safetensors")
    with pytest.raises(OrganError, match="disagree about"):
        organs.read_stored(folder)


def test_factors_of_other_tensors_than_those_signed_are_refused(
    folder: Path, host: Checkpoint
) -> None:
    """Sound factors under a manifest that promises what they do not make."""
    manifest = organs.read_manifest(folder)
    assert isinstance(manifest.stored, StoredFactors)
    first, *rest = manifest.tensors
    for tensors, message in (
        ((replace(first, sha256="0" * 64), *rest), f"{first.name} is not the tensor"),
        ((replace(first, dtype="float16"), *rest), "declared is float16"),
        (tuple(rest), f"disagree about {first.name}"),
    ):
        (folder / "manifest.json").write_bytes(canonical.encode(replace(manifest, tensors=tensors)))
        assert isinstance(organs.read_stored(folder), CompactOrgan)
        with pytest.raises(OrganError, match=message):
            expansion.read_expanded(folder, host)
    _restate_zeroed(folder, manifest)
    with pytest.raises(OrganError, match=f"{Q} is not the tensor"):
        expansion.read_expanded(folder, host)


def _restate_zeroed(folder: Path, manifest: Manifest) -> None:
    assert isinstance(manifest.stored, StoredFactors)
    zeroed = replace(manifest, stored=replace(manifest.stored, zeroed=(Q,)))
    (folder / "manifest.json").write_bytes(canonical.encode(zeroed))
