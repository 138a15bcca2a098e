"""What an organ's tensors must pass before they touch a model, and organs made to fail it."""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_model, save_tokenizer, sentences, write_jsonl
from families import family_model
from flwr.app import Message
from local_grid import LocalGrid
from safetensors.torch import load_file, save_file
from surgeries import organ_of, put, shifted

from client import bench
from client import home as site_home
from client.policy import Policy
from not_core import canonical, protocol
from not_core.errors import IncompatibleOrganError, QuarantineError
from not_core.learning.recipe import Recipe
from not_core.learning.training import train
from not_core.manifest import Manifest, Span, TensorFacts
from not_core.protocol import TransplantRequest
from not_core.surgery import quarantine
from not_core.surgery.anatomy import anatomy
from not_core.surgery.checkpoint import Checkpoint, open_checkpoint
from not_core.surgery.compact import LEFT, RIGHT
from not_core.surgery.organ import (
    Label,
    describe,
    extract,
    fill,
    read_manifest,
    read_organ,
    read_stored,
    write_organ,
)
from not_core.surgery.quarantine import Bounds, admit, drifts
from not_core.surgery.tensors import Held, SafetensorsFiles, tensor_facts
from not_core.trust import authority, federation, keys, sealing, signing
from not_core.trust.profile import read_request

FAMILIES = ["llama", "gpt2", "opt", "gpt_oss", "qwen3_moe"]
SPAN = Span(start=0, stop=2)
Q, OUT = "1.self_attn.q_proj.weight", "1.self_attn.o_proj.weight"
Change = Callable[[torch.Tensor], torch.Tensor]
Changes = Mapping[str, Change]


def two_layers(folder: Path, family: str, seed: int = 0) -> Checkpoint:
    layers = {anatomy({"model_type": family}).layer_count: 2}
    save_tokenizer(family_model(folder, family, seed, **layers))
    return open_checkpoint(folder)


@pytest.fixture
def host(tmp_path: Path) -> Checkpoint:
    return two_layers(tmp_path / "host", "llama")


def tensors_of(host: Checkpoint, changes: Changes, span: Span = SPAN) -> Held:
    cut = extract(host, span)
    assert changes.keys() <= {*cut.names()}
    return Held({name: changes.get(name, lambda t: t)(cut.read(name)) for name in cut.names()})


def stored(host: Checkpoint, out: Path, changes: Changes, span: Span = SPAN) -> Path:
    """An organ folder whose file and manifest agree, whatever its maker put there."""
    tensors = tensors_of(host, changes, span)
    write_organ(out, tensors, describe(host, span, tensors, Label(name="o"), training=None))
    return out


def restated(folder: Path, change: Callable[[Manifest], Manifest]) -> Path:
    path = folder / "manifest.json"
    path.write_bytes(canonical.encode(change(read_manifest(folder))))
    return folder


def refused(folder: Path, host: Checkpoint, check: str, words: str, **bounds: Any) -> None:
    with pytest.raises(QuarantineError, match=words) as caught:
        admit(folder, host, Bounds(**bounds))
    assert (caught.value.check, caught.value.code) == (check, "quarantine")
    assert str(caught.value).startswith(f"{check}: ")


def one(value: float) -> Change:
    """One number of a tensor at another value."""

    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[3] = value
        return tensor

    return change


def scaled(by: float) -> Change:
    return lambda tensor: tensor * by


