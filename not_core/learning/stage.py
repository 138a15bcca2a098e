"""A stage: one model of the host's class that holds some layers and runs any stack of them.

What the layers below a stack put out can be replayed instead of computed, so that work that many
runs share is done once. The class's own forward pass does all else.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from not_core.surgery.assemble import Sources, assemble
from not_core.surgery.checkpoint import Checkpoint
from not_core.surgery.layer_config import with_layers
from not_core.surgery.plan import HOST, Layer, Plan
from not_core.surgery.tensors import Held

if TYPE_CHECKING:
    import torch


class Stage:
    """Layers of a host and of organs, held once.

    Args:
        host: Where embeddings, final norm, head and host layers come from.
        sources: Where other layers come from.
        layers: Those that it holds, in any order.
        device: Where to run; None for the CPU.
        dtype: Type of all weights, such as ``bfloat16``; None for the host's.
        frame: Of another stage, to be shared with it.
        quick: Whether it may attend as is quickest, by other roundings than a plain model's.

    Raises:
        PlanError: The class makes layers depend on their place, so that they cannot be stacked
            otherwise than they stand.
    """

    def __init__(
        self,
        host: Checkpoint,
        sources: Sources,
        layers: Sequence[Layer],
        *,
        device: "torch.device | None" = None,
        dtype: str | None = None,
        frame: Held | None = None,
        quick: bool = False,
    ) -> None:
        self._host, self._sources = host, sources
        self.model = assemble(Plan(tuple(layers)), host, sources, dtype=dtype, frame=frame)
        if device is not None:
            self.model.to(device)
        if quick:
            from not_core.learning.attention import quicken

            quicken(self.model)
        stack = host.anatomy.layers.removesuffix(".")
        parent, _, self._name = stack.rpartition(".")
        self._parent = self.model.get_submodule(parent)
        held = self.model.get_submodule(stack).children()
        self._modules: dict[tuple[str, int], torch.nn.Module] = {
            (layer.source, layer.index): module for layer, module in zip(layers, held, strict=True)
        }
        self._replay = _replay()

    @property
    def frame(self) -> Held:
        """What the model holds outside its layers, such as embeddings; on the CPU, not copied."""
        names, held = set(self._host.frame), self.model.state_dict()
        return Held({name: value.cpu() for name, value in held.items() if name in names})

    def module(self, layer: Layer) -> "torch.nn.Module":
        """One layer's module."""
        return self._modules[layer.source, layer.index]

    def stack(self, layers: Sequence[Layer], *, replayed: bool = False) -> None:
        """Make the model one of ``layers``, first to last.

        Args:
            layers: Some that the stage holds.
            replayed: Whether they stand on what ``replay`` was given, not on the embeddings.
        """
        import torch

        modules = [self.module(layer) for layer in layers]
        entries = [self._entry(layer) for layer in layers]
        if replayed:
            modules.insert(0, self._replay)
            entries.insert(0, entries[0])  # read by nobody, but the config must have one
        setattr(self._parent, self._name, torch.nn.ModuleList(modules))
        host = self._host
        config = with_layers(
            host.config,
            host.anatomy,
            {name: [entry[name] for entry in entries] for name in host.source.entries},
            len(modules),
        )
        # What the forward pass reads of single layers; all else is in the modules.
        for name in (*host.source.entries, host.anatomy.layer_count):
            setattr(self.model.config, name, config[name])

    def replay(self, output: Any) -> None:
        """Set what the layer below the stack puts out, in the form in which it would."""
        self._replay.output = output

    @contextmanager
    def keeping(self, layers: Sequence[Layer]) -> "Iterator[list[Any]]":
        """Keep what each of some layers puts out, in order."""
        outputs: list[Any] = []
        hooks = [
            self.module(layer).register_forward_hook(
                lambda module, inputs, output: outputs.append(output)
            )
            for layer in layers
        ]
        try:
            yield outputs
        finally:
            for hook in hooks:
                hook.remove()

    def _entry(self, layer: Layer) -> dict[str, Any]:
        source = self._host.source if layer.source == HOST else self._sources[layer.source]
        return source.entry(layer.index)


def hidden_of(output: Any) -> "torch.Tensor":
    """The hidden states in what a layer puts out: it, or the first of a tuple."""
    hidden: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def _replay() -> Any:
    """A layer that puts out what it is given."""
    import torch

    class Replay(torch.nn.Module):
        output: Any = None

        def forward(self, *inputs: Any, **more: Any) -> Any:
            return self.output

    return Replay()
