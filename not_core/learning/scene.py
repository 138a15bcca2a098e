"""The model in training: the organ and what stands above it on a stage, the layers below replayed.

Imported by what trains, inside its functions, because it needs torch to be imported.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch._dynamo.exc import TorchDynamoException
from torch.utils.checkpoint import checkpoint

from not_core.errors import PlanError, TrainingError
from not_core.learning.head import Head
from not_core.learning.packing import Rows, rows_of
from not_core.learning.prefix import Prefix
from not_core.learning.scaffold import Standing
from not_core.learning.stage import Stage, hidden_of
from not_core.learning.text_blocks import Block
from not_core.surgery.checkpoint import Checkpoint


class Scene:
    """Losses of blocks, given by index; a context manager, for it may hold a file.

    Args:
        host: The base model.
        layers: The layers in training.
        blocks: All blocks that will be asked for.
        device: Where to run.
        dtype: Type of weights and activations.
        folder: Private folder for activations; None for the system's temporary one.
        gradient_checkpointing: Whether layers compute their activations again.
        compiled: Whether the layers are compiled when they first run.
        sample: Of the token ids that occur in no block, how many an estimate of the loss draws;
            None makes no estimates.
        apart: Whether each block is a row of its own, even where several could share one.
    """

    def __init__(
        self,
        host: Checkpoint,
        layers: Standing,
        blocks: Sequence[Block],
        *,
        device: torch.device,
        dtype: str,
        folder: Path | None = None,
        gradient_checkpointing: bool = False,
        compiled: bool = False,
        sample: int | None = None,
        apart: bool = False,
    ) -> None:
        self._blocks, self._device = blocks, device
        upper = layers.trained + layers.above
        self._prefix: Prefix | None = None
        try:
            self._stage = Stage(host, layers.sources, upper, quick=True, device=device, dtype=dtype)
        except PlanError:
            # The class makes layers depend on their place: all of them stand where they belong.
            whole = layers.below + upper
            self._stage = Stage(host, layers.sources, whole, quick=True, device=device, dtype=dtype)
            self._stage.stack(whole)
            self._rows = Rows(packed=False) if apart else rows_of(self._stage.model)
        else:
            self._stage.stack(upper)
            self._rows = Rows(packed=False) if apart else rows_of(self._stage.model)
            if layers.below:
                self._stage.stack(upper, replayed=True)
                self._prefix = Prefix(
                    host,
                    layers.sources,
                    self._stage.frame,
                    layers.below,
                    blocks,
                    rows=self._rows,
                    folder=folder,
                    device=device,
                    dtype=dtype,
                )
        model: Any = self._stage.model
        model.requires_grad_(False)
        for module in map(self._stage.module, upper):
            if gradient_checkpointing:
                # The classes' own does it in training mode only, which has dropout.
                module.forward = partial(checkpoint, module.forward, use_reentrant=False)
            if compiled:
                module.compile()
        self.trained = [self._stage.module(layer) for layer in layers.trained]
        occurring = None if sample is None else {token for block in blocks for token in block}
        self._head = Head(model, occurring, sample or 0)
        self.model = model

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._prefix:
            self._prefix.__exit__(*error)

    def prepare(self, numbers: Iterable[int]) -> None:
        """Do for blocks what is done once for each."""
        if self._prefix:
            self._prefix.prepare(numbers)

    def nats(self, numbers: Sequence[int], *, draw: int | None = None) -> torch.Tensor:
        """Negative log-likelihood of every place that predicts, in nats, for blocks as one batch.

        Args:
            numbers: The blocks.
            draw: Number of the draw for an estimate; None for the exact loss.

        Returns:
            Shape ``(rows, tokens)``, zero where nothing is predicted.

        Raises:
            TrainingError: The layers should be compiled and cannot be.
        """
        blocks = [self._blocks[number] for number in numbers]
        inputs, labels = self._rows.inputs(blocks, self._device)
        if self._prefix:
            self._stage.replay(self._prefix.output(numbers))
        try:
            return self._head.nats(labels, draw=draw, **inputs)
        except TorchDynamoException as error:
            raise TrainingError(
                f"the layers do not compile ({type(error).__name__}); a processor needs a C++ "
                "compiler for it; train without --compile"
            ) from error

    def check_silent(self, number: int) -> None:
        """Make sure that the organ changes nothing yet.

        Raises:
            TrainingError: It does.
        """
        ends = [self.trained[0], self.trained[-1]]
        seen: list[torch.Tensor] = []
        hooks = [
            ends[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0])),
            ends[1].register_forward_hook(
                lambda module, inputs, output: seen.append(hidden_of(output))
            ),
        ]
        with torch.no_grad():
            self.nats([number])
        for hook in hooks:
            hook.remove()
        if not torch.equal(seen[0], seen[1]):
            raise TrainingError(
                f"a silent {type(ends[0]).__name__} still changes what passes it; "
                "this family takes no inserted organ, train in-situ"
            )
