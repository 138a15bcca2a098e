"""Where in a host an organ does best: every position tried, the layers below it run only once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from not_core.errors import PlanError
from not_core.learning.evaluation import Reading
from not_core.learning.readings import read_plans
from not_core.learning.text_blocks import Block
from not_core.surgery.assemble import plan_config
from not_core.surgery.checkpoint import Checkpoint
from not_core.surgery.plan import Mode, transplant
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
    count, sources = len(organ.layers), {ORGAN: organ}
    plans, refused = {}, {}
    for position in positions(host.layers, count, mode):
        plan = transplant(host.layers, ORGAN, count, mode=mode, position=position)
        try:
            plan_config(plan, host, sources)
        except PlanError as error:
            refused[position] = str(error)
        else:
            plans[position] = plan
    found = read_plans(host, sources, plans, documents, device=device, advance=advance)
    return Scan(found.before, found.after, refused)
