"""Writing and reading ``.organ`` files."""

import copy
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from second import primitives
from second.federation import NOW, Site, Trust, check_chain, check_profile, der
from second.primitives import RefusedError, SealingKey, base64_of, canonical, from_base64, sha256

MAGIC = b"organ-exchange/sealed/v1\n"
OFFER_TYPE = "application/vnd.organ-exchange.offer.v1+json"
STATEMENT_TYPE = "application/vnd.in-toto+json"
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
FILES = ("README.md", "manifest.json", "model.key.sig", "model.sig", "organ.safetensors")
SIGNED = ("README.md", "manifest.json", "organ.safetensors")
NOTHING = "0" * 64
MAX_HEADER = 1024 * 1024
TOLERANCE = 300

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


# --- reading -------------------------------------------------------------------------------------


@dataclass
class Memory:
    """What a site has opened: by envelope digest, id, version, organ digest and moment."""

    rows: dict[str, tuple[str, int, str, int]] = field(default_factory=dict)

    def check(self, offer: dict[str, Any], digest: str) -> None:
        if digest in self.rows:
            return
        same = [row for row in self.rows.values() if row[0] == offer["organ_id"]]
        if not same:
            return
        newest = max(same, key=lambda row: row[1])
        if offer["version"] < newest[1] or (
            offer["version"] == newest[1] and offer["organ_digest"] != newest[2]
        ):
            raise RefusedError("rollback")

    def first(self, organ_digest: str) -> int | None:
        return min((row[3] for row in self.rows.values() if row[2] == organ_digest), default=None)


def read(
    sealed: bytes,
    known: Trust,
    own: list[SealingKey],
    now: int,
    exchange: str | None = None,
    memory: Memory | None = None,
) -> Files:
    """The five files of a sealed organ, after every check, in the order of docs/format.md."""
    memory = memory or Memory()
    header, body = _framing(sealed)
    key = check_profile(header["profile"], known, now)
    payload = _statement(header["offer"].encode(), OFFER_TYPE, key)
    offer = _parsed(payload, OFFER)
    _offer(offer)
    if offer["donor"] != header["profile"]["site"]:
        raise RefusedError("offer", "another donor")
    if offer["federation"] != known.fingerprint or exchange not in (None, offer["exchange"]):
        raise RefusedError("audience")
    if now < offer["not_before"] - TOLERANCE:
        raise RefusedError("not-yet-valid")
    if now > offer["expires"] + TOLERANCE:
        raise RefusedError("expired")
    wraps = header["wraps"]
    if sorted(wraps) != offer["addressees"] or sha256(canonical(wraps)) != offer["wraps_sha256"]:
        raise RefusedError("wraps")
    if any(len(from_base64(one)) != 1168 for one in wraps.values()):
        raise RefusedError("format", "wrap")
    if len(body) < offer["body_bytes"]:
        raise RefusedError("truncated", "body")
    if len(body) > offer["body_bytes"] or sha256(body) != offer["body_sha256"]:
        raise RefusedError("body")
    envelope_digest = sha256(header["offer"].encode())
    memory.check(offer, envelope_digest)
    content_key = _content_key(offer, wraps, own)
    context = bytes.fromhex(offer["descriptor"])
    files = _untar(primitives.decrypt(body, content_key, context), offer["body_bytes"])
    manifest, site = _folder(files, known, now, memory.first(offer["organ_digest"]))
    inside = {
        "organ_digest": sha256(files["manifest.json"]),
        "donor": manifest["donor"],
        "organ_id": f"{manifest['donor']}/{manifest['name']}",
        "version": manifest["version"],
        "domain": manifest["domain"],
        "base_weights": manifest["base"]["weights"],
        "family": manifest["base"]["family"],
        "span": manifest["span"],
    }
    if any(offer[name] != value for name, value in inside.items()) or site != offer["donor"]:
        raise RefusedError("offer", "another organ inside")
    memory.check(offer, envelope_digest)
    row = (offer["organ_id"], offer["version"], offer["organ_digest"], now)
    memory.rows.setdefault(envelope_digest, row)
    return files


