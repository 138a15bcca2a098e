"""What a site lets out and takes in, whoever asks; the content of ``policy.toml``."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal, get_args

from pydantic import Field
from pydantic.dataclasses import dataclass

from not_core.canonical import STRICT, Name
from not_core.errors import ApprovalError, FormatError, PolicyError
from not_core.manifest import (
    Delta,
    DifferentialPrivacy,
    Epsilon,
    NoPrivacy,
    Positive,
    Unit,
)
from not_core.privacy.charge import Bound
from not_core.protocol import DeliverRequest, DonateRequest
from not_core.trust.certificates import DAY
from not_core.trust.log import Log
from not_core.trust.profile import Profile

Decided = Literal["approved", "rejected"]
"""Events of the log: what an operator says of an organ."""

MOST_FILES = 1000
"""Most files kept in ``organs/in``: who delivers them has not been verified yet."""


JUDGING = (
    "least_documents",
    "least_gain",
    "most_forgetting",
    "most_sealed_bytes",
    "most_drift",
    "most_epsilon_taken",
    "most_delta_taken",
    "unit_taken",
)
"""Fields of the policy that decide whether an organ is measured, and what is said of it."""


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Policy:
    """What may leave and what is taken in.

    Attributes:
        release_organs: ``ask``: each organ waits for the operator; ``always``: none does.
        least_documents: Measurements on fewer held-out documents do not leave.
        least_gain: Smallest fall of domain perplexity worth a transplant, as a fraction.
        most_forgetting: Largest rise of general perplexity accepted, as a fraction.
        most_tokens: Largest number of training tokens a coordinator may ask for.
        most_layers: Largest number of layers a coordinator may ask to train.
        most_passes: Most passes over the records it may ask for: repetition is memorisation.
        most_made: Most organs that wait for the operator: another is not trained until some are
            approved or rejected; with ``always`` none waits.
        most_sealed_bytes: Largest sealed organ taken in.
        most_stored_bytes: Most bytes of sealed organs kept from all exchanges, and as many of
            sealed copies of own ones.
        most_heads_bytes: Most bytes kept of what a coordinator shows of its log.
        most_drift: Farthest that an organ's tensor may be from the base's, in norm and in its
            largest change, where 1 is as far as the base's tensor is from zero.
        most_trials: Most organs of one donor tried, ever: every receipt says a little about the
            held-out records, and an organ can be made to ask.
        revocation_grace_days: How long after its next-update a revocation list still serves; after
            that nobody's signature is believed.
        addressees: Sites that may be sent organs; empty for any member of the federation.
        epsilon: Most that a unit of the site's records may be charged in all, over all organs,
            which are then trained with differential privacy; absent, they are trained without.
        epsilon_per_organ: Most that one organ may cost; absent, the first may cost ``epsilon``.
        delta: Where both hold.
        units_per_step: Units that a step of private training draws, on average; more of them drown
            more of the noise, and make fewer steps of the tokens that are asked for.
        audit_canaries: Canaries for an audit of each organ, half of which it learns beside the
            records; 0 audits none. An organ whose audit contradicts its privacy does not leave.
        most_epsilon_taken: Largest epsilon that an organ taken in may state; absent, organs without
            differential privacy are taken, too.
        most_delta_taken: Largest delta of such a statement.
        unit_taken: What it must protect: a record, or all records of a subject.
    """

    release_organs: Literal["ask", "always"] = "ask"
    least_documents: Positive = 10
    least_gain: Annotated[float, Field(ge=0, lt=1)] = 0.02
    most_forgetting: Annotated[float, Field(ge=0)] = 0.10
    most_tokens: Positive = 10_000_000
    most_layers: Positive = 8
    most_passes: Annotated[float, Field(gt=0, le=1000)] = 4.0
    most_made: Positive = 8
    most_sealed_bytes: Positive = 8 * 2**30
    most_stored_bytes: Positive = 64 * 2**30
    most_heads_bytes: Positive = 2**30
    most_drift: Annotated[float, Field(gt=0)] = 1.0
    most_trials: Positive = 20
    revocation_grace_days: Annotated[float, Field(ge=0, le=365)] = 7.0
    addressees: tuple[Name, ...] = ()
    epsilon: Epsilon | None = None
    epsilon_per_organ: Epsilon | None = None
    delta: Delta = 1e-6
    units_per_step: Positive = 8
    audit_canaries: Annotated[int, Field(ge=0, le=100_000)] = 0
    most_epsilon_taken: Epsilon | None = None
    most_delta_taken: Delta = 1e-5
    unit_taken: Unit = "record"

    def __post_init__(self) -> None:
        if self.epsilon_per_organ is not None and self.epsilon_per_organ > (self.epsilon or 0):
            raise ValueError(
                "expected an epsilon that bounds all organs, and epsilon_per_organ up to it"
            )

    @property
    def bound(self) -> Bound | None:
        """What no unit of the site's records may pass; None without differential privacy."""
        return None if self.epsilon is None else Bound(self.epsilon, self.delta)

    @property
    def revocation_grace(self) -> int:
        """How long after its next-update a revocation list still serves, in seconds."""
        return round(self.revocation_grace_days * DAY)


