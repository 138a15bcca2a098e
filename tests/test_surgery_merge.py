"""Merging organs of one span."""

import itertools
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_model
from families import family_model
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from not_core import canonical, commands
from not_core.errors import FormatError, IncompatibleOrganError, OrganError, PlanError
from not_core.manifest import Manifest, MergeFacts, Span, TrainingFacts
from not_core.surgery import graft
from not_core.surgery import plan as plans
from not_core.surgery.card import card
from not_core.surgery.checkpoint import Checkpoint, open_checkpoint
from not_core.surgery.merge import Average, Merged, Method, Ties, merge
from not_core.surgery.organ import Label, Organ, claim, describe, extract, read_organ, write_organ
from not_core.surgery.tensors import Form, Held, Tensors

LABEL = Label(name="merged")
TRAINING = TrainingFacts(
    scaffold="in-situ",
    rank=None,
    tokens=100,
    steps=2,
    seed=0,
    learning_rate=0.001,
    block_tokens=10,
    step_tokens=10,
    head_sample=None,
    precision="float32",
    device="cpu",
    threads=1,
    libraries={"torch": "2"},
)


def grown(
    host: Checkpoint,
    seed: int | None,
    span: tuple[int, int] = (2, 4),
    change: Callable[[dict[str, torch.Tensor]], None] = lambda tensors: None,
    training: TrainingFacts | None = TRAINING,
) -> Organ:
    """An organ with changes as training makes them; None changes nothing."""
    where = Span(start=span[0], stop=span[1])
    cut = extract(host, where)
    tensors = {name: cut.read(name) for name in cut.names()}
    if seed is not None:
        noise = torch.Generator().manual_seed(seed)
        for tensor in tensors.values():
            tensor += (torch.randn(tensor.shape, generator=noise) * 0.05).to(tensor.dtype)
    change(tensors)
    held = Held(tensors)
    label = Label(name=f"o{seed}" if seed is not None else "plain")
    return Organ(describe(host, where, held, label, training=training), held)


def contents(tensors: Tensors) -> dict[str, torch.Tensor]:
    return {name: tensors.read(name) for name in tensors.names()}


def merged(
    base: list[float], organs: list[list[float]], method: Method, dtype: torch.dtype = torch.float32
) -> list[float]:
    """One tensor of organs merged, without manifests."""

    def held(values: list[float]) -> Held:
        return Held({"0.w": torch.tensor(values, dtype=dtype)})

    weights = method.weights or (1.0,) * len(organs)
    how = replace(method, weights=weights)
    made = Merged(tuple(held(one) for one in organs), held(base), how).read("0.w")
    assert made.dtype == dtype
    result: list[float] = made.tolist()
    return result


@pytest.fixture(scope="module")
def host(models: dict[str, Path]) -> Checkpoint:
    return open_checkpoint(models["llama"])


# What merging computes.

# Multiples of an eighth and few of them: sums are exact, and magnitudes are often equal.
NUMBERS = st.integers(-24, 24).map(lambda eighths: eighths / 8)
WEIGHTS = st.sampled_from([0.25, 0.5, 1.0, 2.0, 3.0])


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[float], list[list[float]], tuple[float, ...]]:
    """A base, organs and their weights."""
    size, count = draw(st.integers(1, 12)), draw(st.integers(2, 4))
    row = st.lists(NUMBERS, min_size=size, max_size=size)
    weights = draw(st.tuples(*[WEIGHTS] * count))
    return draw(row), [draw(row) for _ in range(count)], weights


