"""Speed and memory of what a site does, beside others doing the same; for ``make bench-speed``.

Every measurement runs in a process of its own, so that peak memory is its own; contestants take
turns, so that a drift of the machine's speed hits all alike.
"""

import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from not_core import atomic
from not_core.errors import ExchangeError
from simulations import tables
from simulations.benches.arithmetic import best_rate, profile
from simulations.benches.bench import spread
from simulations.machine import computes_in_bfloat16, peak_bytes, processor

if TYPE_CHECKING:
    from not_core.learning.device import Precision
    from not_core.learning.recipe import Recipe

SEED = 0
BLOCK_TOKENS = 256
NATIVE = "training by factors in bfloat16"
"""Measured where the processor multiplies that."""
ORGANS = 4
"""Organs that are measured together."""
PART = "part of the machine's rate"
Work = Callable[[], int]
"""What is timed; returns the tokens it went through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One measurement: seconds of the work; training includes building the model."""

    seconds: float
    tokens: int
    peak_mb: float

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


def _texts() -> list[str]:
    from simulations.material import domains

    return [record.text for record in domains.abstracts()[:100]]


def _recipe(tokens: int, rank: int | None, type_: "Precision") -> "Recipe":
    from not_core.learning.recipe import Recipe

    return Recipe(
        rank=rank,
        tokens=tokens,
        head_sample=None,  # the loss over all ids, as the Trainer's is
        precision=type_,
        seed=SEED,
        threads=1,
        device="cpu",
    )


def _ours(model: str, tokens: int, rank: int | None, type_: "Precision" = "float32") -> Work:
    from not_core.learning.recipe import default_span
    from not_core.learning.training import train
    from not_core.surgery.checkpoint import open_checkpoint

    host, texts = open_checkpoint(model), _texts()
    _ = host.tokenizer, host.weights_digest  # read once on any site, whatever it does
    span, recipe = default_span(host.layers, rank), _recipe(tokens, rank, type_)
    return lambda: train(host, span, texts, recipe).facts.tokens


def _trainer(model: str, tokens: int, rank: int | None, type_: "Precision" = "float32") -> Work:
    """The same layers, or factors of them, and the same blocks, one a step, by the Trainer."""
    import torch
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    from not_core.learning.device import threads
    from not_core.learning.lessons import Budget, Lessons
    from not_core.learning.recipe import default_span
    from not_core.surgery.checkpoint import open_checkpoint

    host, recipe = open_checkpoint(model), _recipe(tokens, rank, type_)
    span = default_span(host.layers, rank)
    lessons = Lessons(host.tokenizer, _texts(), (), recipe)
    sections = lessons.sections(Budget(recipe, lessons.there, time.monotonic()))
    blocks = [lessons.blocks[n] for section in sections for pack in section for n in pack]

    def work() -> int:
        with tempfile.TemporaryDirectory() as folder, threads(1):
            body: Any = AutoModelForCausalLM.from_pretrained(model, dtype=type_)
            stack = body.get_submodule(host.anatomy.layers.removesuffix("."))
            if rank is None:
                body.requires_grad_(False)
                for layer in list(stack)[span.start : span.stop]:
                    layer.requires_grad_(True)
            else:
                from peft import LoraConfig, get_peft_model

                linear = [n for n, one in stack.named_modules() if type(one) is torch.nn.Linear]
                body = get_peft_model(
                    body,
                    LoraConfig(
                        r=rank,
                        lora_alpha=rank,
                        target_modules=sorted({name.rpartition(".")[2] for name in linear}),
                        layers_to_transform=list(range(span.start, span.stop)),
                        task_type="CAUSAL_LM",
                    ),
                )
            Trainer(
                model=body,
                args=_arguments(TrainingArguments, folder, recipe.peak),
                train_dataset=[{"input_ids": block, "labels": block} for block in blocks],
            ).train()
        return sum(map(len, blocks))

    return work


def _arguments(kind: Any, folder: str, rate: float) -> Any:
    return kind(
        output_dir=folder,
        per_device_train_batch_size=1,
        per_device_eval_batch_size=1,
        num_train_epochs=1,
        learning_rate=rate,
        weight_decay=0.0,
        lr_scheduler_type="cosine",
        warmup_steps=1,
        use_cpu=True,
        seed=SEED,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        prediction_loss_only=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )


def train_organ(model: str, tokens: int) -> Work:
    """An organ by factors, with the default recipe but for its type."""
    return _ours(model, tokens, 16)


def train_organ_by_trainer(model: str, tokens: int) -> Work:
    """Factors of the same layers by PEFT and transformers' Trainer."""
    return _trainer(model, tokens, 16)


def train_organ_in_bfloat16(model: str, tokens: int) -> Work:
    """An organ by factors, the frozen model in bfloat16."""
    return _ours(model, tokens, 16, "bfloat16")


