"""The simulated institutions' common model: the user's own, or the demo's, converted once."""

from pathlib import Path

from not_core.cache import cache_home
from not_core.surgery import graft
from not_core.surgery.checkpoint import open_checkpoint
from not_core.surgery.plan import identity
from simulations.material.sources import MODEL, Report, gguf_model

RECIPE = 2
"""Raised when the way of converting changes what is written."""


def base_model(chosen: str | None, report: Report) -> str:
    """Where the model lies: as chosen, or the demo's as a folder of safetensors in the cache.

    Args:
        chosen: Model folder, GGUF file or hub id; None for the demo's.
        report: Told what is being fetched.

    Raises:
        SourceError: The demo's model cannot be fetched.
        CheckpointError: ``chosen`` is no checkpoint.
    """
    if chosen is not None:
        return chosen
    kept = f"{Path(MODEL.path).stem}-{MODEL.sha256[:12]}-r{RECIPE}"
    folder = cache_home() / "models" / kept
    if not folder.is_dir():
        source = open_checkpoint(gguf_model(report))
        report("converting the demo model to safetensors, once")
        graft.transplant(identity(source.layers), source, {}, folder)
    return str(folder)
