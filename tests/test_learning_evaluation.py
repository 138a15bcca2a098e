import math
from pathlib import Path
from statistics import NormalDist

import pytest
import torch
from conftest import sentences

from not_core.errors import RecordsError
from not_core.learning.evaluation import (
    Change,
    DocumentLoss,
    Reading,
    _expanded_tail,
    compare,
    read_losses,
)
from not_core.learning.text_blocks import document_blocks
from not_core.learning.verdict import Tolerance, judge
from not_core.surgery import plan as plans
from not_core.surgery.assemble import assemble
from not_core.surgery.checkpoint import open_checkpoint


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_losses_equal_those_of_transformers(family: str, models: dict[str, Path]) -> None:
    host = open_checkpoint(models[family])
    model = assemble(plans.identity(6), host, {})
    texts = [*sentences(3, seed=1), "the patient", " ".join(sentences(3, seed=2))]
    reading = read_losses(model, host.tokenizer, texts, block_tokens=32, blocks_per_document=None)
    nats = tokens = 0.0
    for text, loss in zip(texts, reading.losses, strict=True):
        ids = host.tokenizer(text)["input_ids"]
        expected = 0.0
        for start in range(0, len(ids), 32):
            block = torch.tensor([ids[start : start + 32]])
            if block.shape[1] > 1:
                with torch.no_grad():
                    mean = model(input_ids=block, labels=block).loss
                expected += float(mean) * (block.shape[1] - 1)
                tokens += block.shape[1] - 1
        assert loss.nats == pytest.approx(expected, rel=1e-5)
        nats += expected
    assert reading.tokens == tokens
    assert reading.perplexity == pytest.approx(math.exp(nats / tokens), rel=1e-5)


def test_blocks_never_hold_two_documents(models: dict[str, Path]) -> None:
    tokenizer = open_checkpoint(models["llama"]).tokenizer
    texts = ["the patient was", "court judge law case filed", "the"]
    blocks = document_blocks(tokenizer, texts, 2, None)
    assert [len(parts) for parts in blocks] == [1, 2, 0]
    words = [tokenizer.decode(block) for parts in blocks for block in parts]
    assert words == ["the patient", "court judge", "law case"]
    assert [len(parts) for parts in document_blocks(tokenizer, texts, 2, 1)] == [1, 1, 0]


def test_nothing_to_predict_is_refused(models: dict[str, Path]) -> None:
    host = open_checkpoint(models["llama"])
    with pytest.raises(RecordsError, match="two tokens"):
        read_losses(assemble(plans.identity(6), host, {}), host.tokenizer, ["the"])


def reading(*nats: float, tokens: int = 100) -> Reading:
    return Reading(tuple(DocumentLoss(value, tokens) for value in nats))


def test_a_gain_on_every_document_excludes_zero() -> None:
    change = compare(reading(300, 310, 290, 305), reading(280, 288, 272, 284), seed=0)
    assert change.change == pytest.approx(math.expm1(-81 / 400))
    assert change.low < change.change < change.high < 0


def test_a_mixed_change_does_not() -> None:
    change = compare(reading(300, 310, 290, 305), reading(280, 330, 272, 324), seed=0)
    assert change.low < 0 < change.high


def test_one_document_proves_nothing() -> None:
    change = compare(reading(300), reading(200), seed=0)
    assert (change.low, change.high) == (-1.0, math.inf)


def test_a_ruined_model_has_a_perplexity_and_is_rejected() -> None:
    ruined = reading(90_000, 95_000, 99_000)
    assert ruined.perplexity == math.inf
    change = compare(reading(300, 310, 290), ruined, seed=0)
    assert (change.change, change.high) == (math.inf, math.inf)
    assert judge(change, 0.0, Tolerance()).reason == "perplexity is not finite with it"
    assert compare(ruined, reading(300, 310, 290), seed=0).change == -1


def test_readings_of_other_documents_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="same documents"):
        compare(reading(1, 2), reading(1, 2, tokens=50), seed=0)


def test_the_interval_covers_the_truth_about_95_times_in_100() -> None:
    """At the demo's 20 documents; plain percentiles cover 92."""
    rng = torch.Generator().manual_seed(0)
    hits = 0
    for trial in range(1000):
        after = [300 - 10 + 10 * float(x) for x in torch.randn(20, generator=rng)]
        change = compare(reading(*[300.0] * 20), reading(*after), seed=trial)
        hits += change.low <= math.expm1(-0.1) <= change.high
    assert 935 <= hits <= 970


@pytest.mark.parametrize(("count", "t"), [(6, 2.571), (10, 2.262), (20, 2.093), (1000, 1.962)])
def test_the_tail_follows_students_t(count: int, t: float) -> None:
    expected = NormalDist().cdf(-math.sqrt(count / (count - 1)) * t)
    assert _expanded_tail(count) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    ("change", "general", "verdict", "word"),
    [
        (Change(-0.2, -0.25, -0.15), 0.01, "accepted", "-20.0%"),
        (Change(-0.2, -0.45, 0.05), 0.01, "rejected", "not surely better"),
        (Change(0.2, 0.15, 0.25), 0.0, "rejected", "worse than without"),
        (Change(-0.01, -0.015, -0.005), 0.0, "rejected", "less than the 2.0%"),
        (Change(math.nan, -0.3, -0.1), 0.0, "rejected", "not finite"),
        (Change(-0.2, -0.25, -0.15), math.inf, "rejected", "not finite"),
        (Change(-0.2, -0.25, -0.15), 0.2, "rejected", "general perplexity changed by +20.0%"),
    ],
)
def test_verdicts(change: Change, general: float, verdict: str, word: str) -> None:
    found = judge(change, general, Tolerance())
    assert found.verdict == verdict
    assert word in found.reason
