"""Where in a host an organ does best: every position tried, the layers below it run only once.

All layers, the host's and the organ's, are held once, on one stage. To try a position, the organ's
layers and the host's layers above run on a replay of what the host's layer below put out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from not_core.errors import PlanError
from not_core.learning.evaluation import Reading, Tally, batches, read_blocks
from not_core.learning.stage import Stage
from not_core.learning.text_blocks import Block, token_nats
from not_core.surgery.assemble import assemble, plan_config
from not_core.surgery.checkpoint import Checkpoint
from not_core.surgery.plan import HOST, Mode, Plan, identity, transplant, whole
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

    count, sources = len(organ.layers), {ORGAN: organ}
    below = whole(HOST, host.layers)
    held = (*below, *whole(ORGAN, count))
    plans, refused = {}, {}
    for position in positions(host.layers, count, mode):
        plan = transplant(host.layers, ORGAN, count, mode=mode, position=position)
        try:
            plan_config(plan, host, sources)
        except PlanError as error:
            refused[position] = str(error)
        else:
            plans[position] = plan
    try:
        stage = Stage(host, sources, held, device=device)
    except PlanError:  # the class makes layers depend on their place: few positions, no sharing
        before, after = _one_by_one(host, organ, plans, documents, device, advance)
        return Scan(before, after, refused)
    tally, tallies = Tally(documents), {position: Tally(documents) for position in plans}
    with torch.inference_mode():
        for batch in batches(documents, stage.model.device):
            blocks = [block for _, block in batch]
            tokens = sum(map(len, blocks))
            stage.stack(below)
            with stage.keeping(below) as outputs:
                tally.add(batch, token_nats(stage.model, blocks))
            advance(tokens)
            for position, plan in plans.items():
                if position:
                    stage.replay(outputs[position - 1])
                stage.stack(plan.layers[position:], replayed=position > 0)
                tallies[position].add(batch, token_nats(stage.model, blocks))
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