def _framing(sealed: bytes) -> tuple[dict[str, Any], bytes]:
    start = sealed[: len(MAGIC) + 4]
    if MAGIC.startswith(start[: len(MAGIC)]) and len(start) < len(MAGIC) + 4:
        raise RefusedError("truncated", "start")
    if not start.startswith(MAGIC):
        raise RefusedError("format", "magic")
    length = int.from_bytes(start[len(MAGIC) :])
    if length > MAX_HEADER:
        raise RefusedError("too-large")
    data, body = sealed[len(start) :][:length], sealed[len(start) + length :]
    if len(data) < length:
        raise RefusedError("truncated", "header")
    return _parsed(data, HEADER), body


def _statement(data: bytes, kind: str, key: ec.EllipticCurvePublicKey) -> bytes:
    return primitives.verified(_parsed(data, ENVELOPE), kind, key)


def _offer(offer: dict[str, Any]) -> None:
    names = offer["addressees"]
    if (
        names != sorted(set(names))
        or offer["not_before"] >= offer["expires"]
        or not offer["organ_id"].startswith(f"{offer['donor']}/")
        or offer["descriptor"] != descriptor(offer["organ_digest"], offer["donor"])
        or offer["span"]["start"] >= offer["span"]["stop"]
    ):
        raise RefusedError("format", "offer")


def _content_key(offer: dict[str, Any], wraps: dict[str, str], own: list[SealingKey]) -> bytes:
    info = bytes.fromhex(sha256(canonical(offer | {"wraps_sha256": NOTHING})))
    for one in own:
        if offer["hidden"] is None and one.fingerprint in wraps:
            return primitives.unwrap(from_base64(wraps[one.fingerprint]), one, info)
    for one in own if offer["hidden"] else []:
        for name, wrapped in wraps.items():
            try:
                key = primitives.unwrap(from_base64(wrapped), one, info)
            except RefusedError:
                continue
            if tag(key, offer["hidden"], one.fingerprint) == name:
                return key
    raise RefusedError("not-addressed")


def _untar(data: bytes, limit: int) -> Files:
    files, at = {}, 0
    for name in FILES:
        header = data[at : at + 512]
        digits = header[124:135]
        if not re.fullmatch(rb"[0-7]{11}", digits):
            raise RefusedError("archive", "size")
        size = int(digits, 8)
        if size > limit or header != primitives.tar_header(name, size):
            raise RefusedError("archive", name)
        files[name] = data[at + 512 : at + 512 + size]
        at += 512 + size + -size % 512
        if len(data) < at or any(data[at - (-size % 512) : at]):
            raise RefusedError("archive", "padding")
    if data[at:] != primitives.TAR_END:
        raise RefusedError("archive", "end")
    return files


def _folder(files: Files, known: Trust, now: int, seen: int | None) -> tuple[Any, str]:
    bundle = _parsed(files["model.sig"], CERTIFICATE_BUNDLE)
    by_key = _parsed(files["model.key.sig"], KEY_BUNDLE)
    chain = []
    for one in bundle["verificationMaterial"]["x509CertificateChain"]["certificates"]:
        try:
            chain.append(x509.load_der_x509_certificate(from_base64(one["rawBytes"])))
        except ValueError:
            raise RefusedError("certificate", "DER") from None
    site, _, key = check_chain(chain, known, now, seen)
    hint = sha256(primitives.public_pem(key))
    if (
        by_key["dsseEnvelope"] != bundle["dsseEnvelope"]
        or by_key["verificationMaterial"]["publicKey"]["hint"] != hint
    ):
        raise RefusedError("signature", "two signatures")
    signed = _statement(canonical(bundle["dsseEnvelope"]), STATEMENT_TYPE, key)
    manifest = _parsed(files["manifest.json"], MANIFEST)
    expected = statement(files, f"{manifest['donor'] or 'unclaimed'}/{manifest['name']}")
    if canonical(expected) != signed:
        raise RefusedError("signature", "other files")
    if manifest["donor"] != site:
        raise RefusedError("organ", "another donor")
    return manifest, site


# --- forms: what each field may be; a list's items, and the least and the most of them ----------

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
DIGEST = re.compile(r"[0-9a-f]{64}")
BASE64 = re.compile(r"(?=.{0,16384}\Z)[A-Za-z0-9+/]*={0,2}")
PAYLOAD = re.compile(r"(?=.{0,524288}\Z)[A-Za-z0-9+/]*={0,2}")
SIGNATURE = re.compile(r"(?=.{0,256}\Z)[A-Za-z0-9+/]*={0,2}")
PEM = re.compile(r"(?=.{0,16384}\Z)-----BEGIN [A-Z ]+-----\n.*", re.DOTALL)
TEXT = re.compile(r"[^\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]{0,200}")
FAMILY = re.compile(r"[a-z0-9_]{1,63}")
SPAN = {"start": range(2**53), "stop": range(1, 2**53)}