def slow_ties(
    base: list[float], organs: list[list[float]], weights: tuple[float, ...], density: float
) -> list[Fraction]:
    """Algorithm 1 of arXiv:2306.01708, number by number, in exact arithmetic, not scaled."""
    votes: list[list[tuple[Fraction, Fraction]]] = [[] for _ in base]
    for values, weight in zip(organs, weights, strict=True):
        changes = [Fraction(value) - Fraction(old) for value, old in zip(values, base, strict=True)]
        ranked = sorted(range(len(base)), key=lambda place: (-abs(changes[place]), place))
        for place in ranked[: max(1, int(density * len(base)))]:
            votes[place].append((changes[place], Fraction(weight)))
    moved = []
    for cast in votes:
        total = sum((change * weight for change, weight in cast), Fraction(0))
        agreeing = [(change, weight) for change, weight in cast if change * total > 0]
        moved.append(
            sum((change * weight for change, weight in agreeing), Fraction(0))
            / (sum(weight for _, weight in agreeing) or 1)
        )
    return moved


@given(case=cases(), density=st.sampled_from([0.01, 0.2, 0.5, 0.75, 1.0]), scale=WEIGHTS)
def test_ties_is_algorithm_1(
    case: tuple[list[float], list[list[float]], tuple[float, ...]], density: float, scale: float
) -> None:
    base, organs, weights = case
    found = merged(base, organs, Ties(density=density, scale=scale, weights=weights))
    moved = slow_ties(base, organs, weights, density)
    expected = [float(old + Fraction(scale) * one) for old, one in zip(base, moved, strict=True)]
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert [one == old for one, old in zip(found, base, strict=True)] == [one == 0 for one in moved]


@given(case=cases())
def test_the_average_is_the_weighted_mean(
    case: tuple[list[float], list[list[float]], tuple[float, ...]],
) -> None:
    base, organs, weights = case
    expected = [
        float(
            sum(
                Fraction(value) * Fraction(weight)
                for value, weight in zip(row, weights, strict=True)
            )
            / sum(map(Fraction, weights))
        )
        for row in zip(*organs, strict=True)
    ]
    found = merged(base, organs, Average(weights=weights))
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)


@given(
    values=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=8),
    count=st.integers(2, 5),
)
def test_the_average_of_equal_organs_is_each(values: list[float], count: int) -> None:
    found = merged([0.0] * len(values), [values] * count, Average())
    assert found == pytest.approx(values, rel=1e-6)
    if count in {2, 4}:
        assert found == values


@given(case=cases(), density=st.sampled_from([0.2, 0.5, 1.0]))
def test_ties_has_no_leaning_to_either_sign(
    case: tuple[list[float], list[list[float]], tuple[float, ...]], density: float
) -> None:
    """With every change turned round, so is the merged change; a vote for plus would show."""
    base, organs, weights = case
    zero = [0.0] * len(base)
    how = Ties(density=density, weights=weights)
    there = merged(zero, organs, how)
    back = merged(zero, [[-value for value in row] for row in organs], how)
    assert there == [-value for value in back]


