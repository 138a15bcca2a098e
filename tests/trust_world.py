"""A tiny federation for the trust tests: a root, three sites and a signed organ at a fixed time."""

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from model_signing._cli import main as model_signing

from not_core import canonical
from not_core.manifest import BaseFacts, Manifest, NoPrivacy, Span
from not_core.trust import authority, keys, sealing, signing
from not_core.trust.certificates import binding
from not_core.trust.delivery import DeliveryHeader, read_header, write_header
from not_core.trust.federation import load_trust
from not_core.trust.profile import Request

NOW = 1_800_000_000
DAY = 86400


def manifest(**changes: Any) -> Manifest:
    base = BaseFacts(
        family="gpt2",
        architecture="GPT2LMHeadModel",
        layers=4,
        config={"n_embd": 32},
        layer_config={},
        weights="ab" * 32,
        tokenizer=None,
    )
    whole = Manifest(
        name="notes",
        version=3,
        domain="radiology notes",
        licence="Apache-2.0",
        donor="north",
        base=base,
        span=Span(start=1, stop=3),
        tensors=(),
        training=None,
        privacy=NoPrivacy(),
    )
    return replace(whole, **changes)


def organ_folder(folder: Path, facts: Manifest, tensors: bytes = b"tensor bytes" * 9) -> Path:
    folder.mkdir()
    (folder / "organ.safetensors").write_bytes(tensors)
    (folder / "manifest.json").write_bytes(canonical.encode(facts))
    (folder / "README.md").write_text("# An organ\n")
    return folder


def key_file(site: keys.Identity, name: str) -> Path:
    """A private key of a site, on disk."""
    return keys.sealing_key_of(site.folder, site.profile).with_name(name)


def request_of(site: str, key: ec.EllipticCurvePrivateKey, sealing_key: str) -> Request:
    """A request that its own key signs, for any sealing key, in base64."""
    fingerprint = canonical.sha256(base64.b64decode(sealing_key))
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, site)]))
        .add_extension(binding(site, fingerprint), critical=False)
        .sign(key, hashes.SHA384())
    )
    pem = csr.public_bytes(serialization.Encoding.PEM).decode()
    return Request(site=site, csr=pem, sealing_key=sealing_key)


class World:
    """Sites north (donor), south and west, admitted for a year at ``NOW - 10 days``."""

    def __init__(self, place: Path) -> None:
        self.place = place
        authority.create_root(place / "federation", "regional", now=NOW - 20 * DAY)
        self.trust = load_trust(place / "federation")
        self.sites = {name: self.admit(name) for name in ("north", "south", "west")}
        self.north, self.south, self.west = self.sites.values()
        self.organ = organ_folder(place / "organ", manifest())
        signing.sign_folder(self.organ, self.north)

    def admit(self, name: str, folder: str | None = None) -> keys.Identity:
        home = self.place / (folder or name)
        request = keys.create(home, name)
        start = NOW - 10 * DAY
        profile = authority.admit(self.place / "federation", request, now=start, again=True)
        return keys.install(home, profile, self.trust, now=start)


def terms(*to: keys.Identity, **more: Any) -> sealing.Audience:
    return sealing.Audience(addressees=[one.profile for one in to], **{"exchange": "trial", **more})


def parts(path: Path) -> tuple[DeliveryHeader, bytes]:
    """Header and body of a sealed file."""
    with path.open("rb") as file:
        return read_header(file), file.read()


def joined(path: Path, header: DeliveryHeader, body: bytes) -> Path:
    with path.open("wb") as file:
        write_header(header, file)
        file.write(body)
    return path


def by_key(organ: Path, signer: keys.Identity, place: Path) -> list[str]:
    """Arguments by which OpenSSF's command verifies a folder with a signer's public key."""
    key = place / "signer.pub"
    key.write_bytes(
        signer.signing_key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    signature = str(organ / signing.KEY_SIGNATURE)
    return ["verify", "key", str(organ), "--signature", signature, "--public_key", str(key)]


def by_certificate(organ: Path, signature: Path, world: World) -> list[str]:
    """Arguments by which OpenSSF's command verifies a folder with the federation's root."""
    root = str(world.place / "federation" / "root.pem")
    command = ["verify", "certificate", str(organ), "--signature", str(signature)]
    return [*command, "--certificate_chain", root]


def public_command(arguments: list[str]) -> int:
    """Exit code of OpenSSF's command line, in this process."""
    return CliRunner().invoke(model_signing, arguments).exit_code


def public_commands(organ: Path, world: World, place: Path) -> tuple[int, int]:
    """OpenSSF's own command line: with the donor's public key, and with the federation's root."""
    return (
        public_command(by_key(organ, world.north, place)),
        public_command(by_certificate(organ, organ / signing.SIGNATURE, world)),
    )