@pytest.mark.parametrize("rank", [None, 4], ids=["layers", "factors"])
@pytest.mark.parametrize("scaffold", ["in-situ", "inserted"])
@pytest.mark.parametrize("family", FAMILIES)
def test_honest_organs_pass(family: str, scaffold: Any, rank: int | None, tmp_path: Path) -> None:
    host = two_layers(tmp_path / "host", family)
    recipe = Recipe(
        scaffold=scaffold, rank=rank, tokens=256, block_tokens=16, step_tokens=16, threads=1
    )
    trained = train(host, SPAN, sentences(8, seed=1), recipe)
    form: Any = "factors" if rank else "layers"
    manifest = describe(
        host, SPAN, trained.tensors, Label(name="o"), training=trained.facts, form=form
    )
    write_organ(tmp_path / "organ", trained.tensors, manifest)
    organ = admit(tmp_path / "organ", host, Bounds())
    assert organ.manifest == manifest
    assert tensor_facts(organ.tensors) == manifest.tensors
    found = list(drifts(organ, host))
    assert [one.name for one in found] == [*organ.tensors.names()]
    assert 0 < max(one.norm for one in found) < 0.5
    assert 0 < max(one.peak for one in found) < 0.5


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("change", "check", "words"),
    [
        (one(math.nan), "finite", "holds values that are not finite"),
        (one(math.inf), "finite", "holds values that are not finite"),
        (one(-math.inf), "finite", "holds values that are not finite"),
        (scaled(2.5), "drift", "the norm of"),
        (scaled(-1.0), "drift", "the norm of"),
        (scaled(1e30), "drift", "the norm of"),
    ],
)
def test_each_check_is_named(
    family: str, change: Change, check: str, words: str, tmp_path: Path
) -> None:
    """In every tensor but those that an inserted layer begins with at zero, one at a time."""
    host = two_layers(tmp_path / "host", family)
    cut = extract(host, SPAN)
    matrices = [name for name in cut.names() if len(cut.form(name).shape) > 1]
    for name in (matrices[0], matrices[-1]):
        folder = stored(host, tmp_path / name, {name: change})
        if check == "drift" and change(torch.ones(4)).sum() < 0 and quarantine.is_output(name):
            admit(folder, host, Bounds())  # its own norm away from zero, see below
        else:
            refused(folder, host, check, f"{words}.*{name}" if check == "drift" else name)
    vector = next(name for name in cut.names() if len(cut.form(name).shape) == 1)
    if check == "finite":
        refused(stored(host, tmp_path / "v", {vector: change}), host, check, vector)


def test_one_huge_number_is_found_where_the_norm_hides_it(host: Checkpoint, tmp_path: Path) -> None:
    cut = extract(host, SPAN)
    largest, norm = float(cut.read(Q).abs().max()), float(cut.read(Q).norm())
    value = 4 * largest
    assert value < 0.6 * norm
    huge = stored(host, tmp_path / "huge", {Q: one(value)})
    refused(huge, host, "drift", f"the largest number of {Q} is .* at most 1 is allowed")
    admit(huge, host, Bounds(most_drift=6))
    admit(stored(host, tmp_path / "less", {Q: one(0.9 * largest)}), host, Bounds())


