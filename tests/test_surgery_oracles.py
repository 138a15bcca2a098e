"""Programs that we did not write agree with what surgery writes: mergekit, PEFT, lm-eval."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import WORDS, make_model
from safetensors.torch import load_file
from surgeries import cut_of, put
from transformers import AutoModelForCausalLM

from not_core.surgery.checkpoint import open_checkpoint
from not_core.surgery.organ import Organ
from not_core.surgery.plan import Mode

ALLOW = frozenset({"base"})


def passthrough(out: Path, base: Path, *slices: tuple[Path, int, int]) -> Path:
    """What mergekit makes of a run of layers of several models."""
    from mergekit.config import MergeConfiguration
    from mergekit.io.tasks import LoaderCache
    from mergekit.merge import MergeOptions, run_merge

    LoaderCache().loaders.clear()  # kept for the whole process, by path
    config: dict[str, Any] = {
        "merge_method": "passthrough",
        "base_model": str(base),
        "slices": [
            {"sources": [{"model": str(model), "layer_range": [start, stop]}]}
            for model, start, stop in slices
        ],
    }
    options = MergeOptions(quiet=True, write_model_card=False, clone_tensors=True)
    run_merge(MergeConfiguration.model_validate(config), str(out), options)
    return out


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_mergekit_makes_the_same_tensors_of_the_same_plan(family: str, tmp_path: Path) -> None:
    host, donor = (make_model(tmp_path / name, family, seed=i) for i, name in enumerate("hd"))
    one, two = cut_of(open_checkpoint(donor), 1, 3), cut_of(open_checkpoint(donor), 4, 6)
    plans: dict[str, tuple[tuple[tuple[Organ, Mode, int], ...], tuple[tuple[Path, int, int], ...]]]
    plans = {
        "replace": (
            ((one, "replace", 3),),
            ((host, 0, 3), (donor, 1, 3), (host, 5, 6)),
        ),
        "insert": (
            ((one, "insert", 2),),
            ((host, 0, 2), (donor, 1, 3), (host, 2, 6)),
        ),
        "both": (
            ((one, "replace", 1), (two, "insert", 4)),
            ((host, 0, 1), (donor, 1, 3), (host, 3, 4), (donor, 4, 6), (host, 4, 6)),
        ),
    }
    for name, (grafts, slices) in plans.items():
        ours = load_file(
            put(open_checkpoint(host), tmp_path / name, *grafts, allow=ALLOW) / "model.safetensors"
        )
        theirs_at = passthrough(tmp_path / f"{name}-mergekit", host, *slices)
        theirs = load_file(theirs_at / "model.safetensors")
        assert ours.keys() == theirs.keys()
        assert len(ours) > 30
        for key, tensor in ours.items():
            assert torch.equal(tensor, theirs[key]), key
        ids = torch.tensor([[1, 2, 3, 4]])
        with torch.inference_mode():
            both = [
                AutoModelForCausalLM.from_pretrained(at)(ids).logits
                for at in (tmp_path / name, theirs_at)
            ]
        assert torch.equal(*both)


@pytest.mark.parametrize(("family", "target"), [("llama", "q_proj"), ("gpt2", "c_attn")])
@pytest.mark.filterwarnings("ignore:fan_in_fan_out:UserWarning:peft")
def test_peft_trains_a_lora_in_a_grafted_checkpoint(
    family: str, target: str, models: dict[str, Path], tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    out = put(
        open_checkpoint(models[family]),
        tmp_path / "out",
        (cut_of(open_checkpoint(models[family]), 1, 3), "insert", 6),
    )
    model: Any = get_peft_model(
        AutoModelForCausalLM.from_pretrained(out),
        LoraConfig(
            task_type="CAUSAL_LM",
            r=4,
            lora_alpha=8,
            target_modules=[target],
            layers_to_transform=[6, 7],
            fan_in_fan_out=family == "gpt2",
        ),
    )
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    assert len(trained) == 4
    assert all(".6." in name or ".7." in name for name in trained)
    ids = torch.arange(1, 17).reshape(2, 8)
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    losses = []
    for _ in range(3):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for name, parameter in model.named_parameters():
        assert name in trained or torch.equal(parameter, frozen[name])


def test_lm_eval_runs_a_local_task_on_a_grafted_checkpoint(
    models: dict[str, Path], tmp_path: Path
) -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager

    out = put(
        open_checkpoint(models["llama"]),
        tmp_path / "out",
        (cut_of(open_checkpoint(models["llama"]), 1, 3), "insert", 4),
    )
    rng = random.Random(0)
    words = sorted(set(WORDS))
    rows = [
        {
            "question": " ".join(rng.choices(words, k=8)),
            "choices": rng.sample(words, 4),
            "answer": rng.randrange(4),
        }
        for _ in range(12)
    ]
    (tmp_path / "quiz.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tasks").mkdir()
    task = {
        "task": "quiz",
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(tmp_path / "quiz.jsonl")},
            "cache_dir": str(tmp_path / "cache"),
        },
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc"}],
    }
    (tmp_path / "tasks" / "quiz.yaml").write_text(json.dumps(task))
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(out), "dtype": "float32", "prefix_token_id": 0},
        tasks=["quiz"],
        task_manager=TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False),
        device="cpu",
        batch_size=4,
        bootstrap_iters=0,
    )

    # The same choice by hand: the answer whose words the grafted model finds most likely.
    host = open_checkpoint(out)
    model = AutoModelForCausalLM.from_pretrained(out).eval()
    right = 0
    for row in rows:
        scores = []
        for choice in row["choices"]:
            ids = torch.tensor([host.tokenizer(f"{row['question']} {choice}")["input_ids"]])
            with torch.inference_mode():
                likely = model(input_ids=ids[:, :-1]).logits.log_softmax(-1)
            scores.append(likely[0, -1, ids[0, -1]].item())
        right += scores.index(max(scores)) == row["answer"]
    assert found["results"]["quiz"]["acc,none"] == pytest.approx(right / len(rows))
    assert found["results"]["quiz"]["sample_len"] == len(rows)
