import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import WORDS, make_model, sentences, write_jsonl

from not_core.errors import OrganError, RecordsError
from not_core.learning import audit
from not_core.learning.recipe import Recipe
from not_core.learning.training import train
from not_core.manifest import Span
from not_core.privacy.canaries import LENGTH, Canaries, make, words_of
from not_core.privacy.membership import membership
from not_core.privacy.report import Claim
from not_core.surgery.assemble import assemble
from not_core.surgery.checkpoint import Checkpoint, open_checkpoint
from not_core.surgery.organ import Label, Organ, describe, extract, read_manifest
from not_core.surgery.plan import transplant

SPAN = Span(start=0, stop=2)
CLAIM = Claim(epsilon=1.0, delta=1e-5)
RECIPE = Recipe(
    rank=None, epochs=40, learning_rate=1e-2, block_tokens=64, step_tokens=256, threads=1
)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("two") / "model"
    return open_checkpoint(make_model(folder, "llama", layers=2, width=64))


@pytest.fixture(scope="module")
def canaries(host: Checkpoint) -> Canaries:
    return make(words_of(host.tokenizer), 64, b"k" * 32)


@pytest.fixture(scope="module")
def overfitted(host: Checkpoint, canaries: Canaries) -> Organ:
    """Learned its few records, and the canaries among them, by heart."""
    made = train(host, SPAN, [*sentences(20, seed=1), *canaries.to_plant], RECIPE)
    manifest = describe(host, SPAN, made.tensors, Label(name="o"), training=made.facts)
    return Organ(manifest, made.tensors)


@pytest.fixture(scope="module")
def untrained(host: Checkpoint) -> Organ:
    tensors = extract(host, SPAN)
    return Organ(describe(host, SPAN, tensors, Label(name="o"), training=None), tensors)


def test_an_overfitted_organ_contradicts_its_claim(
    host: Checkpoint, canaries: Canaries, overfitted: Organ
) -> None:
    found = audit.audited(host, overfitted, canaries, claim=CLAIM)
    assert found.verdict == "contradicts the claim"
    assert found.epsilon > 1
    assert found.membership.area is not None
    assert found.membership.area.low > 0.8
    assert found.membership.true_positives is None, "so few cannot tell"
    assert found.recited.planted.value > found.recited.others.high
    assert found.recited.planted_before.value == 0
    assert found == audit.audited(host, overfitted, canaries, claim=CLAIM)


def test_an_untrained_organ_shows_nothing(
    host: Checkpoint, canaries: Canaries, untrained: Organ
) -> None:
    found = audit.audited(host, untrained, canaries, claim=CLAIM)
    assert found.epsilon == 0
    assert found.verdict == "does not contradict"
    assert found.recited.planted == found.recited.planted_before
    high = audit.audited(host, untrained, canaries, claim=replace(CLAIM, epsilon=8.0))
    assert high.verdict == "too weak to tell"


def test_coins_decide_nothing_but_what_is_learned_and_counted(
    host: Checkpoint, canaries: Canaries, overfitted: Organ
) -> None:
    """With other coins, drawn after training, the same organ gives nothing away."""
    coins = make(words_of(host.tokenizer), 64, b"other" * 6).planted
    found = audit.audited(host, overfitted, replace(canaries, planted=coins), claim=CLAIM)
    assert found.epsilon == 0


def test_records_that_were_learned_are_told_from_others(
    host: Checkpoint, overfitted: Organ, untrained: Organ
) -> None:
    members, others = sentences(20, seed=1), sentences(120, seed=2)

    def told(organ: Organ) -> tuple[float, float]:
        found = membership(
            audit.score_records(host, organ, members), audit.score_records(host, organ, others)
        )
        assert found.area is not None
        assert found.true_positives is not None
        return found.area.value, found.true_positives.value

    assert min(told(overfitted)) > 0.9
    assert told(untrained) == (0.5, 0.0)