def check_donation(policy: Policy, request: DonateRequest) -> None:
    """Check what a donation would train and who would get it, before anything is read.

    Raises:
        PolicyError: The policy does not allow it.
        FormatError: No addressee, or one named twice.
    """
    terms = request.terms
    names = [profile.site for profile in request.addressees]
    if not names or len(set(names)) != len(names):
        raise FormatError(
            f"{len(names)} addressees, {len(set(names))} of them different; "
            "expected at least one, each once: ask for a corrected request"
        )
    check_addressees(policy, request.addressees)
    for asked, most, what in (
        (terms.tokens, policy.most_tokens, "tokens"),
        (len(terms.span), policy.most_layers, "layers"),
    ):
        if asked > most:
            raise PolicyError(
                f"asked to train {asked} {what}, the policy allows {most}; ask for fewer, or raise "
                f"most_{what} in policy.toml"
            )


def check_addressees(policy: Policy, addressees: Sequence[Profile]) -> None:
    """Check who would be sent organs.

    Raises:
        PolicyError: Somebody whom the policy does not name.
    """
    others = {profile.site for profile in addressees} - set(policy.addressees)
    if policy.addressees and others:
        raise PolicyError(
            f"addressee {min(others)} is not one that the policy names; add it to addressees in "
            "policy.toml to let organs go there"
        )


def decided(log: Log, organ: str) -> Decided | None:
    """The operator's last word on an organ; None where there is none."""
    said: tuple[Decided, ...] = get_args(Decided)
    last = log.last(said, organ)
    return next((one for one in said if one == last), None)


def trial_of(donor: str) -> str:
    """What the log calls a trial of a donor's organ."""
    return f"trial of {donor}"


def check_release(policy: Policy, log: Log, organ: str) -> None:
    """Check that the operator's last word, or the policy for all organs, lets an organ leave.

    Raises:
        ApprovalError: The operator rejected it, whatever the policy, or has yet to approve it.
    """
    said = decided(log, organ)
    if said == "rejected":
        raise ApprovalError(
            f"organ {organ} was rejected by the operator and does not leave; to let it leave all "
            f"the same, run organ-site approve HOME {organ[:12]}"
        )
    if said is None and policy.release_organs == "ask":
        raise ApprovalError(
            f"organ {organ} waits for approval; run organ-site approve HOME {organ[:12]}"
        )


def check_made(policy: Policy, waiting: int) -> None:
    """Check that another organ may be trained beside those that wait for the operator.

    Raises:
        ApprovalError: So many wait that their operator is asked first.
    """
    if waiting >= policy.most_made:
        raise ApprovalError(
            f"{waiting} organs wait for approval, the policy allows {policy.most_made}; approve or "
            "reject some (organ-site pending), or raise most_made in policy.toml"
        )


