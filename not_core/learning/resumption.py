"""Training that goes on after its process died: its state, kept in a private folder as it runs.

The file holds what was learned from private records so far: it is readable by its owner only,
removed when training ends, or by a later one if nobody went on with it for ``KEPT_DAYS``. Only that
of a run with differential privacy stays: its charge is paid.

Imported by what trains, inside its functions, because it needs torch to be imported.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from not_core import atomic

SAVE_SECONDS = 60.0
"""Work that is lost at most."""
KEPT_DAYS = 30
"""How long the state of a training that was cut off waits for the same one to go on."""


@dataclass(slots=True)
class Progress:
    """How far training is.

    Attributes:
        tokens: Read so far.
        seconds: Taken so far.
        losses: Of each step.
        readings: On validation documents.
        run: Random name of a private run, which its charge goes by; empty for others.
    """

    tokens: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    readings: list[float] = field(default_factory=list)
    run: str = ""


class Resumption:
    """The kept state of one training.

    Args:
        folder: Private folder; None keeps nothing.
        key: Digest of all that decides the outcome, so that no other training goes on from it.
    """

    def __init__(self, folder: Path | None, key: str) -> None:
        self._path = folder / f"training-{key[:32]}.safetensors" if folder else None
        self._saved = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time to save."""
        return self._path is not None and time.monotonic() - self._saved >= SAVE_SECONDS

    def save(self, progress: Progress, tensors: Mapping[str, torch.Tensor]) -> None:
        """Keep a state, in place of an earlier one."""
        if self._path:
            words = {"progress": json.dumps(asdict(progress))}
            atomic.write(self._path, save(dict(tensors), words), mode=0o600)
            self._saved = time.monotonic()

    def load(self) -> tuple[Progress, dict[str, torch.Tensor]] | None:
        """What was kept; None if nothing was, or if it is damaged."""
        return _load(self._path) if self._path and self._path.is_file() else None

    def clear(self) -> None:
        """Remove what was kept."""
        if self._path:
            self._path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove states that nobody went on from in ``KEPT_DAYS``, but for those of private runs."""
    oldest = time.time() - KEPT_DAYS * 86_400
    for path in folder.glob("training-*.safetensors"):
        if path.stat().st_mtime < oldest:
            found = _load(path)
            if not found or not found[0].run:
                path.unlink(missing_ok=True)


def _load(path: Path) -> tuple[Progress, dict[str, torch.Tensor]] | None:
    try:
        with safe_open(path, framework="pt") as file:
            progress = Progress(**json.loads((file.metadata() or {})["progress"]))
            return progress, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None