def test_by_heart_is_what_generate_says(
    host: Checkpoint, canaries: Canaries, overfitted: Organ
) -> None:
    plan = transplant(2, "o", 2, mode="replace", position=0)
    body = assemble(plan, host, {"o": overfitted.source})
    ids = [host.tokenizer(text, add_special_tokens=False)["input_ids"] for text in canaries.texts]
    said = []
    for one in ids:
        half = len(one) // 2
        given = torch.tensor([one[:half]])
        made = body.generate(
            given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=len(one) - half,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        said.append(made[0].tolist() == one)
    seen = audit.observe(host, overfitted, canaries)
    assert list(seen.recited) == said
    assert 0 < sum(said) < len(said)


def test_words_are_whole_tokens(host: Checkpoint) -> None:
    words = words_of(host.tokenizer)
    assert {*words} <= {*WORDS}
    text = make(words, 1, b"k" * 32).texts[0]
    assert len(host.tokenizer(text)["input_ids"]) == LENGTH


def test_a_tokenizer_without_words_is_refused(host: Checkpoint, tmp_path: Path) -> None:
    class Bytes:
        def __len__(self) -> int:
            return 256

        def decode(self, ids: list[int]) -> str:
            return chr(ids[0])

    class Odd:
        tokenizer = Bytes()

    with pytest.raises(RecordsError, match="without an audit"):
        audit.canaries_for(Odd(), 4)  # type: ignore[arg-type]


def test_training_that_goes_on_keeps_its_canaries(host: Checkpoint, tmp_path: Path) -> None:
    first = audit.canaries_for(host, 8, tmp_path)
    assert (tmp_path / audit.SEED).stat().st_mode & 0o077 == 0
    assert audit.canaries_for(host, 8, tmp_path) == first
    audit.forget(tmp_path)
    assert audit.canaries_for(host, 8, tmp_path) != first


def test_train_audits_the_very_organ_and_says_nothing_of_texts(
    call: Callable[..., tuple[int, str, str]],
    organ: Callable[..., dict[str, object]],
    host: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    seed = b"m" * 32
    monkeypatch.setattr(audit.secrets, "token_bytes", lambda count: seed)
    texts = make(words_of(host.tokenizer), 30, seed).texts
    data = write_jsonl(tmp_path / "r.jsonl", sentences(20, seed=1))
    base = ["train", "--model", host.origin, "--data", data, "--epochs", 1, "--threads", 1]
    with caplog.at_level(logging.DEBUG):
        said = organ(*base, "--out", tmp_path / "o", "--audit", 30)
    kept = audit.beside(tmp_path / "o")
    found = json.loads(kept.read_bytes())
    manifest = read_manifest(tmp_path / "o")
    assert manifest.audit == said["audit"]["digest"]  # type: ignore[index]
    assert manifest.audit in (tmp_path / "o" / "README.md").read_text()
    assert found["canaries"] == 30
    assert found["verdict"] == "no claim"
    assert organ("audit", tmp_path / "o") == said["audit"]
    for text in texts:
        assert text[:40] not in kept.read_text() + json.dumps(said) + caplog.text
    assert kept.name not in {path.name for path in (tmp_path / "o").iterdir()}
    kept.write_bytes(kept.read_bytes().replace(b'"canaries":30', b'"canaries":99'))
    code, _, err = call("audit", tmp_path / "o")
    assert code == 1
    assert "not the report" in err
    assert organ(*base, "--out", tmp_path / "plain")["audit"] is None
    code, _, err = call("audit", tmp_path / "plain", "--report", kept)
    assert code == 1
    assert "names no audit" in err


def test_the_report_of_another_organ_is_refused(
    host: Checkpoint, canaries: Canaries, overfitted: Organ, untrained: Organ, tmp_path: Path
) -> None:
    found = audit.audited(host, overfitted, canaries)
    audit.write_report(tmp_path / "a.json", found)
    own = replace(overfitted.manifest, audit=found.digest)
    assert audit.read_report(tmp_path / "a.json", own) == found
    borrowed = replace(untrained.manifest, audit=found.digest)
    with pytest.raises(OrganError, match="another organ"):
        audit.read_report(tmp_path / "a.json", borrowed)
    tested = audit.audited(host, overfitted, canaries, claim=Claim(epsilon=0.5, delta=1e-5))
    audit.write_report(tmp_path / "b.json", tested)
    with pytest.raises(OrganError, match="another claim"):
        audit.read_report(tmp_path / "b.json", replace(own, audit=tested.digest))
