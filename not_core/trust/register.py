"""All that a federation ever issued, in its folder's ``register.json``: nothing leaves it again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from cryptography.hazmat.primitives import hashes
from pydantic import Field
from pydantic.dataclasses import dataclass

from not_core import atomic, canonical
from not_core.canonical import STRICT, Digest, Name
from not_core.errors import CertificateError
from not_core.trust.federation import ROOT, load_root
from not_core.trust.profile import Pem, Profile
from not_core.trust.revocation import MILD, REASONS

REGISTER = "register.json"
REGISTER_LIMIT = 256 * 1024 * 1024

Serial = Annotated[str, Field(pattern=r"^[0-9a-f]{1,40}$")]
Moment = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Issued:
    """A certificate that was issued, and when and why it was revoked, if it was.

    Attributes:
        serial: Serial number, in lower-case hexadecimal.
        site: Whose.
        certificate: PEM.
        sealing_key: As in its profile.
        expires: Seconds since the epoch, UTC.
        revoked: When, or None.
        reason: One of ``revocation.REASONS``; empty where it is not revoked.
    """

    serial: Serial
    site: Name
    certificate: Pem
    sealing_key: str
    expires: Moment
    revoked: Moment | None = None
    reason: str = ""

    @property
    def profile(self) -> Profile:
        """The profile that carries it."""
        return Profile(
            site=self.site, certificates=(self.certificate,), sealing_key=self.sealing_key
        )


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Register:
    """All that a federation ever issued, oldest first, and the number of its last list."""

    format: Literal["organ-exchange/register/v1"] = "organ-exchange/register/v1"
    root: Digest
    list_number: Moment
    issued: tuple[Issued, ...] = ()

    def present(self, site: str, moment: int) -> list[Issued]:
        """A site's certificates that hold at ``moment``, oldest first."""
        return [
            one
            for one in self.issued
            if one.site == site and one.revoked is None and one.expires >= moment
        ]

    def to_revoke(self, site: str, reason: str, moment: int) -> list[Issued]:
        """A site's certificates that a revocation for this reason is about, oldest first."""
        if REASONS[reason] in MILD:
            present = self.present(site, moment)
            return present[:-1] if reason == "superseded" else present
        worse = {"key-compromise", reason}
        return [one for one in self.issued if one.site == site and one.reason not in worse]


def read_register(folder: Path) -> Register:
    """What the federation has issued.

    Raises:
        CertificateError: There is no register, or it is another federation's.
    """
    path = folder / REGISTER
    if not path.is_file():
        raise CertificateError(
            f"no {REGISTER} in {folder}; expected the folder that 'organ federation init' made"
        )
    register = canonical.decode(
        Register, canonical.read_bounded(path, REGISTER_LIMIT), "register", REGISTER_LIMIT
    )
    if register.root != load_root(folder / ROOT).fingerprint(hashes.SHA256()).hex():
        raise CertificateError(
            f"{path} belongs to another federation than {ROOT} beside it; restore both from one "
            "backup"
        )
    return register


Keep = Callable[[Register], None]
"""Writes a changed register."""


@contextmanager
def changing(folder: Path) -> Iterator[tuple[Register, Keep]]:
    """The register, and how to write it; nobody else reads it to change it meanwhile.

    Raises:
        CertificateError: As ``read_register``.
    """

    def keep(changed: Register) -> None:
        atomic.write(folder / REGISTER, canonical.encode(changed), mode=0o600)

    read_register(folder)  # says so if there is none
    with atomic.locked(folder):
        yield read_register(folder), keep
