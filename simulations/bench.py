"""Speed and memory of what a site does, beside the plain way of doing the same; for ``make bench``.

Every measurement runs in a process of its own, so that peak memory is its own; contestants take
turns, so that a drift of the machine's speed hits all alike.
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from not_core import atomic
from not_core.errors import ExchangeError
from not_core.manifest import Span

SEED = 0
BLOCK_TOKENS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One measurement: seconds of the work; training includes building the model."""

    seconds: float
    tokens: int
    peak_mb: float


def _texts(count: int) -> list[str]:
    from simulations import domains

    return [record.text for record in domains.abstracts()[:count]]


def _train(model: str, tokens: int, whole: bool) -> Callable[[], int]:
    from not_core.learning.training import Recipe, default_span, train
    from not_core.surgery.checkpoint import open_checkpoint

    host = open_checkpoint(model)
    span = Span(start=0, stop=host.layers) if whole else default_span(host.layers)
    recipe = Recipe(
        tokens=tokens, seed=SEED, threads=1, device="cpu", learning_rate=2e-4 if whole else 1e-3
    )
    texts, _ = _texts(100), host.tokenizer
    return lambda: train(host, span, texts, recipe).facts.tokens


def train_organ(model: str, tokens: int) -> Callable[[], int]:
    """An organ of three layers, in place."""
    return _train(model, tokens, whole=False)


def train_all_layers(model: str, tokens: int) -> Callable[[], int]:
    """The same loop with every layer learning, as in full fine-tuning."""
    return _train(model, tokens, whole=True)


def evaluate_ours(model: str, tokens: int) -> Callable[[], int]:
    """Perplexity by document, as recipients measure it."""
    from not_core.learning import device
    from not_core.learning.evaluation import read_losses
    from not_core.surgery.assemble import assemble
    from not_core.surgery.checkpoint import open_checkpoint
    from not_core.surgery.plan import identity

    host = open_checkpoint(model)
    body, texts, tokenizer = assemble(identity(host.layers), host, {}), _texts(100), host.tokenizer

    def work() -> int:
        with device.threads(1):
            return read_losses(body, tokenizer, texts[: tokens // BLOCK_TOKENS]).tokens

    return work


def evaluate_plain(model: str, tokens: int) -> Callable[[], int]:
    """The same documents through ``from_pretrained`` and ``labels=``, one by one."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    body, tokenizer = (
        AutoModelForCausalLM.from_pretrained(model),
        AutoTokenizer.from_pretrained(model),
    )
    texts = _texts(100)

    def work() -> int:
        torch.set_num_threads(1)
        count = 0
        with torch.inference_mode():
            for text in texts[: tokens // BLOCK_TOKENS]:
                ids = torch.tensor([tokenizer(text)["input_ids"][:BLOCK_TOKENS]])
                body(input_ids=ids, labels=ids)
                count += ids.shape[1] - 1
        return count

    return work


CONTESTS: dict[str, tuple[Callable[[str, int], Callable[[], int]], ...]] = {
    "training": (train_organ, train_all_layers),
    "evaluation": (evaluate_ours, evaluate_plain),
}


def bench(
    model: str, out: Path, tokens: int, runs: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Measure every contestant ``runs`` times, in turns; keep results as they come.

    Raises:
        ExchangeError: A measurement failed.
    """
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[Run]] = {}
    for number in range(runs):
        for contestants in CONTESTS.values():
            for contestant in contestants:
                name = contestant.__name__
                say(f"run {number + 1} of {runs}: {name}")
                found.setdefault(name, []).append(_measure(name, model, tokens))
        rows = {name: [asdict(run) for run in done] for name, done in found.items()}
        result = {"tokens": tokens, "seed": SEED, "threads": 1, "runs": rows}
        atomic.write(out / "bench.json", json.dumps(result, indent=2).encode())
    return {
        name: {
            "tokens_a_second": spread([run.tokens / run.seconds for run in done]),
            "peak_mb": spread([run.peak_mb for run in done]),
        }
        for name, done in found.items()
    }


def spread(values: Sequence[float]) -> str:
    """Median (minimum to maximum)."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.0f} ({low:.0f} to {high:.0f})"


def peak_bytes() -> int:
    """Most memory that this process has had resident since its program was started.

    ``ru_maxrss``, taken where the system tells no better, outlives ``exec`` on Linux: a child
    would be told the peak of the parent that started it.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return int(dict(line.split(":", 1) for line in lines)["VmHWM"].removesuffix("kB")) * 1024
    except (OSError, KeyError):
        unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _measure(name: str, model: str, tokens: int) -> Run:
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
    return Run(**json.loads(done.stdout.splitlines()[-1]))


def _main(name: str, model: str, tokens: int) -> None:
    work = next(c for group in CONTESTS.values() for c in group if c.__name__ == name)(
        model, tokens
    )
    started = time.perf_counter()
    count = work()
    seconds = time.perf_counter() - started
    print(json.dumps(asdict(Run(seconds=seconds, tokens=count, peak_mb=peak_bytes() / 1e6))))


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