def train_organ_in_bfloat16_by_trainer(model: str, tokens: int) -> Work:
    """Factors of the same layers by PEFT and transformers' Trainer, the model in bfloat16."""
    return _trainer(model, tokens, 16, "bfloat16")


def train_whole_layers(model: str, tokens: int) -> Work:
    """An organ of three whole layers."""
    return _ours(model, tokens, None)


def train_whole_layers_by_trainer(model: str, tokens: int) -> Work:
    """The same three layers by transformers' Trainer."""
    return _trainer(model, tokens, None)


def evaluate(model: str, tokens: int) -> Work:
    """Perplexity by document, as recipients measure it."""
    from not_core.learning.device import threads
    from not_core.learning.evaluation import read_losses
    from not_core.surgery.assemble import assemble
    from not_core.surgery.checkpoint import open_checkpoint
    from not_core.surgery.plan import identity

    host = open_checkpoint(model)
    body, texts, tokenizer = assemble(identity(host.layers), host, {}), _texts(), host.tokenizer

    def work() -> int:
        with threads(1):
            return read_losses(body, tokenizer, texts[: tokens // BLOCK_TOKENS]).tokens

    return work


def evaluate_by_trainer(model: str, tokens: int) -> Work:
    """The same documents by ``Trainer.evaluate``."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

    from not_core.learning.device import threads
    from not_core.learning.text_blocks import document_blocks

    body = AutoModelForCausalLM.from_pretrained(model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = _texts()[: tokens // BLOCK_TOKENS]
    blocks = [parts[0] for parts in document_blocks(tokenizer, texts, BLOCK_TOKENS, 1)]

    def work() -> int:
        with tempfile.TemporaryDirectory() as folder, threads(1):
            Trainer(
                model=body,
                args=_arguments(TrainingArguments, folder, 1e-3),
                eval_dataset=[{"input_ids": block, "labels": block} for block in blocks],
            ).evaluate()
        return sum(len(block) - 1 for block in blocks)

    return work


def evaluate_organs(model: str, tokens: int) -> Work:
    """A host and four organs of three layers in it; what lies below them is computed once."""
    return _organs(model, tokens, None, shared=True)


def evaluate_organs_apart(model: str, tokens: int) -> Work:
    """The same host and four organs, a whole model each."""
    return _organs(model, tokens, None, shared=False)


def evaluate_wide_organs(model: str, tokens: int) -> Work:
    """A host and four organs of the layers that factors learn in by default."""
    return _organs(model, tokens, 16, shared=True)


def evaluate_wide_organs_apart(model: str, tokens: int) -> Work:
    """The same host and four wide organs, a whole model each."""
    return _organs(model, tokens, 16, shared=False)


def _organs(model: str, tokens: int, rank: int | None, *, shared: bool) -> Work:
    """Their weights are the host's own: what they are decides nothing of what they cost."""
    from not_core.learning.device import threads
    from not_core.learning.evaluation import read_blocks
    from not_core.learning.readings import read_plans
    from not_core.learning.recipe import default_span
    from not_core.learning.text_blocks import document_blocks
    from not_core.surgery.assemble import assemble
    from not_core.surgery.checkpoint import open_checkpoint
    from not_core.surgery.plan import identity, transplant

    host = open_checkpoint(model)
    span = default_span(host.layers, rank)
    names = [f"organ-{number}" for number in range(ORGANS)]
    sources = {name: host.source for name in names}
    plans = {
        name: transplant(host.layers, name, len(span), mode="replace", position=span.start)
        for name in names
    }
    documents = document_blocks(host.tokenizer, _texts()[: tokens // BLOCK_TOKENS], BLOCK_TOKENS, 1)

    def work() -> int:
        with threads(1):
            if shared:
                readings = read_plans(host, sources, plans, documents)
                found = [readings.before, *readings.after.values()]
            else:
                wanted = (identity(host.layers), *plans.values())
                found = [read_blocks(assemble(plan, host, sources), documents) for plan in wanted]
        return sum(reading.tokens for reading in found)

    return work


Contestant = Callable[[str, int], Work]
CONTESTS: dict[str, tuple[Contestant, Contestant]] = {
    "training by factors": (train_organ, train_organ_by_trainer),
    NATIVE: (train_organ_in_bfloat16, train_organ_in_bfloat16_by_trainer),
    "training of whole layers": (train_whole_layers, train_whole_layers_by_trainer),
    "evaluation": (evaluate, evaluate_by_trainer),
    "evaluation of four organs": (evaluate_organs, evaluate_organs_apart),
    "evaluation of four wide organs": (evaluate_wide_organs, evaluate_wide_organs_apart),
}
"""Ours, and another way of doing the same."""


def contests() -> dict[str, tuple[Contestant, Contestant]]:
    """What is measured on this machine."""
    native = computes_in_bfloat16()
    return {title: pair for title, pair in CONTESTS.items() if native or title != NATIVE}


def measure(
    model: str, out: Path, tokens: int, runs: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Measure every contestant ``runs`` times, in turns; keep results as they come.

    Args:
        model: Folder of the base model.
        out: Folder for bench-speed.json and bench-speed.md, which are made at the end.
        tokens: Of each measurement.
        runs: Measurements of each contestant.
        say: Told of progress.

    Returns:
        What bench-speed.json holds: all runs, a row of ``work`` for each contest, and
        ``arithmetic``.

    Raises:
        ExchangeError: A measurement failed.
    """
    out.mkdir(parents=True, exist_ok=True)
    titles = contests()
    found: dict[str, list[Run]] = {}
    rates: list[float] = []
    so_far = out / "bench-speed-so-far.json"
    result: dict[str, Any] = {"machine": processor(), "tokens": tokens, "seed": SEED, "threads": 1}
    for number in range(runs):
        say(f"run {number + 1} of {runs}: the machine's matrix products")
        rates.append(_child("rate", model, tokens)["gigaflops"])
        for contestant in itertools.chain(*titles.values()):
            name = contestant.__name__
            say(f"run {number + 1} of {runs}: {name}")
            found.setdefault(name, []).append(Run(**_child(name, model, tokens)))
        result["runs"] = {name: [asdict(run) for run in done] for name, done in found.items()}
        result["gigaflops"] = rates
        atomic.write(so_far, json.dumps(result, indent=1).encode())
    say("profile of training")
    seen = _child("profile", model, tokens)
    result["work"] = [
        _row(title, found[ours.__name__], found[other.__name__])
        for title, (ours, other) in titles.items()
    ]
    result["arithmetic"] = _arithmetic(found[train_organ.__name__], rates, seen)
    atomic.write(out / "bench-speed.json", json.dumps(result, indent=1).encode())
    atomic.write(out / "bench-speed.md", markdown(result).encode())
    so_far.unlink()
    return result


def _row(title: str, ours: Sequence[Run], other: Sequence[Run]) -> dict[str, str]:
    """Medians and ranges of a contest; ratios are of neighbouring runs."""
    row = {"work": title}
    for what, name in (("tokens a second", "rate"), ("peak MB", "peak_mb")):
        pairs = [(getattr(a, name), getattr(b, name)) for a, b in zip(ours, other, strict=True)]
        row[f"ours, {what}"] = spread([a for a, _ in pairs])
        row[f"the other way, {what}"] = spread([b for _, b in pairs])
        row[f"ratio of {what}"] = spread([a / b for a, b in pairs], 2)
    return row


def _arithmetic(
    runs: Sequence[Run], rates: Sequence[float], seen: Mapping[str, Any]
) -> dict[str, Any]:
    """How much of what the machine multiplies at best training by factors does, in float32."""
    flops = seen["flops_a_token"]
    return {
        "gigaflops of the machine": spread(rates),
        "megaflops a token": round(flops / 1e6),
        PART: spread(
            [run.rate * flops / 1e9 / rate for run, rate in zip(runs, rates, strict=True)],
            digits=2,
        ),
        "profile": seen["shares"],
    }


def markdown(found: Mapping[str, Any]) -> str:
    """The table for people, and the arithmetic in words.

    Args:
        found: What ``measure`` returns.
    """
    rows, facts = found["work"], found["arithmetic"]
    trained = max(run["tokens"] for run in found["runs"][train_organ.__name__])
    shares = ", ".join(f"{name} {share}" for name, share in facts["profile"].items())
    return "\n".join(
        [
            tables.table(list(rows[0]), [list(row.values()) for row in rows]),
            f"On {found['machine']}, one thread, {trained:,} tokens of abstracts to train on, seed "
            f"{found['seed']}: median (least to most) of {len(found['gigaflops'])} runs in turns. "
            "Training is timed with the building of its model, which so few steps do not make up "
            f"for. A token of training by factors takes {facts['megaflops a token']} million "
            f"operations; in float32 that is {facts[PART]} of what the machine multiplies at best "
            f"({facts['gigaflops of the machine']} gigaflops). The profile: {shares}.",
            "",
        ]
    )


def _child(name: str, model: str, tokens: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", __name__, name, model, str(tokens)],
            capture_output=True,
            text=True,
            check=False,
            cwd=empty,
        )
    if done.returncode:
        raise ExchangeError(f"measurement {name} failed: {done.stderr.strip()[-300:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _main(name: str, model: str, tokens: int) -> dict[str, Any]:
    if name == "rate":
        return best_rate()
    if name == "profile":
        return profile(train_organ(model, 4 * BLOCK_TOKENS))
    import transformers  # noqa: F401 - and torch: what importing takes is nobody's work

    contestants = {one.__name__: one for pair in CONTESTS.values() for one in pair}
    work = contestants[name](model, tokens)
    started = time.perf_counter()
    count = work()
    seconds = time.perf_counter() - started
    return asdict(Run(seconds=seconds, tokens=count, peak_mb=peak_bytes() / 1e6))


if __name__ == "__main__":
    print(json.dumps(_main(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