@pytest.mark.parametrize(
    ("organs", "method", "expected"),
    [
        # One dissents and is outweighed: it is left out of the mean, not averaged in.
        ([[1.0], [3.0], [-2.0]], Ties(density=1), [2.0]),
        # One dissents with more mass than the two others: it is elected alone.
        ([[1.0], [1.0], [-3.0]], Ties(density=1), [-3.0]),
        # Weights count in the election, and in the mean.
        ([[2.0], [-1.0]], Ties(density=1, weights=(0.3, 0.7)), [-1.0]),
        ([[2.0], [1.0]], Ties(density=1, weights=(1.0, 3.0)), [1.25]),
        # No sign is elected: the base stays.
        ([[1.0, 0.0], [-1.0, 0.0]], Ties(density=1), [0.0, 0.0]),
        # An organ that changed nothing here has no say and does not thin the mean.
        ([[4.0], [0.0], [0.0]], Ties(density=1), [4.0]),
        ([[4.0], [0.0], [0.0]], Average(), [4 / 3]),
        # Trimmed is the smaller half of each organ; of equal ones the later.
        ([[1.0, 4.0, -2.0, 3.0], [0.0] * 4], Ties(density=0.5), [0.0, 4.0, 0.0, 3.0]),
        ([[1.0, -1.0, 1.0, -1.0], [0.0] * 4], Ties(density=0.5), [1.0, -1.0, 0.0, 0.0]),
        ([[1.0, 1.0, 2.0, 1.0], [0.0] * 4], Ties(density=0.5), [1.0, 0.0, 2.0, 0.0]),
        # Something is always kept.
        ([[1.0, 4.0, -2.0, 3.0], [0.0] * 4], Ties(density=0.01), [0.0, 4.0, 0.0, 0.0]),
        ([[2.0], [4.0]], Ties(density=1, scale=0.5), [1.5]),
        ([[], []], Ties(), []),
        ([[], []], Average(), []),
    ],
)
def test_small_cases_by_hand(
    organs: list[list[float]], method: Method, expected: list[float]
) -> None:
    found = merged([0.0] * len(organs[0]), organs, method)
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("method", [Average(), Ties(density=1)])
def test_narrow_types_are_rounded_once_and_float64_keeps_its_digits(method: Method) -> None:
    """In bfloat16, 1 + 0.0078125 + 0.0078125 loses both; the mean needs the wider type."""
    step = 2.0**-7
    narrow = merged([0.0], [[1.0], [1.0 + step], [1.0 + step]], method, torch.bfloat16)
    assert narrow == [1.0 + step]  # the mean is 1 + 2/3 step
    fine = 1 + 2.0**-40
    assert merged([0.0], [[1.0], [1 + 2.0**-39]], method, torch.float64) == [fine]
    assert merged([0.0], [[1.0], [1 + 2.0**-39]], method, torch.float32) == [1.0]


def test_nothing_that_is_merged_is_written_to() -> None:
    """Tensors may share memory with the organs' files."""
    values = {"0.w": torch.tensor([1.0, 2.0])}, {"0.w": torch.tensor([3.0, -4.0])}
    base = {"0.w": torch.zeros(2)}
    for method in (Average(weights=(1.0, 1.0)), Ties(density=1, weights=(1.0, 1.0))):
        Merged((Held(values[0]), Held(values[1])), Held(base), method).read("0.w", shared=True)
    assert values[0]["0.w"].tolist() == [1, 2]
    assert values[1]["0.w"].tolist() == [3, -4]
    assert base["0.w"].tolist() == [0, 0]


@dataclass
class Watched:
    """Tensors that count how many are held at once."""

    tensors: Tensors
    log: list[str]

    def names(self) -> tuple[str, ...]:
        return self.tensors.names()

    def form(self, name: str) -> Form:
        return self.tensors.form(name)

    def read(self, name: str, *, shared: bool = False) -> torch.Tensor:
        self.log.append(name)
        return self.tensors.read(name, shared=shared)


def test_only_the_tensor_that_is_asked_for_is_read(host: Checkpoint) -> None:
    log: list[str] = []
    organs = [
        replace(one, tensors=Watched(one.tensors, log)) for one in (grown(host, 1), grown(host, 2))
    ]
    _, tensors = merge(organs, host, LABEL, Average())
    names = tensors.names()
    assert log == [name for name in names for _ in organs]  # once each, for the manifest
    log.clear()
    tensors.read(names[3])
    assert log == [names[3]] * 2


# What becomes of an organ.


@pytest.mark.parametrize("method", [Average(), Ties(density=0.3, scale=0.8)])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_merged_organ_transplants_and_loads(
    family: str, method: Method, models: dict[str, Path], tmp_path: Path
) -> None:
    host = open_checkpoint(models[family])
    organs = [grown(host, seed) for seed in (1, 2, 3)]
    manifest, tensors = merge(organs, host, LABEL, method)
    write_organ(tmp_path / "organ", tensors, manifest)
    read = read_organ(tmp_path / "organ")
    assert read.manifest == manifest
    assert manifest.span == Span(start=2, stop=4)
    plan = plans.transplant(6, manifest.digest, 2, mode="replace", position=2)
    graft.transplant(plan, host, {manifest.digest: read}, tmp_path / "grafted")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "grafted")
    state, stock = model.state_dict(), load_file(models[family] / "model.safetensors")
    for index, layer in read.source.layers.items():
        for rest, name in layer.items():
            there = host.anatomy.layer_tensor(index + 2, rest)
            assert torch.equal(state[there], tensors.read(name))
            assert not torch.equal(state[there], stock[there])
            if isinstance(method, Average):
                mean = torch.stack([one.tensors.read(name) for one in organs]).mean(0)
                torch.testing.assert_close(state[there], mean)
    with torch.inference_mode():
        assert model(input_ids=torch.tensor([[1, 2, 3]])).logits.isfinite().all()


