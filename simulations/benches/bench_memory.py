"""Peak memory of surgery on a large checkpoint, beside the plain ways; for ``make bench-memory``.

The checkpoint is generated: its weights are noise, its class, shapes, shards and size are real.
Every measurement runs in a process of its own, with the files driven out of the page cache first,
so that bytes read are bytes that the work itself needs.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from not_core import atomic
from not_core.errors import ExchangeError
from not_core.surgery.checkpoint import CONFIG, INDEX
from not_core.surgery.tensors import Form, write_safetensors
from simulations.benches.bench import spread
from simulations.machine import peak_bytes

if TYPE_CHECKING:
    import torch

# The shape of a 3 B model of the llama family, as Llama 3.2's.
SHAPE: dict[str, Any] = {
    "vocab_size": 128_256,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 28,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
START, STOP = 9, 12
"""The organ's span; the graft inserts it behind the layers that it was cut from."""
SHARD_BYTES = 2_000_000_000
ALLOWANCE = 500_000_000
"""Bytes that cutting and grafting may peak at beyond organ and embeddings; imports are most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one piece of work took; ``written`` is the weights digest of what it made, if any."""

    seconds: float
    peak_mb: float
    read_mb: float
    written: str | None


@dataclass(frozen=True, slots=True)
class Noise:
    """Tensors of random bfloat16 values that are made when they are read."""

    shapes: dict[str, tuple[int, ...]]

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self.shapes))

    def form(self, name: str) -> Form:
        """Type and shape of one tensor."""
        return Form("bfloat16", self.shapes[name])

    def read(self, name: str, *, shared: bool = False) -> "torch.Tensor":
        """One tensor; the same name gives the same values."""
        import torch

        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        made = torch.empty(self.shapes[name], dtype=torch.bfloat16)
        return made.normal_(0, 0.02, generator=generator)


def generate(folder: Path, shape: dict[str, Any]) -> None:
    """Write a sharded llama checkpoint of random weights, whole or not at all."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**shape, architectures=["LlamaForCausalLM"], dtype="bfloat16")
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    tied = {"lm_head.weight"} if shape["tie_word_embeddings"] else set()
    noise = Noise({n: tuple(t.shape) for n, t in model.state_dict().items() if n not in tied})
    shards: list[list[str]] = [[]]
    size = 0
    for name in noise.names():
        size += noise.form(name).bytes
        if shards[-1] and size > SHARD_BYTES:
            shards.append([])
            size = noise.form(name).bytes
        shards[-1].append(name)
    with atomic.folder(folder) as work:
        table: dict[str, str] = {}
        for number, names in enumerate(shards, 1):
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            write_safetensors(work / file, noise, tuple(names))
            table |= dict.fromkeys(names, file)
        (work / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": table}))
        config.save_pretrained(work)


def square(folder: Path, layer_bytes: float, layers: int, tokenizer: Path) -> None:
    """Write a llama of random weights, with another model's tokenizer.

    Args:
        folder: To be made.
        layer_bytes: About so large is each layer.
        layers: How many.
        tokenizer: Folder of that model.
    """
    heads = max(1, round((layer_bytes / 32) ** 0.5 / 64))  # a layer has 16 width^2 of bfloat16
    shape = SHAPE | {
        "vocab_size": json.loads((tokenizer / CONFIG).read_bytes())["vocab_size"],
        "hidden_size": 64 * heads,
        "intermediate_size": 4 * 64 * heads,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
    }
    generate(folder, shape)
    for file in tokenizer.glob("*token*"):
        shutil.copy(file, folder / file.name)


def cut(host: Path, organ: Path, made: Path) -> str | None:
    """Cut an organ to disk; digests of the base are known."""
    from not_core.manifest import Span
    from not_core.surgery.checkpoint import open_checkpoint
    from not_core.surgery.organ import Label, describe, extract, write_organ

    base, span = open_checkpoint(str(host)), Span(start=START, stop=STOP)
    tensors = extract(base, span)
    manifest = describe(base, span, tensors, Label(name="organ"), training=None)
    write_organ(made, tensors, manifest)
    return manifest.digest


def cut_first(host: Path, organ: Path, made: Path) -> str | None:
    """The same, and the base is hashed for the first time."""
    return cut(host, organ, made)


def graft(host: Path, organ: Path, made: Path) -> str | None:
    """Insert the organ and write the grafted checkpoint."""
    from not_core.surgery import graft as grafts
    from not_core.surgery.checkpoint import open_checkpoint
    from not_core.surgery.organ import read_organ
    from not_core.surgery.plan import transplant

    base, read = open_checkpoint(str(host)), read_organ(organ)
    name = read.manifest.digest
    plan = transplant(base.layers, name, len(read), mode="insert", position=STOP)
    return grafts.transplant(plan, base, {name: read}, made).weights


def mergekit(host: Path, organ: Path, made: Path) -> str | None:
    """Mergekit's passthrough of the same plan; the organ is a copy of the host's own layers."""
    from mergekit.config import MergeConfiguration
    from mergekit.merge import MergeOptions, run_merge

    layers = json.loads((host / CONFIG).read_bytes())["num_hidden_layers"]
    slices = [(0, STOP), (START, STOP), (STOP, layers)]
    config = MergeConfiguration.model_validate(
        {
            "merge_method": "passthrough",
            "base_model": str(host),
            "slices": [
                {"sources": [{"model": str(host), "layer_range": list(one)}]} for one in slices
            ],
        }
    )
    options = MergeOptions(
        quiet=True,
        write_model_card=False,
        copy_tokenizer=False,
        lazy_unpickle=False,
        clone_tensors=True,
    )
    run_merge(config, str(made), options)
    return None


def load(host: Path, organ: Path, made: Path) -> str | None:
    """``from_pretrained`` and one token: what any surgery in memory must be able to hold."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.inference_mode():
        AutoModelForCausalLM.from_pretrained(host)(input_ids=torch.tensor([[1]]))
    return None


