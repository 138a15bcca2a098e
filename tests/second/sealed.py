"""Writing ``.organ`` files."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from second import primitives
from second.federation import NOW, Site, der
from second.primitives import SealingKey, base64_of, canonical, sha256

MAGIC = b"organ-exchange/sealed/v1\n"
OFFER_TYPE = "application/vnd.organ-exchange.offer.v1+json"
STATEMENT_TYPE = "application/vnd.in-toto+json"
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
FILES = ("README.md", "manifest.json", "model.key.sig", "model.sig", "organ.safetensors")
SIGNED = ("README.md", "manifest.json", "organ.safetensors")
NOTHING = "0" * 64

Files = dict[str, bytes]
Change = Callable[[dict[str, Any]], Any]


# --- organ folders -------------------------------------------------------------------------------


def statement(files: Files, organ_id: str) -> dict[str, Any]:
    digests = [sha256(files[name]) for name in SIGNED]
    whole = sha256(b"".join(bytes.fromhex(one) for one in digests))
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": organ_id, "digest": {"sha256": whole}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": ["model.key.sig", "model.sig"],
            },
            "resources": [
                {"name": name, "algorithm": "sha256", "digest": one}
                for name, one in zip(SIGNED, digests, strict=True)
            ],
        },
    }


def signed_folder(files: Files, signer: Site, said: dict[str, Any] | None = None) -> Files:
    """An organ's three files with both signatures."""
    manifest = json.loads(files["manifest.json"])
    said = said or statement(files, f"{manifest['donor']}/{manifest['name']}")
    envelope = primitives.envelope(canonical(said), STATEMENT_TYPE, signer.signing)
    hint = sha256(primitives.public_pem(signer.signing.public_key()))
    chain = [{"rawBytes": base64_of(der(one))} for one in signer.certificates]
    material = {
        "model.key.sig": {"publicKey": {"hint": hint}, "tlogEntries": []},
        "model.sig": {"tlogEntries": [], "x509CertificateChain": {"certificates": chain}},
    }
    bundles = {
        name: canonical(
            {"mediaType": BUNDLE_TYPE, "verificationMaterial": one, "dsseEnvelope": envelope}
        )
        for name, one in material.items()
    }
    return files | bundles


def tar(files: Files) -> bytes:
    return b"".join(primitives.tar_member(name, files[name]) for name in FILES) + primitives.TAR_END


# --- writing -------------------------------------------------------------------------------------


def descriptor(organ_digest: str, donor: str) -> str:
    said = {"format": "organ-exchange/body/v1", "organ_digest": organ_digest, "donor": donor}
    return sha256(canonical(said))


def tag(key: bytes, nonce: str, fingerprint: str) -> str:
    info = b"organ-exchange/addressee/v1" + bytes.fromhex(nonce) + bytes.fromhex(fingerprint)
    return primitives.expand(key, info, 32).hex()