def test_drift_is_that_of_the_formula(
    host: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few numbers are widened at once; at the bound is within it."""
    monkeypatch.setattr(quarantine, "CHUNK", 100)
    generator = torch.Generator().manual_seed(5)
    noise = 0.05 * torch.randn(32, 32, generator=generator)
    folder = stored(host, tmp_path / "organ", {Q: lambda t: t + noise})
    base = extract(host, SPAN).read(Q).double()
    change = (base.float() + noise).double() - base
    (found,) = [d for d in drifts(admit(folder, host, Bounds()), host) if d.norm or d.peak]
    assert found.name == Q
    assert found.norm == pytest.approx(float(change.norm() / base.norm()), rel=1e-12)
    assert found.peak == float(change.abs().max() / base.abs().max())
    worst = max(found.norm, found.peak)
    admit(folder, host, Bounds(most_drift=worst))
    refused(folder, host, "drift", Q, most_drift=math.nextafter(worst, 0))


def test_numbers_too_large_for_float64s_squares_are_no_small_drift(tmp_path: Path) -> None:
    folder = family_model(tmp_path / "host", "llama", num_hidden_layers=2)
    wide = {name: one.double() for name, one in load_file(folder / "model.safetensors").items()}
    save_file(wide, folder / "model.safetensors", {"format": "pt"})
    host = open_checkpoint(folder)
    refused(stored(host, tmp_path / "o", {Q: one(1e200)}), host, "drift", "is inf times")


def test_small_base_tensors_have_an_absolute_rule(tmp_path: Path) -> None:
    """A bias that is zero, or near it, learns, too; how far does not depend on what it was."""
    folder = family_model(tmp_path / "host", "gpt2", n_layer=2)
    bias, matrix = "attn.c_attn.bias", "1.mlp.c_fc.weight"
    held = load_file(folder / "model.safetensors")
    for layer, value in ((0, 0.0), (1, 1e-6)):
        held[f"transformer.h.{layer}.{bias}"] = torch.full((96,), value)
    held["transformer.h." + matrix] = torch.zeros_like(held["transformer.h." + matrix])
    save_file(held, folder / "model.safetensors", {"format": "pt"})
    host = open_checkpoint(folder)
    for layer in (0, 1):
        name = f"{layer}.{bias}"
        admit(stored(host, tmp_path / f"in{layer}", {name: shifted(0.2)}), host, Bounds())
        out = stored(host, tmp_path / f"out{layer}", {name: shifted(0.3)})
        refused(out, host, "drift", f"the norm of {name} is 1.2 times")
    admit(stored(host, tmp_path / "im", {matrix: shifted(0.02)}), host, Bounds())
    refused(stored(host, tmp_path / "om", {matrix: shifted(0.2)}), host, "drift", matrix)


def test_only_output_projections_may_begin_at_zero(host: Checkpoint, tmp_path: Path) -> None:
    """As inserted layers do; a bound below 1 refuses zeros elsewhere."""
    outputs = stored(host, tmp_path / "outputs", {OUT: scaled(0), "0.mlp.down_proj.weight": one(0)})
    admit(outputs, host, Bounds(most_drift=0.5))
    refused(stored(host, tmp_path / "q", {Q: scaled(0)}), host, "drift", Q, most_drift=0.5)
    refused(stored(host, tmp_path / "large", {OUT: scaled(2.5)}), host, "drift", OUT)


def redeclared(**changes: Any) -> Callable[[Manifest], Manifest]:
    """Another thing said of the last tensor than what is there."""
    return lambda m: replace(m, tensors=(*m.tensors[:-1], replace(m.tensors[-1], **changes)))


def extra(manifest: Manifest) -> Manifest:
    more = TensorFacts(name="1.zz.weight", dtype="float32", shape=(4,), sha256="0" * 64)
    return replace(manifest, tensors=(*manifest.tensors, more))


@pytest.mark.parametrize(
    ("change", "check", "words"),
    [
        (redeclared(dtype="int32"), "declared", "is float32 16x32, declared is int32 16x32"),
        (redeclared(dtype="float31"), "declared", "is of no known type, float31"),
        (redeclared(shape=(32, 16)), "declared", "is float32 16x32, declared is float32 32x16"),
        (redeclared(sha256="0" * 64), "declared", "is not the tensor that the manifest declares"),
        (extra, "declared", r"disagree about 1\.zz\.weight"),
        (lambda m: replace(m, tensors=m.tensors[:-1]), "declared", "disagree about 1.self_attn.v"),
        (redeclared(shape=(2**40, 2**40)), "size", r"bytes, the tensors in manifest\.json take"),
        (redeclared(shape=(2**22, 1)), "size", "and a header; get an undamaged copy"),
        (redeclared(shape=(0,)), "declared", "declared is float32 0"),
    ],
)
def test_what_is_not_declared_is_refused(
    change: Callable[[Manifest], Manifest],
    check: str,
    words: str,
    host: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before any tensor is read, but for what only reading tells."""
    folder = restated(stored(host, tmp_path / "organ", {}), change)
    if "is not the tensor" not in words:
        monkeypatch.setattr(SafetensorsFiles, "read", _unreadable)
    with pytest.raises(QuarantineError, match=words) as caught:
        read_stored(folder)
    assert caught.value.check == check


def _unreadable(*args: object, **how: object) -> torch.Tensor:
    raise AssertionError("a tensor was read")


def test_a_file_beyond_the_bound_is_not_opened(
    host: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stored(host, tmp_path / "organ", {})
    size = (folder / "organ.safetensors").stat().st_size
    admit(folder, host, Bounds(most_bytes=size))
    host.weights_digest  # noqa: B018 - read and kept before reading is forbidden
    monkeypatch.setattr("not_core.surgery.organ.open_safetensors", _unreadable)
    refused(folder, host, "size", f"has {size} bytes, at most {size - 1}", most_bytes=size - 1)
    with (folder / "organ.safetensors").open("r+b") as file:
        file.truncate(40 << 30)  # sparse
    refused(folder, host, "size", "has 42949672960 bytes, the tensors in")


@pytest.mark.parametrize("bounds", [{"most_bytes": 0}, {"most_drift": 0}, {"most_drift": math.nan}])
def test_bounds_that_bound_nothing_are_a_callers_bug(bounds: dict[str, Any]) -> None:
    assert Bounds(most_bytes=1, most_drift=5e-324).most_bytes == 1
    with pytest.raises(ValueError, match="expected most_bytes >= 1 and most_drift > 0"):
        Bounds(**bounds)


def compact_of(host: Checkpoint, out: Path, size: float) -> Path:
    """A compact organ of rank 2, whose factors its maker may have made as large as it likes."""
    recipe = Recipe(rank=2, tokens=32, block_tokens=16, threads=1)
    trained = train(host, SPAN, sentences(4, seed=1), recipe)
    left = torch.zeros(32, 2).half()
    left[0, 0] = 1
    held = {name: trained.tensors.factors.read(name) for name in trained.tensors.factors.names()}
    held |= {Q + LEFT: left, Q + RIGHT: (size * torch.ones(2, 32)).half()}
    made = replace(trained.tensors, factors=Held(held))
    manifest = describe(host, SPAN, made, Label(name="o"), training=trained.facts, form="factors")
    write_organ(out, made, manifest)
    return out


def test_compact_organs_are_held_to_what_they_expand_to(host: Checkpoint, tmp_path: Path) -> None:
    """Factors that are small files, exact and finite, and yet make a row of large numbers."""
    honest = compact_of(host, tmp_path / "honest", 0.01)
    admit(honest, host, Bounds())
    poisoned = compact_of(host, tmp_path / "poisoned", 8.0)
    assert read_stored(poisoned).manifest.compact
    refused(poisoned, host, "drift", Q)
    broken = load_file(honest / "organ.safetensors")
    broken[Q + LEFT][1, 1] = math.inf
    save_file(broken, honest / "organ.safetensors")
    restated(
        honest,
        lambda m: replace(m, stored=replace(m.stored, tensors=tensor_facts(Held(broken)))),
    )
    refused(honest, host, "finite", Q + LEFT)
    size = (poisoned / "organ.safetensors").stat().st_size
    refused(poisoned, host, "size", f"{size} bytes", most_bytes=size - 1)


def test_in_a_model_with_other_organs_drift_is_from_its_base(
    models: dict[str, Path], tmp_path: Path
) -> None:
    """What stands at its place now is another organ's, or has moved."""
    host, span = open_checkpoint(models["llama"]), Span(start=2, stop=4)
    organ = stored(host, tmp_path / "organ", {}, span)
    far = organ_of(host, 1, 3, change=scaled(1.9))
    put(host, tmp_path / "replaced", (far, "replace", 1))
    put(host, tmp_path / "moved", (far, "insert", 0))
    put(host, tmp_path / "lost", (far, "replace", 1), keep_replaced=False)
    for name in ("replaced", "moved"):
        graft = open_checkpoint(tmp_path / name)
        assert {(d.norm, d.peak) for d in drifts(admit(organ, graft, Bounds()), graft)} == {(0, 0)}
    # Without the layers that it grew from, sizes are compared with those that stand there.
    lost = open_checkpoint(tmp_path / "lost")
    admit(organ, lost, Bounds())
    large = stored(host, tmp_path / "large", {"1.mlp.up_proj.weight": scaled(2.5)}, span)
    refused(large, lost, "drift", r"1\.mlp\.up_proj")


def test_layers_that_were_not_kept_are_compared_by_size(host: Checkpoint, tmp_path: Path) -> None:
    far = organ_of(host, 0, 2, change=scaled(1.9))
    put(host, tmp_path / "lost", (far, "replace", 0), keep_replaced=False)
    lost = open_checkpoint(tmp_path / "lost")
    admit(stored(host, tmp_path / "organ", {}), lost, Bounds(most_drift=1e-9))


def test_on_another_base_sizes_are_compared(tmp_path: Path) -> None:
    """Its layers were never the organ's, so that every change is large and says nothing."""
    host, other = (two_layers(tmp_path / name, "llama", seed) for seed, name in enumerate("ab"))
    honest = stored(host, tmp_path / "honest", {})
    organ = admit(honest, other, Bounds(most_drift=0.5), allow=frozenset({"base"}))
    assert min(one.norm for one in drifts(organ, other)) == 0
    for change in (scaled(2.5), one(20.0)):
        folder = stored(host, tmp_path / f"{change(torch.ones(4)).sum()}", {Q: change})
        with pytest.raises(QuarantineError, match=Q):
            admit(folder, other, Bounds(), allow=frozenset({"base"}))


def test_the_nearest_layer_is_one_of_the_same_kind(tmp_path: Path) -> None:
    """Experts that come to a model whose last layer has none."""
    host, other = (two_layers(tmp_path / name, "qwen3_moe", seed) for seed, name in enumerate("ab"))
    experts = restated(
        stored(host, tmp_path / "organ", {}, Span(start=0, stop=1)),
        lambda m: replace(m, span=Span(start=1, stop=2)),
    )
    organ = read_organ(experts)
    assert [d.name for d in drifts(organ, other)] == [*organ.tensors.names()]


@pytest.mark.parametrize("seed", [0, 1], ids=["its own base", "another base"])
def test_a_tensor_of_another_shape_has_no_drift(seed: int, tmp_path: Path) -> None:
    """However many numbers it has: compatibility refuses it first, and this by itself."""
    host, other = two_layers(tmp_path / "a", "llama"), two_layers(tmp_path / "b", "llama", seed)
    folder = stored(host, tmp_path / "organ", {Q: lambda tensor: tensor.reshape(64, 16)})
    words = f"the host has no layer with {Q}" if seed else f"{Q} is float32 64x16, unlike the"
    with pytest.raises(QuarantineError, match=words) as caught:
        list(drifts(read_organ(folder), other))
    assert caught.value.check == "declared"


def test_sizes_are_compared_with_the_nearest_layer(tmp_path: Path) -> None:
    folder = family_model(tmp_path / "b", "llama", 1, num_hidden_layers=2)
    held = load_file(folder / "model.safetensors")
    held["model.layers.1.self_attn.q_proj.weight"] *= 10
    save_file(held, folder / "model.safetensors", {"format": "pt"})
    save_tokenizer(folder)
    host, other = two_layers(tmp_path / "a", "llama"), open_checkpoint(folder)
    for layer, passes in ((1, True), (0, False)):
        name = f"{layer}.self_attn.q_proj.weight"
        organ = stored(host, tmp_path / name, {name: scaled(8)})
        found = {d.name: d.norm for d in drifts(read_organ(organ), other)}
        assert (found[name] == 0) == passes


def test_an_organ_that_does_not_fit_is_refused_as_such(host: Checkpoint, tmp_path: Path) -> None:
    folder = stored(host, tmp_path / "organ", {})
    with pytest.raises(IncompatibleOrganError, match="base weights"):
        admit(folder, two_layers(tmp_path / "other", "llama", 1), Bounds())


def test_layers_of_another_kind_than_those_at_its_place_are_refused(tmp_path: Path) -> None:
    """A manifest may say that experts grew where the base has none."""
    host = two_layers(tmp_path / "host", "qwen3_moe")
    experts = stored(host, tmp_path / "organ", {}, Span(start=0, stop=1))
    restated(experts, lambda m: replace(m, span=Span(start=1, stop=2)))
    refused(experts, host, "declared", "unlike the base's")


def test_memory_follows_the_largest_tensor(tmp_path: Path) -> None:
    """In a process of its own: what admitting adds to the peak of opening a model."""
    host = open_checkpoint(make_model(tmp_path / "host", "llama", layers=24, width=256))
    folder = stored(host, tmp_path / "organ", {}, Span(start=0, stop=24))
    size = (folder / "organ.safetensors").stat().st_size
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from not_core.surgery.checkpoint import open_checkpoint\n"
        "from not_core.surgery.quarantine import Bounds, admit\n"
        "from simulations.machine import peak_bytes\n"
        "host = open_checkpoint(sys.argv[1])\n"
        "host.weights_digest, host.source, host.tokenizer_digest\n"
        "before = peak_bytes()\n"
        "admit(Path(sys.argv[2]), host, Bounds())\n"
        "print(before, peak_bytes())\n"
    )
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", script, str(tmp_path / "host"), str(folder)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
    )
    before, after = map(int, done.stdout.split())
    print(size, before, after)
    assert size > 50e6
    assert after - before < size / 2


