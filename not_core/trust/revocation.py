"""Who has been expelled since: the federation's certificate revocation list, and how old it may be.

A list is believed when the federation's root signed it. It names the serial numbers of revoked
certificates, says why, and says by when the next list comes: later than that, and a grace time,
nobody's certificate is believed, because news may have been withheld.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from not_core.errors import CertificateError, StaleListError, TooLargeError
from not_core.trust.certificates import DAY, TOLERANCE, certificate_errors, check_one_block
from not_core.trust.keyfile import read_public

LIST = "federation.crl"
LIST_LIMIT = 8 * 1024 * 1024
"""Largest revocation list read, in bytes: about 100,000 certificates."""

LIST_DAYS = 30
GRACE = 7 * DAY
"""How long after its next-update a list still serves, in seconds, unless a policy says less."""

REASONS = {
    "key-compromise": x509.ReasonFlags.key_compromise,
    "privilege-withdrawn": x509.ReasonFlags.privilege_withdrawn,
    "affiliation-changed": x509.ReasonFlags.affiliation_changed,
    "superseded": x509.ReasonFlags.superseded,
    "cessation-of-operation": x509.ReasonFlags.cessation_of_operation,
}
"""Why a certificate is revoked, by the words that commands take."""

MILD = frozenset(
    {
        x509.ReasonFlags.affiliation_changed,
        x509.ReasonFlags.superseded,
        x509.ReasonFlags.cessation_of_operation,
    }
)
"""Reasons that say nothing against what was signed, and verified, before."""


@dataclass(frozen=True, slots=True)
class Revocation:
    """That, when and why a certificate was revoked; ``moment`` in seconds since the epoch, UTC."""

    moment: int
    reason: x509.ReasonFlags

    @property
    def words(self) -> str:
        """The reason as commands write it."""
        return next((word for word, flag in REASONS.items() if flag is self.reason), "unspecified")


@dataclass(frozen=True, slots=True, eq=False)
class RevocationList:
    """A list that the root has signed.

    Attributes:
        crl: As parsed.
        number: Higher in each list that the federation issues.
        issued: Seconds since the epoch, UTC.
        due: When the next list comes.
        revoked: By serial number.
    """

    crl: x509.CertificateRevocationList
    number: int
    issued: int
    due: int
    revoked: Mapping[int, Revocation]

    @property
    def pem(self) -> bytes:
        """The list in PEM."""
        return self.crl.public_bytes(serialization.Encoding.PEM)

    def is_compromised(self, serial: int) -> bool:
        """Whether a certificate was revoked because somebody else may have its key."""
        found = self.revoked.get(serial)
        return found is not None and found.reason is x509.ReasonFlags.key_compromise

    @property
    def due_words(self) -> str:
        """When the next list comes, for a person to read."""
        return datetime.fromtimestamp(self.due, UTC).strftime("%Y-%m-%d %H:%M UTC")

    def check_fresh(self, moment: int, grace: int) -> None:
        """Check that the list is one of now.

        Args:
            moment: Seconds since the epoch.
            grace: How long after ``due`` it still serves, in seconds.

        Raises:
            StaleListError: It is too old, or of the future.
        """
        if moment > self.due + grace:
            days = (moment - self.due) / DAY
            raise StaleListError(
                f"revocation list {self.number} was to be replaced {days:.1f} days ago, "
                f"{grace / DAY:g} days of grace are allowed; get the federation's present "
                f"{LIST}: until then nobody can tell who was expelled"
            )
        if moment < self.issued - TOLERANCE:
            raise StaleListError(
                f"revocation list {self.number} was issued {self.issued - moment} seconds from "
                "now; check this machine's clock"
            )

    def check_not_older(self, known: "RevocationList") -> None:
        """Check that this list may replace one that is known.

        Raises:
            StaleListError: It was issued before.
        """
        if self.number < known.number:
            raise StaleListError(
                f"revocation list {self.number} is older than list {known.number}, which is known "
                "here; somebody may hide a revocation: get the present one from the federation"
            )


def build(
    root: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    number: int,
    revoked: Mapping[int, Revocation],
    moment: int,
    days: int = LIST_DAYS,
) -> RevocationList:
    """Issue a list.

    Args:
        root: The federation's root.
        key: Its private key.
        number: One more than the last list's.
        revoked: By serial number.
        moment: Seconds since the epoch.
        days: Until the next list.
    """
    issued = datetime.fromtimestamp(moment, UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(root.subject)
        .last_update(issued)
        .next_update(issued + timedelta(days=days))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
        )
    )
    for serial, one in sorted(revoked.items()):
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder()
            .serial_number(serial)
            .revocation_date(datetime.fromtimestamp(one.moment, UTC))
            .add_extension(x509.CRLReason(one.reason), critical=False)
            .build()
        )
    return _read(builder.sign(key, hashes.SHA384()), root)


def parse(pem: bytes, root: x509.Certificate) -> RevocationList:
    """Read a list that the root has signed, from wherever it came.

    Raises:
        TooLargeError: It has more than ``LIST_LIMIT`` bytes; it is not parsed.
        CertificateError: It is not one.

    Source: RFC 5280, sections 5 and 6.3.
    """
    if len(pem) > LIST_LIMIT:
        raise TooLargeError(
            f"revocation list has {len(pem)} bytes, at most {LIST_LIMIT} are read; get the "
            f"federation's own {LIST}"
        )
    with certificate_errors("revocation list"):
        crl = x509.load_pem_x509_crl(pem)
        check_one_block(crl, pem, "revocation list")
        return _read(crl, root)


def load(path: Path, root: x509.Certificate) -> RevocationList:
    """Read a list from a file.

    Raises:
        StaleListError: There is none.
        TooLargeError: As ``parse``.
        CertificateError: It is not one that the root has signed.
    """
    if not path.is_file():
        raise StaleListError(
            f"no revocation list at {path}; get {LIST} from the federation: without it nobody "
            "can tell who was expelled"
        )
    return parse(read_public(path, "revocation list", LIST_LIMIT), root)


def _read(crl: x509.CertificateRevocationList, root: x509.Certificate) -> RevocationList:
    key = root.public_key()
    if (
        crl.issuer != root.subject
        or not isinstance(key, ec.EllipticCurvePublicKey)
        or not crl.is_signature_valid(key)
    ):
        raise CertificateError(
            "revocation list was not signed by this federation's root; get the federation's own "
            f"{LIST}"
        )
    # An extension that is critical and unknown, such as a list of some reasons only, would change
    # what the absence of a serial number means.
    if any(one.critical for one in crl.extensions) or crl.next_update_utc is None:
        raise ValueError("expected a plain, complete list with a next update")
    found: dict[int, Revocation] = {}
    for entry in crl:
        if any(one.critical for one in entry.extensions):
            raise ValueError("expected plain entries")
        found[entry.serial_number] = Revocation(
            int(entry.revocation_date_utc.timestamp()), _reason(entry)
        )
    return RevocationList(
        crl,
        crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number,
        int(crl.last_update_utc.timestamp()),
        int(crl.next_update_utc.timestamp()),
        found,
    )


def _reason(entry: x509.RevokedCertificate) -> x509.ReasonFlags:
    try:
        return entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
    except x509.ExtensionNotFound:
        return x509.ReasonFlags.unspecified