def check_passes(policy: Policy, tokens: int, there: int) -> None:
    """Check how often records would be repeated in training on ``tokens`` tokens.

    Raises:
        PolicyError: More often than the policy allows.
    """
    if tokens > policy.most_passes * there:
        raise PolicyError(
            f"asked to train on {tokens} tokens, the records have {there} and the policy "
            f"allows {policy.most_passes} passes over them; ask for fewer, or raise most_passes"
        )


def check_delivery(policy: Policy, request: DeliverRequest, stored: int, files: int) -> None:
    """Check that a sealed organ, or a part, may be taken in beside others, from whomever they are.

    Args:
        policy: Of the site.
        request: What is delivered.
        stored: Bytes that would be kept.
        files: Files that would be kept.

    Raises:
        PolicyError: Too large, or too many.
    """
    if request.sealed_bytes > policy.most_sealed_bytes:
        raise PolicyError(
            f"a sealed organ of {request.sealed_bytes} bytes, the policy takes at most "
            f"{policy.most_sealed_bytes}; raise most_sealed_bytes to take it in"
        )
    if stored > policy.most_stored_bytes:
        raise PolicyError(
            f"{stored} bytes of sealed organs would be kept, the policy allows "
            f"{policy.most_stored_bytes}; 'organ-site forget' removes an exchange's"
        )
    if files > MOST_FILES:
        raise PolicyError(
            f"{files} sealed organs and parts of some would be kept, at most {MOST_FILES} are; "
            "'organ-site forget' removes an exchange's"
        )


def check_copies(policy: Policy, stored: int) -> None:
    """Check that a sealed copy of an own organ may be kept beside those of other exchanges.

    Args:
        policy: Of the site.
        stored: Bytes that would be kept of such copies.

    Raises:
        PolicyError: Too many.
    """
    if stored > policy.most_stored_bytes:
        raise PolicyError(
            f"{stored} bytes of sealed copies would be kept, the policy allows "
            f"{policy.most_stored_bytes}; 'organ-site forget' removes an exchange's"
        )


def check_heads(policy: Policy, kept: int) -> None:
    """Check that a tree head and its proofs may be kept beside earlier ones.

    Args:
        policy: Of the site.
        kept: Bytes that would be kept.

    Raises:
        PolicyError: Too many.
    """
    if kept > policy.most_heads_bytes:
        raise PolicyError(
            f"{kept} bytes of tree heads would be kept, the policy allows "
            f"{policy.most_heads_bytes}; ask the coordinator's operator why they are so many"
        )


def check_privacy(policy: Policy, stated: NoPrivacy | DifferentialPrivacy) -> None:
    """Check that an organ states as much privacy as this site demands of what it takes in.

    To add or remove a subject is not to change one of its records: that is to remove the subject
    and add it anew, two steps between neighbours. So a statement of subjects meets a demand for
    records at twice its epsilon, and 1 + e^epsilon times its delta; one of records never meets a
    demand for subjects, who may have any number of them.

    Raises:
        PolicyError: It states none, too little, or of too small a unit.

    Source: Vadhan (2017), The Complexity of Differential Privacy, lemma 2.2 (group privacy).
    """
    if policy.most_epsilon_taken is None:
        return
    demand = (
        f"the policy takes epsilon {policy.most_epsilon_taken:g} at delta "
        f"{policy.most_delta_taken:g} a {policy.unit_taken}"
    )
    if isinstance(stated, NoPrivacy):
        raise PolicyError(f"the organ states no differential privacy, {demand}")
    epsilon, delta, states = stated.epsilon, stated.delta, stated.words
    if stated.unit != policy.unit_taken:
        if policy.unit_taken == "subject":
            raise PolicyError(f"the organ states {states}, {demand}")
        epsilon, delta = 2 * epsilon, delta * (1 + math.exp(epsilon))
        states += f", which is epsilon {epsilon:.4g} at delta {delta:.4g} a record"
    if epsilon > policy.most_epsilon_taken or delta > policy.most_delta_taken:
        raise PolicyError(f"the organ states {states}, {demand}")