@pytest.mark.parametrize(
    "method", [Average(weights=(3.0, 1.0, 0.5)), Ties(weights=(3.0, 1.0, 0.5))]
)
def test_neither_order_nor_time_changes_the_digest(host: Checkpoint, method: Method) -> None:
    organs = [grown(host, seed) for seed in (1, 2, 3)]
    first, tensors = merge(organs, host, LABEL, method)
    for order in itertools.permutations(range(3)):
        how = replace(method, weights=tuple(method.weights[place] for place in order))
        again, same = merge([organs[place] for place in order], host, LABEL, how)
        assert again.digest == first.digest
        assert all(map(torch.equal, contents(same).values(), contents(tensors).values()))
    other, _ = merge(organs, host, LABEL, replace(method, weights=(1.0, 3.0, 0.5)))
    assert other.digest != first.digest
    assert {one.sha256 for one in other.tensors} != {one.sha256 for one in first.tensors}


def test_the_manifest_says_how_and_of_whom(host: Checkpoint) -> None:
    organs = [grown(host, seed) for seed in (1, 2, 3)]
    weights = dict(zip((one.manifest.digest for one in organs), (3.0, 1.0, 0.5), strict=True))
    average, _ = merge(organs, host, LABEL, Average(weights=tuple(weights.values())))
    assert average.parents == tuple(sorted(weights))
    assert average.merge == MergeFacts(
        method="average",
        weights=tuple(weights[digest] for digest in average.parents),
        density=None,
        scale=None,
        trained=True,
    )
    assert average.training is None
    ties, _ = merge(organs, host, LABEL, Ties(density=0.5, scale=2.0))
    assert ties.merge == MergeFacts(
        method="ties", weights=(1.0, 1.0, 1.0), density=0.5, scale=2.0, trained=True
    )
    assert average.base == organs[0].manifest.base
    for one in (average, ties):
        assert canonical.decode(Manifest, canonical.encode(one), "manifest") == one


def test_the_card_tells_a_merge_of_trained_organs_from_one_of_untrained(host: Checkpoint) -> None:
    def shift(tensors: dict[str, torch.Tensor]) -> None:
        next(iter(tensors.values())).add_(1)

    plain = grown(host, None, training=None)
    shifted = grown(host, None, training=None, change=shift)
    nothing, _ = merge([plain, shifted], host, LABEL, Average())
    assert not nothing.trained
    assert "No private record was used" in card(nothing)
    half, tensors = merge([plain, grown(host, 1)], host, LABEL, Ties())
    assert "records its parents were trained on" in card(half)
    assert "No private record was used" not in card(half)
    assert "ties, density 0.2, scale 1.0, of 2 organs" in card(half)
    assert all(parent in card(half) for parent in half.parents)
    # It is told of a merge of merges too.
    again, _ = merge([plain, Organ(half, tensors)], host, Label(name="again"), Average())
    assert again.trained
    assert "records its parents were trained on" in card(again)
    assert again.privacy.mechanism == "none"
    assert "records it was trained on" in card(grown(host, 1).manifest)