ENVELOPE = {
    "payload": PAYLOAD,
    "payloadType": TEXT,
    "signatures": [{"keyid": DIGEST, "sig": SIGNATURE}, 1, 1],
}
PROFILE = {
    "format": "organ-exchange/profile/v1",
    "site": NAME,
    "certificates": [PEM, 1, 4],
    "sealing_key": BASE64,
}
HEADER = {
    "format": "organ-exchange/sealed/v1",
    "offer": str,
    "profile": PROFILE,
    "wraps": {DIGEST: BASE64},
}
OFFER = {
    "format": "organ-exchange/offer/v1",
    "federation": DIGEST,
    "exchange": NAME,
    "organ_id": re.compile(r"[a-z0-9-]{1,63}/[a-z0-9-]{1,63}"),
    "organ_digest": DIGEST,
    "version": range(1, 2**53),
    "donor": NAME,
    "descriptor": DIGEST,
    "body_sha256": DIGEST,
    "body_bytes": range(1, 2**53),
    "addressees": [DIGEST, 1, 512],
    "wraps_sha256": DIGEST,
    "hidden": (None, DIGEST),
    "not_before": range(2**53),
    "expires": range(2**53),
    "domain": TEXT,
    "base_weights": DIGEST,
    "family": FAMILY,
    "span": SPAN,
}
MANIFEST = {
    "format": "organ-exchange/organ/v1",
    "name": NAME,
    "version": range(1, 2**53),
    "domain": TEXT,
    "licence": TEXT,
    "donor": (None, NAME),
    "base": {
        "family": FAMILY,
        "architecture": TEXT,
        "layers": range(1, 4097),
        "config": dict,
        "layer_config": dict,
        "weights": DIGEST,
        "tokenizer": (None, DIGEST),
    },
    "span": SPAN,
    "tensors": list,
    "stored": dict,
    "training": (None, dict),
    "privacy": dict,
    "audit": (None, DIGEST),
    "parents": [DIGEST, 0, 2**53],
    "merge": (None, dict),
}
CERTIFICATE_BUNDLE = {
    "mediaType": BUNDLE_TYPE,
    "verificationMaterial": {
        "tlogEntries": [None, 0, 0],
        "x509CertificateChain": {"certificates": [{"rawBytes": BASE64}, 1, 4]},
    },
    "dsseEnvelope": ENVELOPE,
}
KEY_BUNDLE = CERTIFICATE_BUNDLE | {
    "verificationMaterial": {"publicKey": {"hint": DIGEST}, "tlogEntries": [None, 0, 0]}
}


def _parsed(data: bytes, form: Any) -> dict[str, Any]:
    """A canonical JSON object of a form."""
    try:
        value = json.loads(data)
        same = rfc8785.dumps(value) == data
    except (ValueError, RecursionError):
        raise RefusedError("format", "not JSON") from None
    if not same or not _is(value, form):
        raise RefusedError("format", "not canonical, or another form")
    return dict(value)


def _is(value: Any, form: Any) -> bool:
    match form:
        case type():
            return isinstance(value, form)
        case re.Pattern():
            return isinstance(value, str) and form.fullmatch(value) is not None
        case range():
            return type(value) is int and value in form
        case tuple():
            return any(value is None if one is None else _is(value, one) for one in form)
        case list():
            one, least, most = form
            return (
                isinstance(value, list)
                and least <= len(value) <= most
                and all(_is(item, one) for item in value)
            )
        case dict() if all(isinstance(name, str) for name in form):
            return (
                isinstance(value, dict)
                and set(value) == set(form)
                and all(_is(value[name], one) for name, one in form.items())
            )
        case dict():
            ((name, one),) = form.items()
            return (
                isinstance(value, dict)
                and 1 <= len(value) <= 512
                and all(_is(k, name) and _is(v, one) for k, v in value.items())
            )
        case _:
            return bool(value == form)
