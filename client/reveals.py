"""All that leaves a site, field by field: what it says, and how it is rounded.

The fields are those of the protocol's own values; one without words here is an error.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from client.policy import Policy
from not_core.manifest import Manifest
from not_core.protocol import (
    Delivered,
    Donation,
    Enrolment,
    Receipt,
    Refusal,
    Revoked,
    Segment,
    SignedEnrolment,
    Trial,
    Witnessed,
)
from not_core.trust.offer import Offer
from not_core.trust.profile import Profile
from not_core.trust.tree_head import Cosignature

COORDINATOR, ADDRESSEES = "coordinator", "addressees"
NAMED = "the exchange that this answers"
NONCE = "what the coordinator asked with"
ORGAN = "digest of an organ"
PLANNED = "; with privacy the planned number, without it what was read of the records"

WORDS: Mapping[type[Any], Mapping[str, str]] = {
    Refusal: {"code": "kind of error, and no text of it"},
    Profile: {
        "format": "version of this form",
        "site": "the site's name",
        "certificates": "its public signing key, vouched for by the federation",
        "sealing_key": "its public sealing key",
    },
    Revoked: {"number": "number of the revocation list that the site goes by"},
    SignedEnrolment: {"envelope": "an enrolment and its signature"},
    Enrolment: {
        "exchange": NAMED,
        "nonce": NONCE,
        "profile": "the profile above",
        "domain": "what the records are about, as site.toml says",
        "donates": "whether the site gives organs",
        "family": "the model's family",
        "layers": "the model's layers",
        "base_weights": "digest of the model's weights",
    },
    Donation: {
        "offer": "an offer and its signature",
        "sealed_bytes": "size of the sealed organ",
        "sealed_sha256": "digest of the sealed organ",
        "organ_bytes": "size of what is sealed",
        "tokens": f"tokens it was trained on{PLANNED}",
        "steps": f"steps it was trained for{PLANNED}",
        "privacy": "unit, epsilon and delta, or none",
    },
    Offer: {
        "format": "version of this form",
        "federation": "fingerprint of the federation's root",
        "exchange": NAMED,
        "organ_id": "names of site and organ",
        "organ_digest": f"{ORGAN}, which is of all in its manifest below",
        "version": "which of the site's organs this is, counting all that were begun",
        "donor": "the site's name",
        "descriptor": "digest of form, organ and donor",
        "body_sha256": "digest of the encrypted organ",
        "body_bytes": "size of the encrypted organ",
        "addressees": "fingerprints of who may open it, or random-looking tags for them",
        "wraps_sha256": "digest of the wrapped keys",
        "hidden": "a nonce, where addressees are hidden",
        "not_before": "when it was sealed",
        "expires": "until when it may be opened",
        "domain": "what the records are about, as site.toml says",
        "base_weights": "digest of the model's weights",
        "family": "the model's family",
        "span": "layers that were trained",
    },
    Segment: {"organ": ORGAN, "offset": "where in the sealed organ the bytes beside it belong"},
    Delivered: {"organ": ORGAN, "held": "bytes of a sealed organ that have arrived"},
    Trial: {"receipt": "a receipt and its signature"},
    Receipt: {
        "format": "version of this form",
        "exchange": NAMED,
        "organ": ORGAN,
        "donor": "who gave it",
        "recipient": "the site's name",
        "mode": "as was asked",
        "position": "where in the model it was put",
        "domain_perplexity_before": "on held-out records, which no privacy protects here",
        "domain_perplexity_after": "the same, with the organ",
        "general_perplexity_before": "on public text",
        "general_perplexity_after": "the same, with the organ",
        "change": "of perplexity on held-out records, as a fraction",
        "interval": "where 95 % of resamples of the held-out records put it",
        "documents": "held-out records that were measured, exactly",
        "general_documents": "public texts that were measured",
        "tokens": "of held-out records that were measured",
        "verdict": "whether the site keeps the organ",
        "reason": "the change that was needed, and the one that was found",
    },
    Witnessed: {
        "size": "entries of the coordinator's log when this site last signed it",
        "envelope": "a cosignature and its signature",
    },
    Cosignature: {
        "format": "version of this form",
        "site": "the site's name",
        "head": "what the coordinator says its log is, as it came",
    },
    Manifest: {
        "format": "version of this form",
        "name": "the organ's name",
        "version": "which of the site's organs this is, counting all that were begun",
        "domain": "what the records are about, as site.toml says",
        "licence": "as site.toml says",
        "donor": "the site's name",
        "base": "the model: family, config, digests",
        "span": "layers that were trained",
        "tensors": "names, shapes and digests of what was learned, which lies beside it",
        "stored": "the same, of factors",
        "training": "recipe, tokens, steps, libraries and threads" + PLANNED,
        "privacy": "unit, mechanism, epsilon and delta; its sampling probability tells the number "
        "of units trained on to within a factor of the root of 2",
        "audit": "digest of an audit's report",
        "parents": "organs that it was merged from",
        "merge": "how",
    },
}
"""Of each value that leaves, what each of its fields says."""

DIGITS: Mapping[str, int] = {
    "domain_perplexity_before": 1,
    "domain_perplexity_after": 1,
    "general_perplexity_before": 1,
    "general_perplexity_after": 1,
    "change": 3,
    "interval": 3,
    "tokens": -2,
    "reason": 3,
}
"""Decimals that are left of a receipt's measurements."""


def rounded(field: str, value: float) -> float:
    """A measurement as a receipt may say it."""
    return round(value, DIGITS[field])


@dataclass(frozen=True, slots=True, kw_only=True)
class Revealed:
    """One field that leaves a site.

    Attributes:
        value: The value that it is of.
        field: Its name.
        reader: Who can read it; what goes to the coordinator, other sites may get to see.
        says: What it tells.
        rounding: What is left of a measurement.
        now: What it would say now, as far as that is known before an exchange; else empty.
    """

    value: str
    field: str
    reader: str
    says: str
    rounding: str
    now: str = ""


Known = Mapping[type[Any], Mapping[str, object]]
"""Of values that leave, what some of their fields would say."""


def listed(policy: Policy, known: Known | None = None) -> list[Revealed]:
    """Every field that leaves a site with this policy; with what is known of what it would say."""
    return list(_listed(policy, known or {}))


def _listed(policy: Policy, known: Known) -> Iterator[Revealed]:
    for value, words in WORDS.items():
        says_now = known.get(value, {})
        for one in fields(value):
            measured = value is Receipt and one.name in DIGITS
            yield Revealed(
                value=value.__name__,
                field=one.name,
                reader=ADDRESSEES if value is Manifest else COORDINATOR,
                says=words[one.name],
                rounding=_rounding(DIGITS[one.name], policy) if measured else "",
                now=str(says_now.get(one.name, "")),
            )


def _rounding(digits: int, policy: Policy) -> str:
    return f"to {10.0**-digits:g}; no receipt on fewer than {policy.least_documents} documents"
