"""What an exchange would find at a site, without one: values that would leave, as far as known.

Only what is on this machine is read, no key is, and nothing is sent or kept.
"""

from client.home import IDENTITY, Home
from client.records import general_texts, sides
from client.reveals import Known
from not_core.manifest import Manifest
from not_core.protocol import Donation, Enrolment, Receipt, Revoked
from not_core.surgery.checkpoint import Checkpoint, open_checkpoint
from not_core.trust.federation import load_trust
from not_core.trust.keys import PROFILE
from not_core.trust.offer import OFFER_FORMAT, Offer
from not_core.trust.profile import Profile, read_profile


def known(home: Home) -> Known:
    """What fields that leave would say now; those that hang on an exchange are left out.

    Raises:
        NotError: The site is not admitted, or its model or records cannot be read.
    """
    settings, policy = home.settings, home.policy
    profile = read_profile(home.folder / IDENTITY / PROFILE)
    trust = load_trust(home.folder / IDENTITY)
    host = open_checkpoint(settings.model)
    training, held_out = sides(home)
    base = {"family": host.anatomy.family, "base_weights": host.weights_digest}
    label = {"domain": settings.domain}
    privacy = (
        "none"
        if policy.bound is None
        else f"{home.unit}, epsilon at most {policy.epsilon_per_organ or policy.epsilon}, "
        f"delta {policy.delta:g}"
    )
    found: dict[type[object], dict[str, object]] = {
        Profile: {
            "format": profile.format,
            "site": profile.site,
            "certificates": f"{len(profile.certificates)}",
            "sealing_key": f"fingerprint {profile.sealing_fingerprint}",
        },
        Revoked: {"number": trust.revoked.number},
        Enrolment: {**label, **base, "donates": settings.donates, "layers": host.layers},
        Receipt: {
            "recipient": settings.site,
            "documents": held_out,
            "general_documents": len(general_texts(home)),
        },
    }
    if settings.donates:
        found |= {
            Donation: {"organ_bytes": f"{_layer_bytes(host)} a layer; less as factors"},
            Offer: {
                **label,
                **base,
                "format": OFFER_FORMAT,
                "federation": trust.fingerprint,
                "organ_id": f"{settings.site}/{settings.organ_name}",
                "donor": settings.site,
            },
            Manifest: {
                **label,
                "name": settings.organ_name,
                "licence": settings.licence,
                "donor": settings.site,
                "base": f"{host.anatomy.family} of {host.layers} layers, {host.weights_digest}",
                "training": f"on {training} {home.unit or 'document'}s, a number that stays here",
                "privacy": privacy,
            },
        }
        found[Donation]["privacy"] = privacy
    return found


def _layer_bytes(host: Checkpoint) -> int:
    """Bytes of the largest layer."""
    sizes: dict[int, int] = {}
    for name in host.names:
        if part := host.anatomy.layer_of(name):
            sizes[part[0]] = sizes.get(part[0], 0) + host.tensors.form(name).bytes
    return max(sizes.values(), default=0)
