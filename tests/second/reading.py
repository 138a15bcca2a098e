"""Opening ``.organ`` files: the checks in the order of docs/format.md."""

import re
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from second import primitives
from second.federation import Trust, check_chain, check_profile, reason_of
from second.forms import CERTIFICATE_BUNDLE, ENVELOPE, HEADER, KEY_BUNDLE, MANIFEST, OFFER, parsed
from second.primitives import RefusedError, SealingKey, canonical, from_base64, sha256
from second.sealed import (
    FILES,
    MAGIC,
    NOTHING,
    OFFER_TYPE,
    STATEMENT_TYPE,
    Files,
    descriptor,
    statement,
    tag,
)

MAX_HEADER = 1024 * 1024
TOLERANCE = 300


@dataclass
class Memory:
    """What a site has opened: offer digest; id, version, organ, statement, moment and serial."""

    rows: dict[str, tuple[str, int, str, str, int, int]] = field(default_factory=dict)

    def check(self, offer: dict[str, Any], known: Trust) -> None:
        same = [
            row
            for row in self.rows.values()
            if row[0] == offer["organ_id"] and reason_of(known, row[5]) != "key_compromise"
        ]
        if not same:
            return
        newest = max(same, key=lambda row: row[1])
        if offer["version"] < newest[1] or (
            offer["version"] == newest[1] and offer["organ_digest"] != newest[2]
        ):
            raise RefusedError("rollback")

    def first(self, statement: str) -> int | None:
        return min((row[4] for row in self.rows.values() if row[3] == statement), default=None)


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
    offer = parsed(payload, OFFER)
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
    memory.check(offer, known)
    content_key = _content_key(offer, wraps, own)
    context = bytes.fromhex(offer["descriptor"])
    files = _untar(primitives.decrypt(body, content_key, context), offer["body_bytes"])
    manifest, site, stated = _folder(files, known, now, memory)
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
    memory.check(offer, known)
    (pem, *_) = header["profile"]["certificates"]
    serial = x509.load_pem_x509_certificate(pem.encode()).serial_number
    row = (offer["organ_id"], offer["version"], offer["organ_digest"], stated, now, serial)
    memory.rows.setdefault(sha256(payload), row)
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
    return parsed(data, HEADER), body


def _statement(data: bytes, kind: str, key: ec.EllipticCurvePublicKey) -> bytes:
    return primitives.verified(parsed(data, ENVELOPE), kind, key)


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


def _folder(files: Files, known: Trust, now: int, memory: Memory) -> tuple[Any, str, str]:
    bundle = parsed(files["model.sig"], CERTIFICATE_BUNDLE)
    by_key = parsed(files["model.key.sig"], KEY_BUNDLE)
    chain = []
    for one in bundle["verificationMaterial"]["x509CertificateChain"]["certificates"]:
        try:
            chain.append(x509.load_der_x509_certificate(from_base64(one["rawBytes"])))
        except ValueError:
            raise RefusedError("certificate", "DER") from None
    stated = sha256(from_base64(bundle["dsseEnvelope"]["payload"]))
    site, _, key = check_chain(chain, known, now, memory.first(stated))
    hint = sha256(primitives.public_pem(key))
    if (
        by_key["dsseEnvelope"] != bundle["dsseEnvelope"]
        or by_key["verificationMaterial"]["publicKey"]["hint"] != hint
    ):
        raise RefusedError("signature", "two signatures")
    signed = _statement(canonical(bundle["dsseEnvelope"]), STATEMENT_TYPE, key)
    manifest = parsed(files["manifest.json"], MANIFEST)
    expected = statement(files, f"{manifest['donor'] or 'unclaimed'}/{manifest['name']}")
    if canonical(expected) != signed:
        raise RefusedError("signature", "other files")
    if manifest["donor"] != site:
        raise RefusedError("organ", "another donor")
    return manifest, site, stated
