"""To whom a content key goes: addressees by name, or hidden among slots that all look alike.

The key goes to each by HPKE (ML-KEM-768+X25519, HKDF-SHA256, AES-256-GCM) with the offer's
``info``, so that a wrap serves one offer only.

Hidden addressees stand in the offer as tags that follow from the content key, the offer's nonce
and the sealing fingerprint: whoever has the key can check that the donor meant him, and see who of
the sites he knows was meant, too. To everybody else they are as random as those of the slots that
belong to nobody, whose wraps go to keys that were thrown away.
"""

import base64
import os
from collections.abc import Mapping, Sequence

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from not_core.errors import NotAddressedError, OfferError, UnsealError
from not_core.trust.federation import Trust, verify_profile
from not_core.trust.holder import SUITE, Opener
from not_core.trust.offer import MAX_ADDRESSEES, Offer
from not_core.trust.profile import Profile, sealing_public_key, unbase64

KEY_BYTES = 32
SLOTS = (16, 64, 256, MAX_ADDRESSEES)
"""Numbers of slots of hidden addressees: the smallest that holds them tells their number's size."""

_TAG = b"organ-exchange/addressee/v1"


def tag(key: bytes, nonce: str, fingerprint: str) -> str:
    """What stands for a hidden addressee in an offer.

    Args:
        key: Content key, 32 bytes.
        nonce: The offer's ``hidden``, in hexadecimal.
        fingerprint: Of the addressee's sealing key, in hexadecimal.

    Returns:
        32 bytes in hexadecimal.

    Source: RFC 5869, HKDF-Expand.
    """
    info = _TAG + bytes.fromhex(nonce) + bytes.fromhex(fingerprint)
    return HKDFExpand(hashes.SHA256(), KEY_BYTES, info).derive(key).hex()


def check_number(profiles: Sequence[Profile], donor: Profile) -> None:
    """Check that an offer has room for addressees, and for the donor, who always is one.

    Raises:
        OfferError: There are none, or more than ``MAX_ADDRESSEES`` with the donor.
    """
    count = len({one.sealing_fingerprint for one in (*profiles, donor)})
    if not profiles or count > MAX_ADDRESSEES:
        raise OfferError(
            f"{len(profiles)} addressees given, expected 1 to {MAX_ADDRESSEES} with the donor "
            "itself; name the sites that may open the organ, in several offers if need be"
        )


def verified(profiles: Sequence[Profile], trust: Trust, now: int) -> dict[str, Profile]:
    """Profiles by sealing fingerprint, each verified.

    Raises:
        OfferError: One is named twice.
        CertificateError: A profile does not verify.
    """
    found: dict[str, Profile] = {}
    for profile in profiles:
        verify_profile(profile, trust, now=now)
        if profile.sealing_fingerprint in found:
            raise OfferError(f"addressee {profile.site} is named twice; name each site once")
        found[profile.sealing_fingerprint] = profile
    return found


def named(key: bytes, nonce: str | None, profiles: Mapping[str, Profile]) -> dict[str, Profile]:
    """Addressees as an offer writes them, sorted; those that stand for nobody are left out.

    Args:
        key: Content key.
        nonce: None to name them openly; or the nonce that hides them.
        profiles: By sealing fingerprint.
    """
    if nonce is None:
        return dict(sorted(profiles.items()))
    return {tag(key, nonce, one): profile for one, profile in sorted(profiles.items())}


def padded(names: Sequence[str], nonce: str | None) -> tuple[str, ...]:
    """Names for an offer: sorted; if they are hidden, among random ones up to a number of slots."""
    if nonce is None:
        return tuple(sorted(names))
    slots = next(size for size in SLOTS if size >= len(names))
    return tuple(sorted([*names, *(os.urandom(32).hex() for _ in range(slots - len(names)))]))


def wrapped(key: bytes, offer: Offer, profiles: Mapping[str, Profile]) -> dict[str, str]:
    """Wrap a content key for each addressee of an offer.

    Args:
        key: Content key.
        offer: Complete but for the digest of the wraps.
        profiles: Addressees as the offer writes them; what else it names belongs to nobody.

    Returns:
        Base64 by addressee.

    Raises:
        CertificateError: A sealing key is not one that anything can be sealed to.
    """
    return {name: _wrap(key, profiles.get(name), offer) for name in offer.addressees}


def unwrapped(
    wraps: Mapping[str, str],
    offer: Offer,
    site: str,
    keys: Mapping[str, Opener],
) -> bytes:
    """The content key, unwrapped by one of a site's keys.

    Args:
        wraps: Base64 by addressee.
        offer: The verified offer, which names exactly these addressees.
        site: Who unwraps, for messages.
        keys: What opens for it, by fingerprint of the sealing key.

    Raises:
        NotAddressedError: No wrap is for these keys.
        UnsealError: The one that is does not open.
    """
    nonce = offer.hidden
    if nonce is None:
        for fingerprint, private in keys.items():
            if fingerprint in wraps:
                return _unwrap(wraps[fingerprint], private, offer, site)
    else:
        for fingerprint, private in keys.items():
            for name, wrap in wraps.items():
                try:
                    key = _unwrap(wrap, private, offer, site)
                except UnsealError:
                    continue  # another's, or nobody's
                if tag(key, nonce, fingerprint) == name:
                    return key
    raise NotAddressedError(
        f"sealed organ is addressed to others, not to {site} with a sealing key that it has; ask "
        f"{offer.donor} for an offer to this site"
    )


def _wrap(key: bytes, addressee: Profile | None, offer: Offer) -> str:
    if addressee is None:
        key, public = os.urandom(KEY_BYTES), _thrown_away()
    else:
        public = sealing_public_key(addressee.sealing_key, addressee.site)
    return base64.b64encode(SUITE.encrypt(key, public, info=offer.info)).decode()


def _thrown_away() -> MLKEM768X25519PublicKey:
    return MLKEM768X25519PublicKey(
        mlkem.MLKEM768PrivateKey.generate().public_key(),
        x25519.X25519PrivateKey.generate().public_key(),
    )


def _unwrap(wrap: str, private: Opener, offer: Offer, site: str) -> bytes:
    try:
        key = private.open(unbase64(wrap, "wrapped key"), offer.info)
    except UnsealError:
        raise UnsealError(
            f"the key wrapped for {site} does not open; get an undamaged copy from the "
            "coordinator, or a new offer from the donor"
        ) from None
    if len(key) != KEY_BYTES:
        raise UnsealError("the wrapped content key has a wrong length; refuse this organ")
    return key