class Trial:
    """A donor that signs what it likes, and a clinic that is asked to try it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.host = open_checkpoint(make_model(place / "model", "llama", layers=2))
        authority.create_root(place / "root", "regional")
        self.donor = self._admit(keys.create(place / "donor", "donor"), place / "donor")
        settings = {
            "site": "clinic",
            "model": str(place / "model"),
            "records": str(write_jsonl(place / "r.jsonl", sentences(60, 1))),
            "general": str(write_jsonl(place / "g.jsonl", sentences(12, 2))),
            "domain": "care",
        }
        self.home = place / "clinic"
        site_home.create(self.home, site_home.settings(settings), Policy())
        request = read_request(self.home / "identity" / keys.REQUEST)
        self._admit(request, self.home / "identity")

    def _admit(self, request: Any, folder: Path) -> keys.Identity:
        profile = authority.admit(self.place / "root", request)
        return keys.install(folder, profile, federation.load_trust(self.place / "root"))

    def organ(self, name: str, changes: Changes) -> Path:
        tensors = tensors_of(self.host, changes)
        label = Label(name=name, donor="donor")
        folder = self.place / name
        folder.mkdir()
        fill(folder, tensors, describe(self.host, SPAN, tensors, label, training=None))
        signing.sign_folder(folder, self.donor)
        return folder

    def ask(self, folder: Path) -> protocol.Packet:
        """What the clinic's app answers when it is asked to try an organ that was delivered."""
        site = site_home.load(self.home)
        digest = read_manifest(folder).digest
        out = site.place("organs", "in", "trial", f"{digest}.organ")
        terms = sealing.Audience(addressees=[site.identity.profile], exchange="trial")
        sealing.seal(folder, self.donor, terms, out)
        request = TransplantRequest(exchange="trial", organ=digest, mode="replace")
        grid = LocalGrid({1: self.home})
        message = Message(
            protocol.pack(request), dst_node_id=1, message_type=protocol.TRANSPLANT, ttl=60
        )
        (reply,) = grid.pull_messages(grid.push_messages([message]))
        return protocol.unpack(reply.content)


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return Trial(tmp_path)


