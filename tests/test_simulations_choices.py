import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import VOCABULARY, WORDS

from not_core.errors import ExchangeError, FormatError, SourceError
from not_core.surgery.assemble import assemble
from not_core.surgery.checkpoint import Checkpoint, open_checkpoint
from not_core.surgery.plan import identity
from simulations.experiments import cells, choices, compare, documents
from simulations.experiments.choices import MMLU, QUIZZES, Item, Quiz, ask, chosen, parse
from simulations.experiments.compare import Case
from simulations.experiments.contestants import CONTESTANTS
from simulations.experiments.quality_results import markdown, summary


def line(**changes: object) -> bytes:
    row = {"question": "Who?", "options": "A. a judge\nB. the jury", "answer": "B. the jury"}
    return json.dumps({**row, **changes}).encode()


def questions(count: int) -> list[Item]:
    """Four options of one, two, three and four words: length must matter to ``right``."""
    texts = [
        tuple(" ".join(WORDS[(7 * n + 3 * k + i) % 37] for i in range(k + 1)) for k in range(4))
        for n in range(count)
    ]
    return [
        Item(question=" ".join(WORDS[n : n + 6]), options=options, gold=n % 4)
        for n, options in enumerate(texts)
    ]


@pytest.fixture
def host(models: dict[str, Path]) -> Checkpoint:
    return open_checkpoint(models["llama"])


def by_hand(model: Any, tokenizer: Any, item: Item) -> tuple[int, int]:
    """The likeliest option, by the character and as it is, without lm-eval."""
    sums = []
    before = tokenizer(f"Question: {item.question}\nAnswer:")["input_ids"]
    for option in item.options:
        ids = torch.tensor([before + tokenizer(f" {option}")["input_ids"]])
        with torch.inference_mode():
            likely = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        nats = likely.gather(1, ids[0, 1:, None])[len(before) - 1 :, 0]
        sums.append(nats.sum().item())
    normed = [nats / len(text) for nats, text in zip(sums, item.options, strict=True)]
    return normed.index(max(normed)), sums.index(max(sums))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_scores_are_those_of_a_calculation_by_hand(family: str, models: dict[str, Path]) -> None:
    host = open_checkpoint(models[family])
    model = assemble(identity(host.layers), host, {})
    asked = questions(24)
    hand = [by_hand(model, host.tokenizer, item) for item in asked]
    score = ask(model, host.tokenizer, asked)
    right = [int(normed == item.gold) for (normed, _), item in zip(hand, asked, strict=True)]
    raw = [int(plain == item.gold) for (_, plain), item in zip(hand, asked, strict=True)]
    assert right != raw
    assert score.right == tuple(right)
    assert score.raw_accuracy == pytest.approx(sum(raw) / 24)
    assert score.accuracy == pytest.approx(share := sum(right) / 24)
    assert score.stderr == pytest.approx(math.sqrt(share * (1 - share) / 23))


def test_a_model_that_favours_a_word_is_right_exactly_where_it_is_gold(host: Checkpoint) -> None:
    model = assemble(identity(host.layers), host, {})
    forward = model.forward

    def rigged(*given: Any, **named: Any) -> Any:
        found = forward(*given, **named)
        found.logits = torch.zeros_like(found.logits)
        found.logits[..., VOCABULARY["judge"]] = 20
        return found

    model.forward = rigged
    options = ("heart", "court", "judge", "drugs")
    asked = [Item(question="the law", options=options, gold=gold) for gold in (2, 0, 2, 1, 3)]
    assert ask(model, host.tokenizer, asked).right == (1, 0, 1, 0, 0)


def test_the_tokenizer_stays_as_it_was(host: Checkpoint) -> None:
    assert host.tokenizer.pad_token is None
    ask(assemble(identity(host.layers), host, {}), host.tokenizer, questions(2))
    assert host.tokenizer.pad_token is None


def test_one_item_has_no_standard_error(host: Checkpoint) -> None:
    model = assemble(identity(host.layers), host, {})
    assert math.isnan(ask(model, host.tokenizer, questions(1)).stderr)
    with pytest.raises(ValueError, match="one or more items"):
        ask(model, host.tokenizer, [])


def test_a_question_is_read_from_its_letters() -> None:
    options = "A. one. \nB. of two\nlines\nC. $5"
    item = parse(line(options=options, answer="C. $5"), "line 1")
    assert item == Item(question="Who?", options=("one.", "of two\nlines", "$5"), gold=2)


@pytest.mark.parametrize(
    "changes",
    [
        {"answer": "C. nobody"},
        {"answer": "A. the jury"},
        {"answer": "the jury"},
        {"answer": None},
        {"options": "A. the jury\nB. the jury"},
        {"options": "A. a judge\nC. the jury", "answer": "C. the jury"},
        {"options": "B. the jury"},
        {"options": "A. the jury", "answer": "A. the jury"},
        {"options": "A. \nB. the jury"},
        {"options": ["a judge", "the jury"]},
        {"question": " "},
    ],
)
def test_a_malformed_question_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(SourceError, match="line 7"):
        parse(line(**changes), "line 7")


def test_what_is_not_json_is_refused() -> None:
    with pytest.raises(FormatError, match="line 7"):
        parse(b"{", "line 7")
    with pytest.raises(SourceError, match="no fitting question"):
        chosen(b"", QUIZZES["abstracts"])


