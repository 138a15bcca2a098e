"""The device that work runs on, and what makes its results repeatable there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from not_core.errors import TrainingError

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "float32", "bfloat16"]

VARIABLE = "ORGAN_PRECISION"


def pick(name: str = "auto") -> "torch.device":
    """Resolve ``auto`` to cuda, mps or cpu, in that order.

    Raises:
        TrainingError: The device is not of a known kind or not there.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            name = "cuda"
        elif torch.backends.mps.is_available():
            name = "mps"
        else:
            name = "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise TrainingError(
            f"device {name!r} cannot be used here; use auto, cpu, cuda or mps"
        ) from error
    return device


@contextmanager
def threads(count: int | None) -> Iterator[int]:
    """Run the block with ``count`` CPU threads; None keeps torch's own choice.

    The order of floating-point sums follows the number of threads, so bit-identical results need
    the same number.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def precision(wanted: Precision, device: "torch.device") -> Literal["float32", "bfloat16"]:
    """Resolve ``auto``: ``bfloat16`` where the device multiplies it natively.

    The environment variable ``ORGAN_PRECISION`` decides instead where it is set: equal seeds make
    equal organs on different machines only in one precision.

    Raises:
        TrainingError: The variable is neither ``float32`` nor ``bfloat16``.
    """
    if wanted != "auto":
        return wanted
    match os.environ.get(VARIABLE, "auto"):
        case "float32":
            return "float32"
        case "bfloat16":
            return "bfloat16"
        case "auto":
            pass
        case _:
            raise TrainingError(f"{VARIABLE} is neither float32 nor bfloat16; correct or unset it")
    return "bfloat16" if multiplies_bfloat16(device) else "float32"


def multiplies_bfloat16(device: "torch.device") -> bool:
    """Whether a device multiplies ``bfloat16`` natively."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    return device.type == "cpu" and bool(able.get("avx512_bf16") or able.get("amx_bf16"))