def test_a_signed_and_sealed_but_poisoned_organ_never_touches_a_sites_model(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    assembled: list[object] = []
    run = bench.assemble

    def spy(plan: Any, host: Any, sources: Any) -> Any:
        assembled.append(sources)
        return run(plan, host, sources)

    monkeypatch.setattr(bench, "assemble", spy)
    poisons = {"nan": one(math.nan), "huge": one(1e6), "scaled": scaled(2.5)}
    for name, change in poisons.items():
        answer = trial.ask(trial.organ(name, {Q: change}))
        assert protocol.read(answer, protocol.Refusal).code == "quarantine"
        assert b"drift" not in answer.value + answer.body
    assert assembled == []
    # What is refused here hides no older version that is good.
    assert not (trial.home / "identity" / keys.SEEN).exists()
    assert not list(trial.home.glob("organs/opened/*"))
    assert not list(trial.home.glob("receipts/**/*.json"))
    said = [json.loads(line) for line in (trial.home / "site.log").read_text().splitlines()]
    assert {(one["request"], one["code"]) for one in said} == {("TransplantRequest", "quarantine")}
    assert [one["says"].split(Q)[0] for one in said] == [
        "finite: ",
        "drift: the norm of ",
        "drift: the norm of ",
    ]
    assert trial.ask(trial.organ("honest", {Q: scaled(1.01)})).kind == "Trial"
    assert len(assembled) == 2  # the model alone, and with the organ
    assert (trial.home / "identity" / keys.SEEN).exists()


def test_the_sites_policy_says_how_far_and_how_large(trial: Trial) -> None:
    assert Policy().most_drift == Bounds().most_drift
    policy = trial.home / "policy.toml"
    assert "most_drift = 1.0" in policy.read_text()
    half = trial.organ("half", {Q: scaled(1.5)})
    for line, kind in (("most_drift = 0.4", "Refusal"), ("most_sealed_bytes = 5000", "Refusal")):
        policy.write_text(line + "\n")
        answer = trial.ask(half)
        assert (answer.kind, b"quarantine" in answer.value) == (kind, True)
        (trial.home / "organs" / "in" / "trial").rename(trial.place / line[:9])
    log = (trial.home / "site.log").read_text()
    assert '"drift: the norm of' in log
    assert '"size: organ.safetensors has' in log
    policy.write_text("most_drift = 0.6\n")
    assert trial.ask(half).kind == "Trial"


def test_transplant_by_hand_has_the_same_bound(
    trial: Trial,
    organ: Callable[..., dict[str, Any]],
    call: Callable[..., tuple[int, str, str]],
) -> None:
    folder, out = trial.organ("far", {Q: scaled(2.5)}), trial.place / "grafted"
    words = ("transplant", folder, "--into", trial.place / "model", "--out", out)
    code, _, err = call(*words)
    assert code == 1
    assert "drift: the norm of" in " ".join(err.split())
    assert not out.exists()
    assert call(*words, "--most-drift", 0)[0] == 2
    assert organ(*words, "--most-drift", 2)["layers"] == 2


def test_verify_says_how_far_an_organ_is_from_its_base(
    trial: Trial,
    organ: Callable[..., dict[str, Any]],
    call: Callable[..., tuple[int, str, str]],
) -> None:
    trust = ("--trust", trial.place / "root")
    near, far = trial.organ("near", {Q: scaled(1.25)}), trial.organ("far", {Q: scaled(2.5)})
    assert "drift" not in organ("verify", near, *trust)
    found = organ("verify", near, *trust, "--base", trial.place / "model")
    assert found["drift"] == {"norm": 0.25, "peak": pytest.approx(0.25, abs=0.1)}
    code, _, err = call("verify", far, *trust, "--base", trial.place / "model")
    assert code == 1
    assert "drift" in err
    sealed = trial.place / "sealed.organ"
    sealed.write_bytes(b"")
    assert call("verify", sealed, *trust, "--base", trial.place / "model")[0] == 2


def test_the_bounds_of_a_json_manifest_are_whole_numbers(host: Checkpoint, tmp_path: Path) -> None:
    """No manifest can claim fewer bytes than none."""
    folder = stored(host, tmp_path / "organ", {})
    said = json.loads((folder / "manifest.json").read_bytes())
    said["tensors"][0]["shape"] = [-1, 32]
    (folder / "manifest.json").write_bytes(canonical.encode(said))
    with pytest.raises(Exception, match=r"manifest\.json is not valid at tensors"):
        admit(folder, host, Bounds())