def test_a_question_belongs_by_two_words_or_by_one_that_is_enough() -> None:
    quiz = Quiz(path=MMLU, words=frozenset({"court", "judge"}), alone=frozenset({"plaintiff"}))
    asked = ["court", "a Court and a judge", "a plaintiff", "judge judge", "courtly plaintiffs"]
    lines = b"\n".join(
        line(question=one, options="A. x\nB. y", answer="A. x") for one in [*asked, asked[2]]
    )
    assert {item.question for item in chosen(lines, quiz)} == set(asked[1:3])
    assert len(chosen(lines, quiz)) == 2
    assert len(chosen(lines, Quiz(path=MMLU))) == len(asked)


def test_the_choice_is_fixed_and_bounded() -> None:
    lines = [line(question=f"Number {n}?") for n in range(500)]
    lines.append(line(question="long " * choices.WORDS))
    found = chosen(b"\n".join(lines), Quiz(path=MMLU))
    assert found == chosen(b"\n".join(lines), Quiz(path=MMLU))
    assert len(set(found)) == choices.ITEMS
    assert not any("long" in item.question for item in found)


@pytest.mark.real
@pytest.mark.parametrize(
    ("domain", "count"), [("abstracts", 120), ("cases", 107), ("weaknesses", 99), ("finance", 120)]
)
def test_every_domain_has_well_formed_questions(domain: str, count: int) -> None:
    def missing(said: str) -> None:
        raise AssertionError(f"the cache lacks something ({said}); run make fetch")

    found = choices.items(domain, missing)
    assert len(set(found)) == len(found) == count
    assert all(len(item.options) == 4 for item in found)
    # No letter may be the answer so often that guessing it pays.
    share = [sum(item.gold == letter for item in found) / count for letter in range(4)]
    assert max(share) < 0.36
    tells = {"abstracts": "patient", "cases": "law", "weaknesses": "program", "finance": "price"}
    assert sum(tells[domain] in item.question.lower() for item in found) >= 8


CASE = Case(
    domain="cases", name="stock", contestant=CONTESTANTS["stock"], budget=("tokens", 1), seed=0
)


def test_asking_changes_the_name_of_a_result_and_not_asking_does_not() -> None:
    assert CASE.file.startswith("cases-stock-tokens1-seed0-test-")
    assert replace(CASE, choices=True).file == CASE.file.replace(".json", "-choices.json")


def test_a_measurement_asks_only_when_told(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = tuple(" ".join(WORDS[n : n + 12]) for n in range(4))
    general = [type("Record", (), {"text": text}) for text in texts]
    monkeypatch.setattr(compare, "parts", lambda domain: documents.Parts(texts, texts, texts))
    monkeypatch.setattr(compare.domains, "general", lambda: general)
    monkeypatch.setattr(choices, "items", lambda domain, report: tuple(questions(8)))
    model = str(models["llama"])
    assert not [key for key in compare.measure(CASE, model) if key.startswith("choices")]
    row = json.loads(json.dumps(compare.measure(replace(CASE, choices=True), model)))
    assert row["choices_items"] == len(row["choices_right"]) == 8
    assert row["choices_accuracy"] == pytest.approx(sum(row["choices_right"]) / 8)
    assert row["choices_stderr"] > 0


def test_without_lm_eval_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = ("json", "no_such_package")
    with pytest.raises(ExchangeError, match=r"no_such_package .* organ-exchange\[comparison\]"):
        list(cells.run([CASE], "none", tmp_path, print, module="none", needs=needs))


def measured(name: str, seed: int, right: list[int] | None) -> dict[str, Any]:
    row = {
        **{"domain": "cases", "budget": 9, "name": name, "seed": seed, "machine": "m"},
        **{"tokens": 9, "cpu_seconds": 1.0, "peak_mb": 1, "trainable": 1, "artefact_bytes": 1},
        **{"domain_perplexity": 9.0, "general_perplexity": 9.0},
        **dict.fromkeys(("domain_losses", "general_losses"), [[1.0, 1]] * 2),
    }
    if right is not None:
        share = sum(right) / len(right)
        row["choices_right"], row["choices_items"] = right, len(right)
        row["choices_accuracy"] = share
        row["choices_stderr"] = math.sqrt(share * (1 - share) / (len(right) - 1))
    return row


def test_the_table_compares_accuracy_question_by_question() -> None:
    rows = [
        measured("lora", 0, [1, 0, 0, 0]),
        measured("organ", 0, [1, 1, 0, 0]),
        measured("lora", 1, [0, 0, 0, 1]),
        measured("organ", 1, [0, 1, 0, 1]),
    ]
    table = {row["method"]: row for row in summary(rows)}
    assert table["organ"]["accuracy"] == 0.5
    assert table["organ"]["accuracy error"] == pytest.approx(math.sqrt(0.25 / 3), abs=1e-4)
    # Question 2 alone is gained, by both seeds: mean 1/4, error of (0, 1, 0, 0).
    assert table["organ"]["accuracy less LoRA's"] == [0.25, 0.25]
    assert "accuracy less LoRA's" not in table["lora"]
    text = markdown(list(table.values()))
    assert "| 0.500 ± 0.289 | +0.250 ± 0.250 |" in text
    assert "| 0.250 ± 0.250 |  |" in text


def test_results_without_questions_still_make_a_table() -> None:
    table = summary([measured("lora", 0, None), measured("organ", 0, [1, 0])])
    assert "accuracy" not in table[0]
    assert table[1]["accuracy"] == 0.5
    assert "accuracy less LoRA's" not in table[1]
    assert markdown(table).count("\n") == 4
