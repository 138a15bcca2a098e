"""Speed and memory of what a site does, beside others doing the same; for ``make bench-speed``.

Every measurement runs in a process of its own, so that peak memory is its own; contestants take
turns, so that a drift of the machine's speed hits all alike.
"""

import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from not_core import atomic
from not_core.errors import ExchangeError
from simulations.arithmetic import machine, profile

if TYPE_CHECKING:
    from not_core.learning.recipe import Recipe

SEED = 0
BLOCK_TOKENS = 256
ORGANS = 4
"""Organs that are measured together."""
Work = Callable[[], int]
"""What is timed; returns the tokens it went through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One measurement: seconds of the work; training includes building the model."""

    seconds: float
    tokens: int
    peak_mb: float


def _texts() -> list[str]:
    from simulations import domains

    return [record.text for record in domains.abstracts()[:100]]


def _recipe(tokens: int, rank: int | None) -> "Recipe":
    from not_core.learning.recipe import Recipe

    return Recipe(rank=rank, tokens=tokens, seed=SEED, threads=1, device="cpu")


def _ours(model: str, tokens: int, rank: int | None) -> Work:
    from not_core.learning.recipe import default_span
    from not_core.learning.training import train
    from not_core.surgery.checkpoint import open_checkpoint

    host, texts = open_checkpoint(model), _texts()
    _ = host.tokenizer, host.weights_digest  # read once on any site, whatever it does
    span = default_span(host.layers, rank)
    return lambda: train(host, span, texts, _recipe(tokens, rank)).facts.tokens


def _trainer(model: str, tokens: int, rank: int | None) -> Work:
    """The same layers or factors of the same layers, the same blocks and steps, by the Trainer."""
    import torch
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    from not_core.learning.device import threads
    from not_core.learning.lessons import Budget, Lessons
    from not_core.learning.recipe import default_span
    from not_core.surgery.checkpoint import open_checkpoint

    host, recipe = open_checkpoint(model), _recipe(tokens, rank)
    span = default_span(host.layers, rank)
    lessons = Lessons(host.tokenizer, _texts(), (), recipe)
    sections = lessons.sections(Budget(recipe, lessons.there, time.monotonic()))
    blocks = [lessons.blocks[n] for section in sections for pack in section for n in pack]

    def work() -> int:
        with tempfile.TemporaryDirectory() as folder, threads(1):
            body: Any = AutoModelForCausalLM.from_pretrained(model)
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
    """An organ by factors, with the default recipe."""
    return _ours(model, tokens, 16)


def train_organ_by_trainer(model: str, tokens: int) -> Work:
    """Factors of the same layers by PEFT and transformers' Trainer."""
    return _trainer(model, tokens, 16)


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
    return _organs(model, tokens, shared=True)


def evaluate_organs_apart(model: str, tokens: int) -> Work:
    """The same host and four organs, a whole model each."""
    return _organs(model, tokens, shared=False)