def load_and_save(host: Path, organ: Path, made: Path) -> str | None:
    """``from_pretrained`` and ``save_pretrained``, as surgery in memory would end."""
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(host).save_pretrained(made)
    return None


WORK: tuple[Callable[[Path, Path, Path], str | None], ...] = (
    cut_first,
    cut,
    graft,
    mergekit,
    load,
    load_and_save,
)
BOUND = {cut_first.__name__, cut.__name__, graft.__name__}
"""What must stay below the organ's bytes, the embeddings' and the allowance."""
SAME = "same_tensors_as_mergekit"


def measure(
    out: Path, runs: int, keep: bool, say: Callable[[str], None], shape: dict[str, Any] = SHAPE
) -> dict[str, Any]:
    """Measure all, in turns; keep results as they come.

    Args:
        out: Folder for the results and the files that they need.
        runs: Measurements of each contestant.
        keep: Whether to leave the generated checkpoint for the next time.
        say: Told what is being done.
        shape: Llama config of the checkpoint.

    Returns:
        Sizes in MB, whether mergekit made the same tensors, and each contestant's figures: median
        (minimum to maximum).

    Raises:
        ExchangeError: A measurement failed, mergekit's tensors are others than ours, or cutting
            or grafting took more memory than it may.
    """
    from not_core.surgery.checkpoint import open_checkpoint
    from not_core.surgery.organ import read_manifest

    host, organ = out / "checkpoint", out / "organ"
    if not host.is_dir():
        say("generating the checkpoint, once")
        generate(host, shape)
    base = open_checkpoint(str(host))
    shutil.rmtree(organ, ignore_errors=True)
    say(f"weights {base.weights_digest[:12]}; cutting the organ")
    cut(host, organ, organ)
    forms = [base.tensors.form(name) for name in base.names]
    organ_bytes = sum(
        Form(facts.dtype, facts.shape).bytes for facts in read_manifest(organ).tensors
    )
    bound = organ_bytes + base.tensors.form(base.anatomy.embedding).bytes + ALLOWANCE
    sizes = {
        "parameters": sum(form.parameters for form in forms),
        "checkpoint_mb": round(sum(form.bytes for form in forms) / 1e6),
        "organ_mb": round(organ_bytes / 1e6),
        "bound_mb": round(bound / 1e6),
    }
    there = [one for one in WORK if one is not mergekit or find_spec("mergekit")]
    if mergekit not in there:
        say("mergekit is not installed (the development packages hold it): left out")
    found: dict[str, list[Cost]] = {}
    for number in range(runs):
        for name in (one.__name__ for one in there):
            say(f"run {number + 1} of {runs}: {name}")
            found.setdefault(name, []).append(_measure(name, host, organ, out / "made"))
            rows = {name: [asdict(cost) for cost in done] for name, done in found.items()}
            result = {**sizes, "runs": rows}
            atomic.write(out / "bench-memory.json", json.dumps(result, indent=2).encode())
    if not keep:
        shutil.rmtree(host)
        shutil.rmtree(organ)
    return (
        sizes
        | _check(found, sizes["bound_mb"])
        | {
            name: {
                figure: spread([getattr(cost, figure) for cost in done])
                for figure in ("peak_mb", "seconds", "read_mb")
            }
            for name, done in found.items()
        }
    )


