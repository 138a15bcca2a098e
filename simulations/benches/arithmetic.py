"""What a machine multiplies at best, and what of a piece of work is multiplication."""

import time
from collections.abc import Callable
from typing import Any

SHAPES = ((256, 576, 1536), (256, 1536, 576), (1024, 1024, 1024), (256, 576, 49_152))
"""Products by whose fastest the machine's arithmetic is known."""
SHARES = {
    "matrix products": ("mm", "bmm", "addmm", "linear"),
    "attention": ("scaled_dot_product", "softmax"),
    "optimizer": ("adamw", "foreach"),
    "copies and fills": ("copy_", "fill_", "cat", "clone", "index"),
}


def best_rate() -> dict[str, float]:
    """The most that this machine multiplies, in 10^9 operations a second on one thread."""
    import torch

    torch.set_num_threads(1)
    best = 0.0
    for rows, inner, columns in SHAPES:
        a, b = torch.randn(rows, inner), torch.randn(inner, columns)
        operations = 2 * rows * inner * columns
        for _ in range(20):
            started = time.perf_counter()
            for _ in range(max(1, int(1e9 / operations))):
                a @ b
            done = operations * max(1, int(1e9 / operations))
            best = max(best, done / (time.perf_counter() - started))
    return {"gigaflops": best / 1e9}


def profile(work: Callable[[], int]) -> dict[str, Any]:
    """How much arithmetic a token of some work takes, and where its time goes.

    Args:
        work: Does it, and returns the tokens it went through; it is called twice.
    """
    import torch
    from torch.profiler import ProfilerActivity
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        tokens = work()
    with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as seen:
        work()
    times: dict[str, float] = {}
    for event in seen.key_averages():
        name = event.key.lower()
        share = next(
            (title for title, words in SHARES.items() if any(word in name for word in words)),
            "all else",
        )
        times[share] = times.get(share, 0.0) + event.self_cpu_time_total
    total = sum(times.values())
    shares = {name: f"{time / total:.0%}" for name, time in sorted(times.items())}
    return {"flops_a_token": counter.get_total_flops() / tokens, "shares": shares}
