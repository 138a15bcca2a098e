"""``train`` and ``recover``: from records to organs and tuned grafts."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from not_core import atomic
from not_core.errors import PrivacyError
from not_core.learning import audit as audits
from not_core.learning import recovery
from not_core.learning.course import Advance
from not_core.learning.guard import Guard, around, check_base
from not_core.learning.private import Private, train_privately
from not_core.learning.recipe import Recipe, default_span
from not_core.learning.records import Split, read_records, read_units, record_units, split_part
from not_core.learning.training import TrainedOrgan
from not_core.learning.training import train as train_openly
from not_core.manifest import TENSORS, Manifest, Span
from not_core.privacy.account import Charged
from not_core.privacy.canaries import Canaries
from not_core.privacy.charge import Bound
from not_core.privacy.ledger import default_folder, standalone
from not_core.privacy.report import AuditReport
from not_core.surgery import organ as organs
from not_core.surgery.checkpoint import Checkpoint, open_checkpoint
from not_core.surgery.graft import Written
from not_core.surgery.lineage import What
from not_core.verbs.facts import StrPath, table

TRAINING = Recipe(tokens=16_384)
"""How an organ is trained where nothing is said."""
RECOVERY = Recipe(epochs=recovery.PASSES, patience=recovery.PATIENCE)
"""How a graft is tuned where nothing is said."""
BOUND = 10.0
"""Most epsilon that a unit may cost over all runs in a ledger, where nothing is said."""


@dataclass(frozen=True, slots=True, repr=False)
class Trained:
    """An organ that was trained, in its folder; it is path-like.

    Attributes:
        path: The folder.
        manifest: What the organ says of itself.
        losses: Mean loss of each step, in nats a token. Of private training they are exact means
            of the records that were drawn, which no noise hides: they stay at the site.
        validation: Perplexities on the records kept back; the first is from before the first step.
        audit: What the search for canaries found, if there were any.
    """

    path: Path
    manifest: Manifest
    losses: tuple[float, ...]
    validation: tuple[float, ...]
    audit: AuditReport | None

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return table(self.facts())

    def facts(self) -> dict[str, Any]:
        """What the command reports."""
        training, open_ = self.manifest.training, self.manifest.privacy.mechanism == "none"
        return {
            "organ": str(self.path),
            "digest": self.manifest.digest,
            "span": str(self.manifest.span),
            "form": self.manifest.stored.form,
            "artefact_bytes": (self.path / TENSORS).stat().st_size,
            "tokens": training.tokens if training else 0,
            "steps": training.steps if training else 0,
            # Of private training these would be exact means of what was drawn.
            **({"loss_first": self.losses[0], "loss_last": self.losses[-1]} if open_ else {}),
            "validation": list(self.validation),
            "privacy": self.manifest.privacy.words,
            "audit": audits.summary(self.audit) if self.audit else None,
        }


@dataclass(frozen=True, slots=True, repr=False)
class RecoveredModel:
    """A graft that was tuned, as it was written; it is path-like.

    Attributes:
        path: Its folder.
        written: Its weights digest, and what is in it.
        recovered: What tuning came to.
        records: Records that it learned from; rounded where they were private units.
        validation_records: Records kept back to choose by.
    """

    path: Path
    written: Written
    recovered: recovery.Recovered
    records: int
    validation_records: int

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return table(self.facts())

    def facts(self) -> dict[str, Any]:
        """What the command reports."""
        better, facts = self.recovered.better, self.recovered.facts
        return {
            "recovered": str(self.path),
            "what": facts.what,
            "layers": list(facts.layers) if better else [],
            "weights": self.written.weights,
            "recovery": facts.digest if better else None,
            "records": self.records,
            "validation_records": self.validation_records,
            "validation": list(self.recovered.validation),
            "note": None
            if better
            else "no reading was better than the graft's; what was written is the graft",
            "privacy": facts.privacy.words,  # to change nothing is chosen by records, too
        }


def train(
    model: StrPath,
    data: StrPath,
    out: StrPath,
    *,
    text_field: str = "text",
    span: tuple[int, int] | None = None,
    recipe: Recipe = TRAINING,
    ship: Literal["factors", "layers"] | None = None,
    validation: float = 0.0,
    canaries: int = 0,
    guard: Guard | None = None,
    unit_field: str | None = None,
    ledger: StrPath | None = None,
    bound: float = BOUND,
    work: StrPath | None = None,
    name: str = "organ",
    domain: str = "unspecified",
    licence: str = "unspecified",
    version: int = 1,
    advance: Advance = lambda tokens, loss: None,
    read: Callable[[int], None] = lambda texts: None,
) -> Trained:
    """Train an organ on private records: the model around it stays frozen.

    Without a guard, the organ may memorise records.

    Args:
        model: Model folder, .gguf file or hub id.
        data: Private records: JSONL, CSV, Parquet, text, or a folder of one kind.
        out: Folder to make.
        text_field: Field that holds a record's text.
        span: Layers START, STOP; None for all but the lowest sixth, or three whole ones.
        recipe: How.
        ship: What the folder holds; None for ``factors`` where factors were trained.
        validation: Part of the records kept back to stop in time.
        canaries: Canaries to make for an audit; its report lies beside the organ.
        guard: Differential privacy, charged to the ledger before the first step.
        unit_field: Field that names whom a record is about, for a guard whose unit is ``subject``.
        ledger: Its folder; None for the user's.
        bound: Most epsilon that a unit may cost over all runs in the ledger.
        work: Private folder to go on from, should the process die.
        name: The organ's.
        domain: What its records are about.
        licence: Of the organ.
        version: Later ones are higher.
        advance: Told of each step's tokens and loss.
        read: Told how many texts an audit has just read, of two for each canary.

    Raises:
        OutputExistsError: ``out`` is taken.
        RecordsError: The records cannot be read, or hold no text to learn from.
        CheckpointError: The model cannot be read.
        PlanError: The span reaches past the model.
        TrainingError: The loss is no longer finite, or the recipe does not suit the family.
        PrivacyError: The guard does not suit recipe, records or base, or there is none.
        LedgerError: The charge is refused.
        ValueError: ``ship`` is ``factors`` and the recipe has no rank.
    """
    atomic.refuse_existing(Path(out))
    form = ship or ("factors" if recipe.rank else "layers")
    if form == "factors" and not recipe.rank:
        raise ValueError("expected a recipe with a rank, to ship factors")
    _check_terms(guard, unit_field, ledger, validation)
    label = organs.make_label(name=name, domain=domain, licence=licence, version=version)
    host = open_checkpoint(os.fspath(model))
    cut = Span(start=span[0], stop=span[1]) if span else default_span(host.layers, recipe.rank)
    place = Path(work) if work is not None else None
    planted = audits.canaries_for(host, canaries, place) if canaries else None
    more = planted.to_plant if planted else ()
    if guard:
        check_base(host)
        terms = _private(guard, data, text_field, unit_field, more, ledger, bound, name)
        whole = replace(recipe, head_sample=None)
        trained = train_privately(host, cut, terms, whole, work=place, advance=advance)
    else:
        parts = split_part(read_records(Path(data), text_field), validation, recipe.seed)
        trained = train_openly(
            host,
            cut,
            (*parts.train, *more),
            recipe,
            validation=parts.held_out,
            work=place,
            advance=advance,
        )
    manifest = organs.describe(
        host,
        cut,
        trained.tensors,
        label,
        training=trained.facts,
        privacy=trained.privacy,
        form=form,
    )
    found = _audited(host, trained, manifest, planted, read) if planted else None
    if found:
        manifest = replace(manifest, audit=found.digest)
        audits.write_report(audits.beside(Path(out)), found)
    organs.write_organ(Path(out), trained.tensors, manifest)
    audits.forget(place)
    trained.finished()
    return Trained(Path(out), manifest, trained.losses, trained.validation, found)


def recover(
    graft: StrPath,
    data: StrPath,
    out: StrPath,
    *,
    text_field: str = "text",
    what: What = "organ",
    recipe: Recipe = RECOVERY,
    validation: float | None = None,
    keep_replaced: bool = True,
    guard: Guard | None = None,
    unit_field: str | None = None,
    ledger: StrPath | None = None,
    bound: float = BOUND,
    work: StrPath | None = None,
    advance: Advance = lambda tokens, loss: None,
) -> RecoveredModel:
    """Tune a grafted model briefly on a site's own records, however few.

    A part of the records is kept back; where nothing reads better on it than the graft did, a copy
    of the graft is written. Without a guard, the result may memorise records.

    Args:
        graft: Grafted model folder, as ``transplant`` wrote it.
        data: Private records; see ``train``.
        out: Folder to make.
        text_field: Field that holds a record's text.
        what: What learns: the layers of the ``organ`` or its norms (``organ-norms``), all
            ``norms``, or ``all`` layers.
        recipe: How.
        validation: Part of the records kept back to choose by; None for 0.2, and for none with a
            guard, which is a risk.
        keep_replaced: Whether to set aside the layers that change, for ``excise``.
        guard: Differential privacy; as for ``train`` are the others.
        unit_field: Field that names whom a record is about.
        ledger: Folder of the ledger.
        bound: Most epsilon that a unit may cost over all runs in the ledger.
        work: Private folder to go on from, should the process die.
        advance: Told of each step's tokens and loss.

    Raises:
        OutputExistsError: ``out`` is taken.
        OrganError: No organ is in the model.
        CheckpointError: The graft cannot be read, or was changed since it was written.
        RecordsError: The records cannot be read, or hold no text to learn from.
        TrainingError: As ``train``; or a layer has no norm to tune.
        PrivacyError: As ``train``.
        LedgerError: The charge is refused.
    """
    atomic.refuse_existing(Path(out))
    _check_terms(guard, unit_field, ledger, validation or 0.0)
    host = open_checkpoint(os.fspath(graft))
    recovery.places(host, what)  # refused before records are read
    place = Path(work) if work is not None else None
    terms, parts = None, Split((), ())
    if guard:
        terms = _private(guard, data, text_field, unit_field, (), ledger, bound, "recovery")
        recipe = replace(recipe, head_sample=None)
    else:
        part = recovery.VALIDATION if validation is None else validation
        parts = split_part(read_records(Path(data), text_field), part, recipe.seed)
    recovered = recovery.recover(
        host,
        parts.train,
        recipe,
        what=what,
        validation=parts.held_out,
        private=terms,
        work=place,
        advance=advance,
    )
    written = recovery.write(host, recovered, Path(out), keep_replaced=keep_replaced)
    recovered.finished()
    records = round(around(len(terms.units))) if terms else len(parts.train)
    return RecoveredModel(Path(out), written, recovered, records, len(parts.held_out))


def _check_terms(
    guard: Guard | None, unit_field: str | None, ledger: StrPath | None, validation: float
) -> None:
    """Refuse terms of privacy that protect nobody: who names one expects to be protected."""
    if guard is None and (unit_field is not None or ledger is not None):
        raise PrivacyError("a unit field or a ledger takes a guard; give one, or neither")
    if guard and (guard.unit == "subject") != (unit_field is not None):
        raise PrivacyError(
            f"the guard's unit is a {guard.unit} and the unit field is {unit_field}; "
            "name a field for subjects, and for subjects only"
        )
    if guard and validation:
        raise PrivacyError(
            "validation chooses by records, which a guard cannot bound; keep none back"
        )


def _private(
    guard: Guard,
    data: StrPath,
    text_field: str,
    unit_field: str | None,
    more: Sequence[str],
    ledger: StrPath | None,
    bound: float,
    label: str,
) -> Private:
    """Read records as units, and open the ledger that pays for them.

    Args:
        guard: Of the training.
        data: Private records.
        text_field: Field that holds a record's text.
        unit_field: Field that names whom a record is about.
        more: Texts of nobody, such as canaries; each is a unit that is not charged.
        ledger: Folder of the ledger; None for the user's.
        bound: Most that a unit may cost over all runs in it.
        label: What is trained.
    """
    units = read_units(Path(data), text_field, unit_field)
    account = Charged(
        standalone(default_folder() if ledger is None else Path(ledger)),
        tuple(unit.key for unit in units),
        guard.unit,
        Bound(bound, guard.delta),
        label,
    )
    return Private((*units, *record_units(more)), guard, account)


def _audited(
    host: Checkpoint,
    trained: TrainedOrgan,
    manifest: Manifest,
    planted: Canaries,
    read: Callable[[int], None],
) -> AuditReport:
    organ = organs.Organ(manifest, trained.tensors)
    claim = audits.claimed(manifest)
    return audits.audited(host, organ, planted, claim=claim, advance=read)
