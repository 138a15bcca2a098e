"""Where in a host an organ does best: every position tried, the layers below it run only once.

All layers, the host's and the organ's, are held once, in one model of the class. To try a
position, its stack of layers is set to a replay of what the host's layer below put out, the
organ's layers, and the host's layers above: the class's own forward pass does the rest.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from not_core.errors import PlanError
from not_core.learning.evaluation import Reading, Tally, batches, read_blocks
from not_core.learning.text_blocks import Block, token_nats
from not_core.surgery.assemble import assemble, plan_config
from not_core.surgery.checkpoint import Checkpoint
from not_core.surgery.layer_config import with_layers
from not_core.surgery.plan import HOST, Layer, Mode, Plan, identity, transplant, whole
from not_core.surgery.source import Source

if TYPE_CHECKING:
    import torch

ORGAN = "organ"


@dataclass(frozen=True, slots=True)
class Scan:
    """Losses on the same documents without an organ and with it at each position.

    Attributes:
        before: Without it.
        after: With it, by position; positions where it would run otherwise than where it was made
            are left out.
        refused: Why those were left out, by position.
    """

    before: Reading
    after: Mapping[int, Reading]
    refused: Mapping[int, str]

    @property
    def best(self) -> int:
        """The position of the lowest perplexity, the first of equal ones.

        Raises:
            PlanError: There is no position.
        """
        if not self.after:
            raise PlanError(
                f"the organ fits at no position: {next(iter(self.refused.values()), 'none to try')}"
            )
        return min(self.after, key=lambda position: self.after[position].perplexity)


def positions(layers: int, count: int, mode: Mode) -> range:
    """All positions that a mode allows."""
    return range(layers + 1 if mode == "insert" else max(0, layers - count + 1))


def scan(
    host: Checkpoint,
    organ: Source,
    mode: Mode,
    documents: Sequence[Sequence[Block]],
    *,
    device: "torch.device | None" = None,
    advance: Callable[[int], None] = lambda tokens: None,
) -> Scan:
    """Measure an organ at every position.

    The work is one pass of the host and, for each position, the organ and the host's layers above
    it: about half of what running each whole model takes.

    Args:
        host: The recipient.
        organ: The organ's layers.
        mode: ``replace`` or ``insert``.
        documents: Blocks of token ids of each held-out document; see ``document_blocks``.
        device: Where to run; None for the CPU.
        advance: Called with the number of tokens just read, in all positions together.

    Raises:
        RecordsError: No document has two tokens.
    """
    import torch

    count = len(organ.layers)
    plans, refused = {}, {}
    for position in positions(host.layers, count, mode):
        plan = transplant(host.layers, ORGAN, count, mode=mode, position=position)
        try:
            plan_config(plan, host, {ORGAN: organ})
        except PlanError as error:
            refused[position] = str(error)
        else:
            plans[position] = plan
    try:
        stage = _Stage(host, organ, device)
    except PlanError:  # the class makes layers depend on their place: few positions, no sharing
        before, after = _one_by_one(host, organ, plans, documents, device, advance)
        return Scan(before, after, refused)
    tally, tallies = Tally(documents), {position: Tally(documents) for position in plans}
    with torch.inference_mode():
        for batch in batches(documents, stage.model.device):
            blocks = [block for _, block in batch]
            tokens = sum(map(len, blocks))
            with stage.keeping() as outputs:
                tally.add(batch, stage.run(whole(HOST, host.layers), blocks))
            advance(tokens)
            for position, plan in plans.items():
                output = outputs[position - 1] if position else None
                above = plan.layers[position:]
                tallies[position].add(batch, stage.run(above, blocks, position, output))
                advance(tokens)
    after = {position: tally.reading() for position, tally in tallies.items()}
    return Scan(tally.reading(), after, refused)


def _one_by_one(
    host: Checkpoint,
    organ: Source,
    plans: Mapping[int, Plan],
    documents: Sequence[Sequence[Block]],
    device: "torch.device | None",
    advance: Callable[[int], None],
) -> tuple[Reading, dict[int, Reading]]:
    """The same by a whole model for each position."""

    def read(plan: Plan) -> Reading:
        model = assemble(plan, host, {ORGAN: organ})
        if device is not None:
            model.to(device)
        return read_blocks(model, documents, advance=advance)

    return read(identity(host.layers)), {position: read(plan) for position, plan in plans.items()}


class _Stage:
    """One model that holds all layers of host and organ, and runs any of them in any order."""

    def __init__(self, host: Checkpoint, organ: Source, device: "torch.device | None") -> None:
        self.host, self.organ = host, organ
        behind = Plan(whole(HOST, host.layers) + whole(ORGAN, len(organ.layers)))
        self.model = assemble(behind, host, {ORGAN: organ})  # never run as it stands
        if device is not None:
            self.model.to(device)
        stack = host.anatomy.layers.removesuffix(".")
        parent, _, self.name = stack.rpartition(".")
        self.parent = self.model.get_submodule(parent)
        self.layers: list[torch.nn.Module] = list(self.model.get_submodule(stack).children())

    def run(
        self, layers: Sequence[Layer], blocks: Sequence[Block], below: int = 0, output: Any = None
    ) -> "torch.Tensor":
        """Losses of the model of ``layers``, above what the host's layer ``below - 1`` put out."""
        import torch

        modules = [self._module(layer) for layer in layers]
        entries = [self._entry(layer) for layer in layers]
        if below:
            modules.insert(0, _replay(output))
            entries.insert(0, self.host.source.entry(below - 1))
        setattr(self.parent, self.name, torch.nn.ModuleList(modules))
        config = with_layers(
            self.host.config,
            self.host.anatomy,
            {name: [entry[name] for entry in entries] for name in self.host.source.entries},
            len(modules),
        )
        # What the forward pass reads of single layers; all else is in the modules.
        for name in (*self.host.source.entries, self.host.anatomy.layer_count):
            setattr(self.model.config, name, config[name])
        return token_nats(self.model, blocks)

    @contextmanager
    def keeping(self) -> "Iterator[list[Any]]":
        """Keep what each of the host's layers puts out, in order."""
        outputs: list[Any] = []
        hooks = [
            layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
            for layer in self.layers[: self.host.layers]
        ]
        try:
            yield outputs
        finally:
            for hook in hooks:
                hook.remove()

    def _module(self, layer: Layer) -> "torch.nn.Module":
        return self.layers[layer.index + (0 if layer.source == HOST else self.host.layers)]

    def _entry(self, layer: Layer) -> dict[str, Any]:
        return (self.host.source if layer.source == HOST else self.organ).entry(layer.index)


def _replay(output: Any) -> "torch.nn.Module":
    """A layer that puts out what another one did."""
    import torch

    class Replay(torch.nn.Module):
        def forward(self, *inputs: Any, **more: Any) -> Any:
            return output

    return Replay()
