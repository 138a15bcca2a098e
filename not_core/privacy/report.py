"""The result of an audit: what it found, what it could have found, and what that says of a claim.

All in it follows from the organ and from canaries, so a private organ's report costs no further
privacy. It holds no text, and its digest goes into the organ's manifest.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import field
from typing import Annotated, Literal, TypeVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from not_core import canonical
from not_core.canonical import STRICT, Digest, Line, Many
from not_core.privacy.canaries import Canaries
from not_core.privacy.membership import Estimate, Membership, membership, proportion
from not_core.privacy.one_run import CONFIDENCE, bound

FORMAT: Literal["organ-exchange/audit/v1"] = "organ-exchange/audit/v1"
DELTA = 1e-5
"""Where nothing is claimed."""

T = TypeVar("T", bool, float)
Verdict = Literal["contradicts the claim", "does not contradict", "too weak to tell", "no claim"]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=2**53 - 1)]


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Claim:
    """What a donor says: (epsilon, delta)-DP when one unit is added or removed."""

    epsilon: Amount
    delta: Annotated[float, Field(ge=0, lt=1)]


@plain_dataclass(frozen=True, slots=True)
class Observed:
    """What a model with the organ and one without make of canaries, in their order.

    Attributes:
        scores: How much smaller a canary's loss became with the organ, in nats.
        recited: Whether the second half is what the model with the organ says after the first.
        before: The same of the model without.
    """

    scores: tuple[float, ...] = field(repr=False)
    recited: tuple[bool, ...] = field(repr=False)
    before: tuple[bool, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Recited:
    """Parts of the canaries whose second half is said after the first, word for word.

    Attributes:
        planted: Of those that were planted.
        others: Of those that were not, which nobody can have learned.
        planted_before: Of those planted, by the model without the organ.
    """

    planted: Estimate
    others: Estimate
    planted_before: Estimate


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class AuditReport:
    """What an audit found.

    Attributes:
        organ: Digest of the organ's tensors, as ``surgery.tensors.table_digest`` makes it.
        claim: What is put to the test; None where the organ's manifest claims nothing.
        delta: That the bounds are for.
        confidence: That ``epsilon`` is no larger than the true one.
        canaries: How many there were, planted or not.
        guesses: How many guesses showed ``epsilon``.
        right: How many of these were right.
        epsilon: The lower bound.
        most: What it could have been at most; see ``one_run.Bound``.
        membership: Planted canaries told from the others.
        recited: Canaries that the model says by heart.
        verdict: What follows for the claim.
        reasons: Why, in words that hold numbers only.
    """

    format: Literal["organ-exchange/audit/v1"] = FORMAT
    organ: Digest
    claim: Claim | None
    delta: Annotated[float, Field(ge=0, lt=1)]
    confidence: Annotated[float, Field(gt=0, lt=1)]
    canaries: Count
    guesses: Count
    right: Count
    epsilon: Amount
    most: Amount
    membership: Membership
    recited: Recited
    verdict: Verdict
    reasons: Many[Line]

    @property
    def digest(self) -> str:
        """What the manifest names it by."""
        return canonical.digest(self)


def conclude(
    observed: Observed,
    canaries: Canaries,
    *,
    organ: str,
    claim: Claim | None,
    confidence: float = CONFIDENCE,
) -> AuditReport:
    """Draw conclusions from what was observed.

    Args:
        observed: What the models made of the canaries.
        canaries: Which of them were planted.
        organ: Digest of the organ's tensors.
        claim: To put to the test; None if there is none.
        confidence: That the bound holds.
    """
    delta = claim.delta if claim else DELTA
    shown = bound(observed.scores, canaries.planted, delta, confidence=confidence)
    members, others = _sides(observed.scores, canaries.planted)
    told = membership(members, others)
    said, said_by_chance = _sides(observed.recited, canaries.planted)
    said_before, _ = _sides(observed.before, canaries.planted)
    epsilon, most = _down(shown.epsilon), _down(shown.most)
    verdict, reasons = _verdict(epsilon, most, len(canaries.texts), claim, confidence)
    if told.true_positives is None:
        reasons += (f"{told.others} canaries left out cannot tell 1% false positives",)
    return AuditReport(
        organ=organ,
        claim=claim,
        delta=delta,
        confidence=confidence,
        canaries=len(canaries.texts),
        guesses=shown.guesses.made,
        right=shown.guesses.right,
        epsilon=epsilon,
        most=most,
        membership=told,
        recited=Recited(
            planted=proportion(sum(said), len(said)),
            others=proportion(sum(said_by_chance), len(said_by_chance)),
            planted_before=proportion(sum(said_before), len(said_before)),
        ),
        verdict=verdict,
        reasons=reasons,
    )


def _verdict(
    epsilon: float, most: float, canaries: int, claim: Claim | None, confidence: float
) -> tuple[Verdict, tuple[str, ...]]:
    found = f"epsilon is at least {epsilon} with {confidence:.0%} confidence"
    could = f"{canaries} canaries could have shown {most} at most"
    if claim is None:
        return "no claim", (found, could)
    claimed = f"{claim.epsilon:g} is claimed"
    if epsilon > claim.epsilon:
        return "contradicts the claim", (found, claimed)
    if most <= claim.epsilon:
        return "too weak to tell", (could, claimed, "plant more canaries")
    return "does not contradict", (found, could, claimed)


def _sides(values: Sequence[T], planted: Sequence[bool]) -> tuple[list[T], list[T]]:
    """Values of planted canaries, and of the others."""
    pairs = list(zip(values, planted, strict=True))
    return [one for one, coin in pairs if coin], [one for one, coin in pairs if not coin]


def _down(epsilon: float) -> float:
    return math.floor(epsilon * 1000) / 1000