def _check(found: dict[str, list[Cost]], bound: int) -> dict[str, str]:
    """Refuse figures that break a promise; say which promise could not be looked at."""
    over = [
        f"{name} ({max(cost.peak_mb for cost in found[name])} MB)"
        for name in sorted(BOUND & found.keys())
        if max(cost.peak_mb for cost in found[name]) > bound
    ]
    if over:
        raise ExchangeError(f"{', '.join(over)} took more than {bound} MB")
    if mergekit.__name__ not in found:
        return {SAME: "not compared: mergekit is not installed"}
    ours, theirs = ({cost.written for cost in found[one.__name__]} for one in (graft, mergekit))
    if ours != theirs:
        raise ExchangeError("mergekit's tensors of the same plan are others than ours")
    return {SAME: "yes"}


def _measure(name: str, host: Path, organ: Path, made: Path) -> Cost:
    shutil.rmtree(made, ignore_errors=True)
    _drop_from_page_cache([*host.iterdir(), *organ.iterdir()])
    cache = dict(os.environ)
    if name == cut_first.__name__:
        cache["ORGAN_EXCHANGE_CACHE"] = str(made.with_name("empty-cache"))
    done = subprocess.run(  # noqa: S603 - our own interpreter and module
        [sys.executable, "-m", __name__, name, *map(str, (host, organ, made))],
        capture_output=True,
        text=True,
        check=False,
        env=cache,
    )
    shutil.rmtree(made.with_name("empty-cache"), ignore_errors=True)
    if done.returncode:
        raise ExchangeError(f"measurement {name} failed: {done.stderr.strip()[-300:]}")
    cost = Cost(**json.loads(done.stdout.splitlines()[-1]))
    if name == mergekit.__name__:
        from not_core.surgery.checkpoint import open_checkpoint

        cost = Cost(**asdict(cost) | {"written": open_checkpoint(str(made)).weights_digest})
    shutil.rmtree(made, ignore_errors=True)
    return cost


def _drop_from_page_cache(files: list[Path]) -> None:
    if not hasattr(os, "posix_fadvise"):
        return
    for file in files:
        with file.open("rb") as open_file:
            os.fsync(open_file.fileno())
            os.posix_fadvise(open_file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read_bytes() -> int:
    """Bytes that this process has had fetched from storage; 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return int(dict(line.split(": ") for line in lines)["read_bytes"])


def _main(name: str, host: str, organ: str, made: str) -> None:
    work = next(one for one in WORK if one.__name__ == name)
    import torch
    import transformers  # noqa: F401 - what importing costs is everybody's

    torch.set_num_threads(2)
    before, started = _read_bytes(), time.perf_counter()
    written = work(Path(host), Path(organ), Path(made))
    seconds = time.perf_counter() - started
    cost = Cost(
        seconds=round(seconds, 1),
        peak_mb=round(peak_bytes() / 1e6),
        read_mb=round((_read_bytes() - before) / 1e6),
        written=written,
    )
    print(json.dumps(asdict(cost)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
