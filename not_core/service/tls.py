"""Self-signed TLS certificates, which the other side is given beforehand and believes alone.

Nobody's identity rests on them: sites prove theirs by what the federation certified, and what the
coordinator passes on is sealed and signed. They keep the network between from seeing who talks of
what.
"""

import ipaddress
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from not_core import atomic
from not_core.errors import CertificateError
from not_core.trust.keyfile import read_secret, write_secret

DAYS = 3650
BACKDATE = timedelta(minutes=5)
HANDSHAKE_SECONDS = 5.0


def create(certificate: Path, key: Path, hosts: Sequence[str]) -> None:
    """Make a key and a certificate of ten years for these host names and addresses.

    Args:
        certificate: File to write, in PEM; for everyone.
        key: File to write, PKCS8 in PEM, mode 0600; a key that is there stays.
        hosts: Names or IP addresses by which the server is reached; the first names it.

    Raises:
        CertificateError: What is there is no such key.
        KeyFileError: It is not this user's alone.
    """
    secret = _kept(key) if key.exists() else ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    start = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - BACKDATE)
        .not_valid_after(start + timedelta(days=DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName([_name(host) for host in hosts]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(secret.public_key()), critical=False
        )
        .sign(secret, hashes.SHA256())
    )
    write_secret(
        key,
        secret.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    atomic.write(certificate, made.public_bytes(serialization.Encoding.PEM))


def _kept(key: Path) -> ec.EllipticCurvePrivateKey:
    try:
        found = serialization.load_pem_private_key(read_secret(key, "TLS key"), password=None)
    except ValueError:
        found = None
    if not isinstance(found, ec.EllipticCurvePrivateKey):
        raise CertificateError(f"{key} is no key of a TLS server; put back its newest copy")
    return found


def check_serves(pem: bytes, host: str) -> None:
    """Check that a server can be believed at this name or address by what is in a PEM file.

    Args:
        pem: One certificate, or several.
        host: As who connects names it.

    Raises:
        CertificateError: None of them is a server's of that name, in its time.
    """
    try:
        found = x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise CertificateError(
            "the coordinator's certificate is no PEM file of one; ask its operator for its tls.pem"
        ) from None
    now = datetime.now(UTC)
    servers = [one for one in found if _hosts(one)]
    if not servers:
        raise CertificateError(
            "the certificate is no server's: it names no host; ask the coordinator's operator for "
            "its tls.pem (the federation's root.pem is another thing)"
        )
    named = [one for one in servers if _serves(one, host)]
    if not named:
        names = ", ".join(dict.fromkeys(name for one in servers for name in _hosts(one)))
        raise CertificateError(
            f"the certificate is for {names}, not for {host}; connect by a name that it has, or "
            "ask the coordinator's operator for the tls.pem of this one"
        )
    if not any(one.not_valid_before_utc <= now <= one.not_valid_after_utc for one in named):
        raise CertificateError(
            f"the certificate was valid until {named[0].not_valid_after_utc:%Y-%m-%d}, or is not "
            "yet; ask the coordinator's operator for its present tls.pem, and look at the clock"
        )


def _serves(certificate: x509.Certificate, host: str) -> bool:
    host = host.strip("[]").lower()
    with suppress(ValueError):
        host = str(ipaddress.ip_address(host))
    return any(
        host == name or (name.startswith("*.") and host.partition(".")[2] == name[2:])
        for name in _hosts(certificate)
    )


def _hosts(certificate: x509.Certificate) -> list[str]:
    """Names and addresses that a certificate lets a server have; none if it is no server's."""
    try:
        extensions = certificate.extensions
        with suppress(x509.ExtensionNotFound):
            uses = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
            if ExtendedKeyUsageOID.SERVER_AUTH not in uses:
                return []
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        return []
    hosts = [name.lower() for name in names.get_values_for_type(x509.DNSName)]
    return [*hosts, *map(str, names.get_values_for_type(x509.IPAddress))]


def handshake(host: str, port: int, certificate: Path, name: str) -> None:
    """See that what answers there has the key of a certificate that was made for ``name``.

    Raises:
        OSError: Nothing answers; ``ssl.SSLError`` where what answers is another.
    """
    context = ssl.create_default_context(cafile=str(certificate))
    with (
        socket.create_connection((host, port), timeout=HANDSHAKE_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=name),
    ):
        pass


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