@dataclass(kw_only=True)
class Draft:
    """What is sealed, and each step at which a hostile donor or carrier may do otherwise.

    Attributes:
        label: What every random choice follows from.
        body_label: The same for those of the body, so that a new offer can have an old body.
        plaintext: Instead of the tar of ``files``.
        in_offer: Changes the offer before its wraps are made.
        in_wraps: Changes the wraps before their digest is signed.
        in_signed: Changes the complete offer before it is signed; bytes, if it returns them.
        in_envelope: Changes the envelope.
        in_body: Changes the body before its digest is signed.
        in_header: Changes the header.
    """

    label: str
    files: Files
    donor: Site
    to: list[SealingKey]
    federation: str
    exchange: str = "trial"
    body_label: str = ""
    hide: bool = False
    signer: Site | None = None
    not_before: int = NOW
    expires: int = NOW + 20 * 86_400
    plaintext: bytes | None = None
    in_offer: Change | None = None
    in_wraps: Callable[[dict[str, bytes], "Draft"], Any] | None = None
    in_signed: Change | None = None
    in_envelope: Change | None = None
    in_body: Callable[[bytes], bytes] | None = None
    in_header: Change | None = None
    info: bytes = field(default=b"", init=False)
    offer: dict[str, Any] = field(default_factory=dict, init=False)

    @property
    def key(self) -> bytes:
        return primitives.seeded(f"content key of {self.body_label or self.label}")

    def body(self) -> bytes:
        manifest = json.loads(self.files["manifest.json"])
        digest = sha256(self.files["manifest.json"])
        self.offer = {
            "format": "organ-exchange/offer/v1",
            "federation": self.federation,
            "exchange": self.exchange,
            "organ_id": f"{self.donor.name}/{manifest['name']}",
            "organ_digest": digest,
            "version": manifest["version"],
            "donor": self.donor.name,
            "descriptor": descriptor(digest, self.donor.name),
            "hidden": None,
            "not_before": self.not_before,
            "expires": self.expires,
            "domain": manifest["domain"],
            "base_weights": manifest["base"]["weights"],
            "family": manifest["base"]["family"],
            "span": manifest["span"],
        }
        salt = primitives.seeded(f"salt of {self.body_label or self.label}", 24)
        context = bytes.fromhex(self.offer["descriptor"])
        plaintext = tar(self.files) if self.plaintext is None else self.plaintext
        body = primitives.encrypt(plaintext, self.key, context, salt)
        body = self.in_body(body) if self.in_body else body
        self.offer |= {"body_sha256": sha256(body), "body_bytes": len(body)}
        return body

    def wraps(self) -> dict[str, bytes]:
        """Complete the offer but for the wraps' digest, and make the wraps."""
        names = {one.fingerprint: one for one in self.to}
        nobody: list[str] = []
        if self.hide:
            nonce = primitives.seeded(f"nonce of {self.label}").hex()
            self.offer["hidden"] = nonce
            names = {tag(self.key, nonce, print_): one for print_, one in names.items()}
            slots = next(size for size in (16, 64, 256, 512) if size >= len(names))
            nobody = [
                primitives.seeded(f"slot {number} of {self.label}").hex()
                for number in range(slots - len(names))
            ]
        self.offer |= {"addressees": sorted([*names, *nobody]), "wraps_sha256": NOTHING}
        if self.in_offer:
            self.in_offer(self.offer)
        self.info = bytes.fromhex(sha256(canonical(self.offer)))
        made = {}
        for name in [*names, *nobody]:
            randomness = primitives.seeded(f"wrap {name} of {self.label}", 64)
            if name in names:
                made[name] = primitives.wrap(self.key, names[name].public, self.info, randomness)
            else:
                thrown_away = primitives.sealing_key(f"nobody {name} of {self.label}")
                key = primitives.seeded(f"no key {name} of {self.label}")
                made[name] = primitives.wrap(key, thrown_away.public, self.info, randomness)
        return made

    def sealed(self) -> bytes:
        """The whole file."""
        body = self.body()
        made = self.wraps()
        if self.in_wraps:
            self.in_wraps(made, self)
        wraps: dict[str, Any] = {
            name: one if isinstance(one, str) else base64_of(one) for name, one in made.items()
        }
        self.offer["wraps_sha256"] = sha256(canonical(wraps))
        said = self.in_signed(self.offer) if self.in_signed else None
        payload = said if isinstance(said, bytes) else canonical(self.offer)
        signer = self.signer or self.donor
        envelope: Any = primitives.envelope(payload, OFFER_TYPE, signer.signing)
        written = self.in_envelope(envelope) if self.in_envelope else None
        text = written if isinstance(written, str) else canonical(envelope).decode()
        header = {
            "format": "organ-exchange/sealed/v1",
            "offer": text,
            "profile": copy.deepcopy(self.donor.profile),
            "wraps": wraps,
        }
        raw = self.in_header(header) if self.in_header else None
        data = raw if isinstance(raw, bytes) else canonical(header)
        return framed(data, body)


def framed(header: bytes, body: bytes) -> bytes:
    return MAGIC + len(header).to_bytes(4) + header + body


def parts(sealed: bytes) -> tuple[bytes, bytes]:
    """Header and body of a well-formed file."""
    start = len(MAGIC) + 4
    end = start + int.from_bytes(sealed[len(MAGIC) : start])
    return sealed[start:end], sealed[end:]