def _organs(model: str, tokens: int, *, shared: bool) -> Work:
    from not_core.learning.device import threads
    from not_core.learning.evaluation import read_blocks
    from not_core.learning.readings import read_plans
    from not_core.learning.text_blocks import document_blocks
    from not_core.surgery.assemble import assemble
    from not_core.surgery.checkpoint import open_checkpoint
    from not_core.surgery.plan import identity, transplant

    host = open_checkpoint(model)
    start = host.layers // 3
    names = [f"organ-{number}" for number in range(ORGANS)]
    sources = {name: host.source for name in names}
    plans = {
        name: transplant(host.layers, name, 3, mode="replace", position=start) for name in names
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


CONTESTS: dict[str, tuple[Callable[[str, int], Work], Callable[[str, int], Work]]] = {
    "training by factors": (train_organ, train_organ_by_trainer),
    "training of whole layers": (train_whole_layers, train_whole_layers_by_trainer),
    "evaluation": (evaluate, evaluate_by_trainer),
    "evaluation of four organs": (evaluate_organs, evaluate_organs_apart),
}
"""Ours, and another way of doing the same."""


def bench(
    model: str, out: Path, tokens: int, runs: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Measure every contestant ``runs`` times, in turns; keep results as they come.

    Raises:
        ExchangeError: A measurement failed.
    """
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[Run]] = {}
    rates: list[float] = []
    for number in range(runs):
        say(f"run {number + 1} of {runs}: the machine's matrix products")
        rates.append(_child("machine", model, tokens)["gigaflops"])
        for contestants in CONTESTS.values():
            for contestant in contestants:
                name = contestant.__name__
                say(f"run {number + 1} of {runs}: {name}")
                found.setdefault(name, []).append(Run(**_child(name, model, tokens)))
        rows = {name: [asdict(run) for run in done] for name, done in found.items()}
        result = {"tokens": tokens, "seed": SEED, "threads": 1, "runs": rows, "gigaflops": rates}
        atomic.write(out / "bench-speed.json", json.dumps(result, indent=2).encode())
    say("profile of training")
    seen = _child("profile", model, tokens)
    summary = _summary(found, rates, seen)
    atomic.write(
        out / "bench-speed.json",
        json.dumps({**result, "profile": seen, "summary": summary}, indent=2).encode(),
    )
    return summary


def _summary(
    found: dict[str, list[Run]], rates: list[float], profile: dict[str, Any]
) -> dict[str, Any]:
    table: dict[str, Any] = {
        name: {
            "tokens_a_second": spread([run.tokens / run.seconds for run in done]),
            "peak_mb": spread([run.peak_mb for run in done]),
        }
        for name, done in found.items()
    }
    for title, (ours, other) in CONTESTS.items():
        pairs = list(zip(found[ours.__name__], found[other.__name__], strict=True))
        table[f"{title}, ratio of ours to the other"] = {
            "tokens_a_second": spread(
                [a.tokens / a.seconds / (b.tokens / b.seconds) for a, b in pairs], digits=2
            ),
            "peak_mb": spread([a.peak_mb / b.peak_mb for a, b in pairs], digits=2),
        }
    table["machine.gigaflops"] = spread(rates)
    flops = profile["flops_a_token"]
    table["train_organ.arithmetic"] = {
        "megaflops_a_token": round(flops / 1e6),
        "part_of_the_machines_rate": spread(
            [
                run.tokens / run.seconds * flops / 1e9 / rate
                for run, rate in zip(found[train_organ.__name__], rates, strict=True)
            ],
            digits=2,
        ),
    }
    table["train_organ.profile"] = profile["shares"]
    return table


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Median (minimum to maximum)."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def check_room(out: Path, needed: int, option: str) -> None:
    """Check that a folder's disk has so many bytes left.

    Raises:
        ExchangeError: It has not; ``option`` is what makes it fewer.
    """
    free = shutil.disk_usage(out).free
    if free < needed:
        raise ExchangeError(
            f"{out} has {free / 1e9:.1f} GB of space, {needed / 1e9:.1f} GB are needed; choose "
            f"another folder or fewer {option}"
        )


def peak_bytes(process: int | str = "self") -> int:
    """Most memory that a process has had resident since its program was started.

    ``ru_maxrss``, taken where the system tells no better, outlives ``exec`` on Linux: a child
    would be told the peak of the parent that started it.

    Raises:
        OSError: The process is gone, or the system does not tell of others.
    """
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
        return int(dict(line.split(":", 1) for line in lines)["VmHWM"].removesuffix("kB")) * 1024
    except (OSError, KeyError) as error:
        if process != "self":
            raise OSError(f"no memory is known of process {process}") from error
        unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _child(name: str, model: str, tokens: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "simulations.bench", name, model, str(tokens)],
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
    if name == "machine":
        return machine()
    if name == "profile":
        return profile(train_organ(model, 4 * BLOCK_TOKENS))
    contestants = {one.__name__: one for pair in CONTESTS.values() for one in pair}
    work = contestants[name](model, tokens)
    started = time.perf_counter()
    count = work()
    seconds = time.perf_counter() - started
    return asdict(Run(seconds=seconds, tokens=count, peak_mb=peak_bytes() / 1e6))


if __name__ == "__main__":
    print(json.dumps(_main(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
