"""How a site trains an organ: with differential privacy where its policy bounds it."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from client.home import Site
from client.policy import check_passes
from client.records import own_split, own_units
from not_core.errors import RecordsError
from not_core.learning.course import Advance
from not_core.learning.guard import Guard, around, check_base, plan
from not_core.learning.private import Private, train_privately
from not_core.learning.recipe import Recipe
from not_core.learning.records import record_units, text_digest
from not_core.learning.training import TrainedOrgan, train
from not_core.privacy.account import Charged
from not_core.privacy.charge import Bound
from not_core.protocol import Terms
from not_core.surgery.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class Training:
    """Training that the policy allows, not begun.

    Attributes:
        tokens: Planned.
        follows: What of it decides the outcome, besides model and terms; JSON data.
        run: Trains; takes canaries that are planted, and ``advance``, as ``train`` does.
    """

    tokens: int
    follows: dict[str, Any]
    run: Callable[[tuple[str, ...], Advance], TrainedOrgan]


def prepare(site: Site, host: Checkpoint, terms: Terms) -> Training:
    """Get training ready on terms of a coordinator, who has no say in its privacy.

    Raises:
        PolicyError: The policy does not allow it.
        PrivacyError: The policy's privacy does not suit terms or records.
        RecordsError: No records to train on.
    """
    recipe = Recipe(
        rank=terms.rank,
        tokens=terms.tokens,
        learning_rate=terms.learning_rate,
        seed=terms.seed,
        device=site.settings.device,
        threads=site.settings.threads or None,
    )
    if site.policy.bound is None:
        return _open(site, host, terms, recipe)
    return _private(site, host, terms, recipe, site.policy.bound)


def _open(site: Site, host: Checkpoint, terms: Terms, recipe: Recipe) -> Training:
    split = own_split(site)
    _check_some(split.train)
    there = sum(len(ids) for ids in host.tokenizer(list(split.train))["input_ids"])
    check_passes(site.policy, terms.tokens, there)

    def run(planted: tuple[str, ...], advance: Advance) -> TrainedOrgan:
        texts, work = (*split.train, *planted), site.place("work")
        return train(host, terms.span, texts, recipe, work=work, advance=advance)

    follows = {"records": [text_digest(text) for text in split.train]}
    return Training(terms.tokens, follows | _audited(site), run)


def _private(site: Site, host: Checkpoint, terms: Terms, recipe: Recipe, bound: Bound) -> Training:
    policy, unit = site.policy, site.unit or "record"
    check_base(host)
    units = own_units(site).train
    _check_some(units)
    recipe = replace(recipe, head_sample=None)
    guard = Guard(
        epsilon=policy.epsilon_per_organ or bound.epsilon,
        delta=bound.delta,
        unit=unit,
        units_per_step=policy.units_per_step,
    )
    planned = plan(guard, recipe, len(units) + policy.audit_canaries // 2)
    # By planned numbers only: how many tokens the records have is nobody's to learn.
    room = guard.most_blocks_per_unit * recipe.block_tokens
    check_passes(policy, planned.tokens, round(around(len(units)) * room))
    keys = tuple(one.key for one in units)
    # The coordinator sees a refusal, and whether an organ is made anew: neither may follow from who
    # is in the records, so all charges decide, and the same terms bring the organ that there is.
    account = Charged(site.ledger, keys, unit, bound, site.settings.organ_name, together=True)

    def run(planted: tuple[str, ...], advance: Advance) -> TrainedOrgan:
        private = Private((*units, *record_units(planted)), guard, account)
        work = site.place("work")
        return train_privately(host, terms.span, private, recipe, work=work, advance=advance)

    return Training(planned.tokens, {"guard": asdict(guard)} | _audited(site), run)


def _audited(site: Site) -> dict[str, int]:
    count = site.policy.audit_canaries
    return {"canaries": count} if count else {}


def _check_some(train: Sequence[object]) -> None:
    if not train:
        raise RecordsError(
            "all documents are held out, none is left to train on; "
            "bring more records or set donates = false"
        )