@pytest.mark.parametrize(
    "change",
    [
        {"training": {}},
        {"parents": []},
        {"parents": ["0" * 64]},
        {"parents": ["0" * 64] * 2},
        {"merge": {"weights": [1, 1, 1]}},
        {"merge": {"weights": [1, 0]}},
        {"merge": {"weights": [1, -1]}},
        {"merge": {"method": "average"}},
        {"merge": {"density": None}},
        {"merge": {"density": 0}},
        {"merge": {"density": 1.5}},
        {"merge": {"scale": 0}},
        {"merge": {"scale": "Infinity"}},
        {"merge": {"method": "slerp"}},
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    change: dict[str, Any], host: Checkpoint
) -> None:
    made, _ = merge([grown(host, 1), grown(host, 2)], host, LABEL, Ties())
    data = canonical.plain(canonical.encode(made), "manifest")
    assert canonical.decode(Manifest, canonical.encode(data), "manifest") == made
    if "training" in change:
        trained = grown(host, 1).manifest
        change = {"training": canonical.plain(canonical.encode(trained), "manifest")["training"]}
    if "merge" in change:
        change = {"merge": data["merge"] | change["merge"]}
    with pytest.raises(FormatError, match="manifest is not valid"):
        canonical.decode(Manifest, canonical.encode(data | change), "manifest")


# What is refused.


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (Average, {"weights": (1.0, 0.0)}),
        (Average, {"weights": (1.0, -1.0)}),
        (Average, {"weights": (1.0, float("nan"))}),
        (Ties, {"weights": (1.0, float("inf"))}),
        (Ties, {"density": 0.0}),
        (Ties, {"density": 1.01}),
        (Ties, {"density": float("nan")}),
        (Ties, {"scale": 0.0}),
        (Ties, {"scale": float("inf")}),
    ],
)
def test_a_method_checks_its_parameters(kind: type[Method], changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        kind(**changes)


def test_fewer_than_two_organs_are_refused(host: Checkpoint) -> None:
    for organs in ([], [grown(host, 1)]):
        with pytest.raises(OrganError, match=f"{len(organs)} organs to merge; give two or more"):
            merge(organs, host, LABEL, Average())


def test_one_organ_twice_is_refused_signed_or_not(host: Checkpoint, tmp_path: Path) -> None:
    one = grown(host, 1)
    write_organ(tmp_path / "one", one.tensors, one.manifest)
    claim(tmp_path / "one", "clinic")
    for other in (one, read_organ(tmp_path / "one")):
        with pytest.raises(OrganError, match="o1 is given twice; give each organ once"):
            merge([one, grown(host, 2), other], host, LABEL, Average())


def test_a_weight_too_many_is_the_callers_bug(host: Checkpoint) -> None:
    with pytest.raises(ValueError, match="a weight for each of 2 organs, got 3"):
        merge([grown(host, 1), grown(host, 2)], host, LABEL, Average(weights=(1.0, 1.0, 1.0)))


def refused(message: str, host: Checkpoint, *organs: Organ) -> None:
    for method in (Average(), Ties()):
        for order in (organs, organs[::-1]):
            with pytest.raises(IncompatibleOrganError, match=message) as caught:
                merge(order, host, LABEL, method)
            assert "; merge organs of" in str(caught.value)


def test_another_base_is_refused(host: Checkpoint, tmp_path: Path) -> None:
    other = open_checkpoint(make_model(tmp_path / "other", "llama", seed=1))
    refused("base weights is '.*', expected '", host, grown(host, 1), grown(other, 2))
    # Organs that agree with each other, and not with the base that is given.
    refused("base weights is '.*', expected '", host, grown(other, 1), grown(other, 2))


def test_another_config_over_the_same_weights_is_refused(
    host: Checkpoint, models: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(models["llama"], tmp_path / "other"))
    text = (folder / "config.json").read_text()
    assert '"rms_norm_eps": 1e-06' in text
    (folder / "config.json").write_text(text.replace("1e-06", "1e-05"))
    other = grown(open_checkpoint(folder), 2)
    refused("rms_norm_eps is 1e-05, expected 1e-06", host, grown(host, 1), other)


def test_layers_of_another_kind_are_refused(tmp_path: Path) -> None:
    """The organs' own entries of the config count, not only the shapes."""
    host = open_checkpoint(family_model(tmp_path / "model", "gemma2"))
    one, two = grown(host, 1, (0, 2)), grown(host, 2, (0, 2))
    kinds = {"layer_types": one.manifest.base.layer_config["layer_types"][::-1]}
    odd = replace(one.manifest, base=replace(one.manifest.base, layer_config=kinds))
    refused("layer_types is", host, Organ(odd, one.tensors), two)


def test_another_vocabulary_is_refused(host: Checkpoint) -> None:
    one, two = grown(host, 1), grown(host, 2)
    odd = replace(one.manifest, base=replace(one.manifest.base, tokenizer=None))
    refused("vocabulary is None, expected '", host, Organ(odd, one.tensors), two)


def test_another_family_is_refused(host: Checkpoint, models: dict[str, Path]) -> None:
    other = grown(open_checkpoint(models["gpt2"]), 2)
    refused("family is 'gpt2', expected 'llama'", host, grown(host, 1), other)


def test_another_span_is_refused(host: Checkpoint) -> None:
    refused("span is '.:.', expected '.:.'", host, grown(host, 1), grown(host, 2, (1, 3)))
    refused("span is '.:.', expected '.:.'", host, grown(host, 1), grown(host, 2, (2, 5)))


def test_a_base_that_lacks_the_layers_is_refused(host: Checkpoint, tmp_path: Path) -> None:
    short = open_checkpoint(make_model(tmp_path / "short", "llama", layers=3))
    with pytest.raises(PlanError, match="span 2:4 reaches past the model, which has 3 layers"):
        merge([grown(host, 1), grown(host, 2)], short, LABEL, Average())


NAME = "1.mlp.down_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(NAME), f"{NAME} is None, expected 'float32 32x64'"),
        (lambda tensors: tensors.update({"0.extra": torch.ones(1)}), "0.extra is 'float32 1'"),
        (
            lambda tensors: tensors.update({NAME: tensors[NAME].T.contiguous()}),
            f"{NAME} is 'float32 64x32', expected 'float32 32x64'",
        ),
        (
            lambda tensors: tensors.update({NAME: tensors[NAME].to(torch.bfloat16)}),
            f"{NAME} is 'bfloat16 32x64', expected 'float32 32x64'",
        ),
    ],
)
def test_other_tensors_are_refused(
    change: Callable[[dict[str, torch.Tensor]], None], message: str, host: Checkpoint
) -> None:
    refused(message, host, grown(host, 1), grown(host, 2, change=change))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float8_e4m3fn])
