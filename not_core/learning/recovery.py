"""Recovery: brief tuning of a grafted model on the few records of the site that it is for.

It is training as any other, with the graft for a host, and costs the same in privacy: what it wrote
says what bounds it, if anything does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from not_core.errors import OrganError
from not_core.learning.course import Advance
from not_core.learning.private import Private, train_privately
from not_core.learning.recipe import Recipe
from not_core.learning.training import train
from not_core.manifest import Span
from not_core.surgery import graft as grafts
from not_core.surgery.assemble import assemble
from not_core.surgery.checkpoint import Checkpoint
from not_core.surgery.lineage import RECOVERY, RecoveryFacts, What, lineage_of
from not_core.surgery.plan import HOST, Layer, Plan, identity
from not_core.surgery.tensors import Renamed, Tensors, digest_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PASSES = 3.0
"""Passes over the records where no budget is named."""
VALIDATION = 0.2
"""Part of the records that is kept back where none is named."""
PATIENCE = 4
"""Readings to wait for a better one: at its peak, the learning rate may do harm for a while."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a recovery made.

    Attributes:
        tensors: Of the layers that learned, named ``LAYER.NAME`` by their index in the graft.
        facts: For the lineage.
        better: Whether a reading after some step was as good as the one before the first, or none
            was asked for; otherwise these are the graft's own tensors.
        losses: Mean loss of each step, in nats a token; they never leave the site.
        validation: Perplexities on the validation documents; the first is the graft's.
        finished: To be called once it is written; see ``TrainedOrgan``.
    """

    tensors: Tensors
    facts: RecoveryFacts
    better: bool
    losses: tuple[float, ...]
    validation: tuple[float, ...]
    finished: Callable[[], None]


def recover(
    graft: Checkpoint,
    texts: Sequence[str],
    recipe: Recipe,
    *,
    what: What = "organ",
    validation: Sequence[str] = (),
    private: Private | None = None,
    work: Path | None = None,
    advance: Advance = lambda tokens, loss: None,
) -> Recovered:
    """Tune layers of a grafted model on documents; nothing is written.

    Args:
        graft: A model that carries a lineage with organs.
        texts: Documents of the site; none where ``private`` holds them.
        recipe: How; ``rank`` counts where layers learn.
        what: What learns; see ``places``.
        validation: Documents to read while learning. The best reading is kept, the graft's own
            among them; without any, what the last step made is kept, for better or worse.
        private: To learn under differential privacy, without validation: records, and on what
            terms.
        work: See ``train``.
        advance: Told of progress.

    Raises:
        OrganError: No organ is in the model.
        CheckpointError: It was changed after its lineage was written.
        RecordsError: The documents hold no text to learn from.
        TrainingError: As ``train``; or a layer has no norm to tune.
        PrivacyError, LedgerError: As ``train_privately``.
        ValueError: The recipe is for another scaffold than the model itself, or there are texts
            beside private ones.
    """
    if private and (texts or validation):
        raise ValueError("expected no other texts beside private ones")
    if recipe.scaffold != "in-situ":
        raise ValueError(f"expected scaffold in-situ, got {recipe.scaffold}")
    recipe = replace(recipe, scale=recipe.scale or 1.0)
    if what in ("norms", "organ-norms"):
        recipe = replace(recipe, learns="norms", rank=None)
    learning = places(graft, what)
    span = Span(start=learning[0], stop=learning[-1] + 1)
    if private:
        trained = train_privately(
            graft, span, private, recipe, only=learning, work=work, advance=advance
        )
    else:
        trained = train(
            graft,
            span,
            texts,
            recipe,
            only=learning,
            validation=validation,
            work=work,
            advance=advance,
        )
    names = {
        f"{place}.{rest}": f"{place - span.start}.{rest}"
        for place in learning
        for rest in graft.source.layer(place)
    }
    tensors = Renamed(trained.tensors, names)
    facts = RecoveryFacts(
        what=what,
        graft=graft.weights_digest,
        layers=learning,
        learned=digest_of(tensors),
        training=trained.facts,
        validation=len(validation),
        privacy=trained.privacy,
    )
    readings = trained.validation
    better = not readings or min(readings[1:]) <= readings[0]
    return Recovered(tensors, facts, better, trained.losses, readings, trained.finished)


def places(graft: Checkpoint, what: What) -> tuple[int, ...]:
    """Layers of a graft in which something learns.

    Args:
        graft: A model that carries a lineage.
        what: ``organ`` and ``organ-norms`` for the layers of all organs in it, wherever they
            stand; ``norms`` and ``all`` for all layers.

    Raises:
        OrganError: No organ is in the model.
        CheckpointError: It was changed after its lineage was written.
    """
    lineage = lineage_of(graft)
    organs = lineage.organs()
    theirs = tuple(place for place, one in enumerate(lineage.tenants()) if one in organs)
    if not theirs:
        raise OrganError(
            f"no organ is in {graft.origin}; give a graft that `organ transplant` wrote, or train "
            "an organ on these records with `organ train`"
        )
    return theirs if what in ("organ", "organ-norms") else tuple(range(graft.layers))


def assembled(graft: Checkpoint, recovered: Recovered) -> "PreTrainedModel":
    """The recovered graft in memory, as ``write`` would write it."""
    learned = recovered.facts.layers if recovered.better else ()
    source = grafts.tuned(graft, recovered.tensors, learned)
    plan = Plan(
        tuple(
            Layer(RECOVERY if place in source.layers else HOST, place)
            for place in range(graft.layers)
        )
    )
    return assemble(plan, graft, {RECOVERY: source})


def write(
    graft: Checkpoint, recovered: Recovered, out: Path, *, keep_replaced: bool = True
) -> grafts.Written:
    """Write a recovered graft as a model of its own; where nothing got better, a copy.

    Args:
        graft: What was recovered.
        recovered: What came of it.
        out: Folder to make.
        keep_replaced: Whether the layers before are set aside, for ``organ excise``.

    Raises:
        OutputExistsError: ``out`` is taken.
    """
    if not recovered.better:
        plan = identity(graft.layers)
        return grafts.transplant(plan, graft, {}, out, keep_replaced=keep_replaced)
    tensors, facts = recovered.tensors, recovered.facts
    return grafts.recover(graft, tensors, facts, out, keep_replaced=keep_replaced)
