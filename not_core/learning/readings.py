"""Many compositions of one host measured together: what lies below all organs runs only once.

All layers, the host's and the organs', are held once, on one stage. To measure a composition, its
layers from the first on that is not the host's own run on a replay of what the host's layer below
put out.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from not_core.errors import PlanError
from not_core.learning.evaluation import Reading, Tally, batches, read_blocks
from not_core.learning.stage import Stage
from not_core.learning.text_blocks import Block, token_nats
from not_core.surgery.assemble import Sources, assemble
from not_core.surgery.checkpoint import Checkpoint
from not_core.surgery.plan import HOST, Plan, identity, whole

if TYPE_CHECKING:
    import torch

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Readings(Generic[Key]):
    """Losses on the same documents: of the host as it is, and of each composition."""

    before: Reading
    after: Mapping[Key, Reading]


def read_plans(
    host: Checkpoint,
    sources: Sources,
    plans: Mapping[Key, Plan],
    documents: Sequence[Sequence[Block]],
    *,
    device: "torch.device | None" = None,
    advance: Callable[[int], None] = lambda tokens: None,
) -> Readings[Key]:
    """Measure a host and compositions with it.

    Memory is that of the host and of all organs.

    Args:
        host: The recipient.
        sources: Where layers come from that are not the host's.
        plans: The compositions.
        documents: Blocks of token ids of each held-out document; see ``document_blocks``.
        device: Where to run; None for the CPU.
        advance: Called with the number of tokens just read, for each composition and the host.

    Raises:
        PlanError: A plan does not fit the host.
        RecordsError: No document has two tokens.
    """
    import torch

    own = whole(HOST, host.layers)
    organs = dict.fromkeys(
        layer for plan in plans.values() for layer in plan.layers if layer.source != HOST
    )
    try:
        stage = Stage(host, sources, (*own, *organs), device=device)
    except PlanError:  # the class makes layers depend on their place: no sharing
        return _one_by_one(host, sources, plans, documents, device, advance)
    shared = {key: _in_common(plan, host.layers) for key, plan in plans.items()}
    tally, tallies = Tally(documents), {key: Tally(documents) for key in plans}
    with torch.inference_mode():
        for batch in batches(documents, stage.model.device):
            blocks = [block for _, block in batch]
            tokens = sum(map(len, blocks))
            stage.stack(own)
            with stage.keeping(own) as outputs:
                tally.add(batch, token_nats(stage.model, blocks))
            advance(tokens)
            for key, plan in plans.items():
                below = shared[key]
                if below:
                    stage.replay(outputs[below - 1])
                stage.stack(plan.layers[below:], replayed=below > 0)
                tallies[key].add(batch, token_nats(stage.model, blocks))
                advance(tokens)
    return Readings(tally.reading(), {key: tally.reading() for key, tally in tallies.items()})


def _in_common(plan: Plan, layers: int) -> int:
    """How many of a plan's first layers are the host's first, in order; never all of the plan."""
    own = whole(HOST, layers)
    pairs = zip(plan.layers[:-1], own, strict=False)
    return next(
        (number for number, (one, other) in enumerate(pairs) if one != other),
        min(len(plan.layers) - 1, layers),
    )


def _one_by_one(
    host: Checkpoint,
    sources: Sources,
    plans: Mapping[Key, Plan],
    documents: Sequence[Sequence[Block]],
    device: "torch.device | None",
    advance: Callable[[int], None],
) -> Readings[Key]:
    """The same by a whole model for each composition."""

    def read(plan: Plan) -> Reading:
        model = assemble(plan, host, sources)
        if device is not None:
            model.to(device)
        return read_blocks(model, documents, advance=advance)

    before = read(identity(host.layers))
    return Readings(before, {key: read(plan) for key, plan in plans.items()})
