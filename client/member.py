"""A site as a member of the federation: it says who it is, and learns who was expelled."""

from client.home import IDENTITY, Home, Site
from not_core import canonical
from not_core.protocol import (
    ENROLMENT_TYPE,
    Enrolment,
    EnrolRequest,
    Revoked,
    RevokeRequest,
    SignedEnrolment,
)
from not_core.surgery.checkpoint import open_checkpoint
from not_core.trust import keys, revocation
from not_core.trust.federation import load_trust
from not_core.trust.revocation import RevocationList
from not_core.trust.statement import sign_statement


def enrol(site: Site, request: EnrolRequest, body: bytes) -> tuple[SignedEnrolment, bytes]:
    """Answer who this site is, signed; nothing about its records but their public label."""
    host = open_checkpoint(site.settings.model)
    enrolment = Enrolment(
        exchange=request.exchange,
        nonce=request.nonce,
        profile=site.identity.profile,
        domain=site.settings.domain,
        donates=site.settings.donates,
        family=host.anatomy.family,
        layers=host.layers,
        base_weights=host.weights_digest,
    )
    envelope = sign_statement(canonical.encode(enrolment), ENROLMENT_TYPE, site.identity)
    return SignedEnrolment(envelope=envelope.decode()), b""


def revoke(site: Site, request: RevokeRequest, body: bytes) -> tuple[Revoked, bytes]:
    """Take in the federation's revocation list, unless a later one is known.

    Raises:
        TooLargeError: Larger than a list may be.
        CertificateError: This site's federation did not sign it.
        StaleListError: A later one is known here: whoever sent this one may hide a revocation.
    """
    return Revoked(number=take_in(site, body).number), b""


def take_in(home: Home, pem: bytes) -> RevocationList:
    """Replace the revocation list by a later one, however it came; the log says which and when.

    Args:
        home: Of an admitted site.
        pem: The list, believed by nobody yet.

    Raises:
        TooLargeError: Larger than a list may be.
        CertificateError: This site's federation did not sign it.
        StaleListError: A later one is known here.
    """
    folder = home.folder / IDENTITY
    known = load_trust(folder)
    found = revocation.parse(pem, known.root)
    if found.number > known.revoked.number:
        digest = canonical.sha256(pem)
        home.log.append("installed", what=f"revocation list {found.number}", digest=digest)
    keys.install_list(folder, found)
    return found
