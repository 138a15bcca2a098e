"""What the frozen layers below an organ put out for each block: computed once, kept in a file.

Activations tell as much as the text that made them. The file has no name: the system removes it
when the process ends, however it ends.

Imported by what trains, inside its functions, because it needs torch to be imported.
"""

import itertools
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import torch

from not_core.learning.packing import Rows, pack
from not_core.learning.stage import Stage
from not_core.learning.text_blocks import Block
from not_core.surgery.assemble import Sources
from not_core.surgery.checkpoint import Checkpoint
from not_core.surgery.plan import Layer
from not_core.surgery.tensors import Held

PACK_TOKENS = 1024
"""Tokens that run at once."""


class Prefix:
    """Activations above some layers, by block; a context manager that holds their file.

    The layers are loaded one by one and only while they run, so memory is that of one.

    Args:
        host: Where host layers come from.
        sources: Where other layers come from.
        frame: Embeddings and what else stands outside all layers, held once for all of them.
        layers: The layers below, from the first of the model on; at least one.
        blocks: All blocks that will be asked for.
        rows: How the class takes several blocks.
        folder: Private folder for the file; None for the system's temporary one.
        device: Where to run.
        dtype: Type of weights and activations.
    """

    def __init__(
        self,
        host: Checkpoint,
        sources: Sources,
        frame: Held,
        layers: Sequence[Layer],
        blocks: Sequence[Block],
        *,
        rows: Rows,
        folder: Path | None,
        device: torch.device,
        dtype: str,
    ) -> None:
        self._host, self._sources, self._frame = host, sources, frame
        self._blocks, self._rows = blocks, rows
        self._layers = layers
        self._device, self._dtype = device, dtype
        self._sizes = [len(block) for block in blocks]
        self._starts = list(itertools.accumulate(self._sizes, initial=0))
        self._row_bytes = 0
        self._beside: tuple[None, ...] | None = None
        self._there: set[int] = set()
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def prepare(self, wanted: Iterable[int]) -> None:
        """Compute the activations of blocks, given by index, that are not there yet."""
        missing = sorted(set(wanted) - self._there)
        packs = pack(missing, self._sizes, PACK_TOKENS)
        below = False
        for layer in self._layers if missing else ():
            stage = Stage(
                self._host,
                self._sources,
                [layer],
                device=self._device,
                dtype=self._dtype,
                frame=self._frame,
                quick=True,
            )
            stage.stack([layer], replayed=below)
            for numbers in packs:
                if below:
                    stage.replay(self.output(numbers))
                self._run(stage, numbers, layer)
            below = True
        self._there.update(missing)

    def output(self, numbers: Sequence[int]) -> Any:
        """What the last of the layers puts out for blocks that run together, as it would."""
        hidden = self._rows.join([self._read(number) for number in numbers]).to(self._device)
        return hidden if self._beside is None else (hidden, *self._beside)

    def _run(self, stage: Stage, numbers: Sequence[int], last: Layer) -> None:
        blocks = [self._blocks[number] for number in numbers]
        inputs, _ = self._rows.inputs(blocks, self._device)
        with torch.no_grad(), stage.keeping([last]) as outputs:
            stage.model.base_model(**inputs, use_cache=False)
        (output,) = outputs
        if isinstance(output, tuple):  # what else a layer puts out, no layer above reads
            self._beside = (None,) * (len(output) - 1)
            output = output[0]
        self._row_bytes = output.shape[-1] * output.element_size()
        for number, part in zip(numbers, self._rows.split(output, blocks), strict=True):
            raw: Any = part.contiguous().cpu().view(torch.uint8).numpy()
            self._file.seek(self._starts[number] * self._row_bytes)
            self._file.write(raw.data)

    def _read(self, number: int) -> torch.Tensor:
        self._file.seek(self._starts[number] * self._row_bytes)
        data = bytearray(self._file.read(self._sizes[number] * self._row_bytes))
        dtype = getattr(torch, self._dtype)
        return torch.frombuffer(data, dtype=dtype).view(self._sizes[number], -1)