def test_quantized_layers_are_refused(
    dtype: torch.dtype, models: dict[str, Path], tmp_path: Path
) -> None:
    """A host as quantization leaves it: the same names, in a type that has no arithmetic."""
    folder = Path(shutil.copytree(models["llama"], tmp_path / "packed"))
    kept = load_file(folder / "model.safetensors")
    kept["model.layers.2.mlp.down_proj.weight"] = torch.ones(32, 64).to(dtype)
    save_file(kept, folder / "model.safetensors")
    packed = open_checkpoint(folder)

    def pack(tensors: dict[str, torch.Tensor]) -> None:
        tensors["1.mlp.up_proj.weight"].add_(1)

    organs = grown(packed, None), grown(packed, None, change=pack)
    kind = str(dtype).removeprefix("torch.")
    refused(
        f"0.mlp.down_proj.weight is {kind} 32x64, only float64, .* can be merged", packed, *organs
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", [Average(), Ties(density=1), Ties(density=0.01)])
def test_values_that_are_not_finite_are_refused(
    host: Checkpoint, method: Method, value: float
) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors[NAME][3, 4] = value

    with pytest.raises(OrganError, match=f"{NAME} holds values that are not finite"):
        merge([grown(host, 1), grown(host, 2, change=spoil)], host, LABEL, method)


def test_what_does_not_fit_its_type_is_refused() -> None:
    with pytest.raises(OrganError, match="not finite as float16 once merged"):
        merged([0.0], [[6e4], [6e4]], Ties(density=1, scale=2.0), torch.float16)
    assert merged([0.0], [[6e4], [6e4]], Average(), torch.float16) == [6e4]


# The command.

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run ``organ`` as its entry point does: exit code, standard output, standard error."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["organ", *map(str, words)])
        capsys.readouterr()
        code: Any = 0
        try:
            commands.main()
        except SystemExit as stop:
            code = stop.code or 0
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def folders(host: Checkpoint, tmp_path: Path) -> list[Path]:
    """Three organs of one span, of two domains and licences."""
    made = []
    for seed, domain in ((1, "law"), (2, "medicine"), (3, "law")):
        one = grown(host, seed)
        manifest = replace(one.manifest, domain=domain, licence="mit")
        write_organ(tmp_path / f"o{seed}", one.tensors, manifest)
        made.append(tmp_path / f"o{seed}")
    return made


def test_the_command_merges(
    command: Command, folders: list[Path], host: Checkpoint, tmp_path: Path
) -> None:
    def run(out: str, *words: object) -> dict[str, Any]:
        asked = ("merge", *folders, "--base", host.origin, "--out", tmp_path / out, "--json")
        code, said, err = command(*asked, *words)
        assert code == 0, err
        return dict(json.loads(said))

    def expected(name: str, method: Method) -> str:
        label = Label(name=name, domain="law; medicine", licence="mit")
        return merge([read_organ(one) for one in folders], host, label, method)[0].digest

    weights = ("--weight", 3, "--weight", 1, "--weight", 0.5)
    said = run("average", *weights, "--name", "both")
    assert said["digest"] == expected("both", Average(weights=(3.0, 1.0, 0.5)))
    assert said["training"] == "none of its own (average of 3 organs)"
    assert said["domain"] == "law; medicine"
    assert read_organ(tmp_path / "average").manifest.digest == said["digest"]
    said = run("ties", "--method", "ties")
    assert said["digest"] == expected("merged", Ties(density=0.2, scale=1.0))
    said = run("own", "--method", "ties", "--density", 0.5, "--scale", 2, *weights)
    how = Ties(density=0.5, scale=2.0, weights=(3.0, 1.0, 0.5))
    assert said["digest"] == expected("merged", how)
    assert "training" in command("inspect", tmp_path / "own")[1]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--density", "0.5"], 2, "--density is for --method ties"),
        (["--scale", "0"], 2, "--scale is for --method ties"),
        (["--method", "ties", "--density", "0"], 2, "0 < density <= 1"),
        (["--method", "ties", "--scale", "-1"], 2, "finite scale"),
        (["--weight", "1"], 2, "1 weights for 2 organs"),
        (["--weight", "1", "--weight", "0"], 2, "weights > 0"),
        (["--name", "Bad Name"], 1, "organ label is not valid at name"),
        (["--method", "slerp"], 2, "slerp"),
        (["TWICE"], 1, "is given twice"),
        (["ALONE"], 1, "1 organs to merge; give two or more"),
        (["OTHER"], 1, "base weights is"),
        (["SPOILT"], 1, "not the tensor"),
        (["TAKEN"], 1, "already exists"),
    ],
)
def test_a_refused_merge_leaves_nothing_behind(
    words: list[str],
    code: int,
    message: str,
    command: Command,
    folders: list[Path],
    host: Checkpoint,
    tmp_path: Path,
) -> None:
    organs, base, out = folders[:2], host.origin, tmp_path / "out"
    if words == ["TWICE"]:
        organs = [folders[0], folders[0]]
    elif words == ["ALONE"]:
        organs = folders[:1]
    elif words == ["OTHER"]:
        base = make_model(tmp_path / "other", "llama", seed=1)
    elif words == ["SPOILT"]:
        data = bytearray((folders[0] / "organ.safetensors").read_bytes())
        data[-1] ^= 1
        (folders[0] / "organ.safetensors").write_bytes(data)
    elif words == ["TAKEN"]:
        out = folders[2]
    extra = words if words[0].startswith("--") else []
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    found, _, err = command("merge", *organs, "--base", base, "--out", out, *extra)
    assert found == code
    assert message in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
