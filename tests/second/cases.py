"""The vectors: what each file is, who opens it when, and what must come of it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from second import primitives
from second.federation import DAY, NOW, Leaf, Root, Site, pem, site
from second.primitives import base64_of, canonical, sha256
from second.sealed import (
    FILES,
    MAGIC,
    Draft,
    Files,
    framed,
    parts,
    signed_folder,
    statement,
    tag,
    tar,
)

HOUR = 3600
LATER = NOW + 400 * DAY


@dataclass(frozen=True, kw_only=True)
class Case:
    """One expectation of one file.

    Attributes:
        name: Of the expectation, and of its file unless ``file`` says another.
        expect: ``ok`` or the code of the refusal.
        comment: What is odd about it.
        data: The file; None if it is another's.
        file: Whose file it is about.
        opens_as: Identity that opens.
        now: When.
        exchange: The exchange that it must be for; None for any.
        trust: What the identity believes.
        after: Expectations that come first, with the same memory.
    """

    name: str
    expect: str
    comment: str
    data: bytes | None = None
    file: str = ""
    opens_as: str = "south"
    now: int = NOW
    exchange: str | None = None
    trust: str = "fresh"
    after: tuple[str, ...] = ()

    @property
    def lines(self) -> str:
        """The text that stands beside the file."""
        said = {
            "expect": self.expect,
            "opens-as": self.opens_as,
            "now": self.now,
            "trust": self.trust,
            "exchange": self.exchange,
            "after": " ".join(self.after),
            "file": self.file,
            "comment": self.comment,
        }
        return "".join(f"{name}: {value}\n" for name, value in said.items() if value)


class World:
    """Who there is: north donates, south and west receive; all from fixed seeds."""

    def __init__(self) -> None:
        self.root = Root("one")
        self.other = Root("two")  # of the same name
        self.north, self.south, self.west = (site(self.root, n) for n in ("north", "south", "west"))
        self.old = site(self.root, "south", Leaf(start=NOW - 15 * DAY), "south-retired")
        self.renewed = site(self.root, "north", Leaf(start=NOW))
        self.late = site(self.root, "north", Leaf(start=NOW + 300 * DAY, end=NOW + 665 * DAY))
        self.files = signed_folder(organ(), self.north)

    def draft(self, label: str, files: Files | None = None, **changes: Any) -> Draft:
        """What an admitted donor seals to south."""
        given = {"donor": self.north, "to": [self.south.sealing]} | changes
        return Draft(
            label=label, files=files or self.files, federation=self.root.fingerprint, **given
        )


def organ(version: int = 3, **changes: Any) -> Files:
    """The three files of a tiny organ, unsigned."""
    tensors = {
        f"{layer}.ln_1.{kind}": [1.5, layer] for layer in (0, 1) for kind in ("bias", "weight")
    }
    header, facts, data = {}, [], b""
    for name, values in sorted(tensors.items()):
        raw = b"".join(int(value * 2**23).to_bytes(4, "little") for value in values)
        header[name] = {
            "dtype": "F32",
            "shape": [2],
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        facts.append({"name": name, "dtype": "float32", "shape": [2], "sha256": sha256(raw)})
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    manifest = {
        "format": "organ-exchange/organ/v1",
        "name": "notes",
        "version": version,
        "domain": "radiology notes",
        "licence": "Apache-2.0",
        "donor": "north",
        "base": {
            "family": "gpt2",
            "architecture": "GPT2LMHeadModel",
            "layers": 4,
            "config": {"n_embd": 2},
            "layer_config": {},
            "weights": "ab" * 32,
            "tokenizer": None,
        },
        "span": {"start": 1, "stop": 3},
        "tensors": facts,
        "stored": {"form": "layers"},
        "training": None,
        "privacy": {"mechanism": "none"},
        "audit": None,
        "parents": [],
        "merge": None,
    } | changes
    return {
        "README.md": b"# An organ\n",
        "manifest.json": canonical(manifest),
        "organ.safetensors": len(text).to_bytes(8, "little") + text + data,
    }


@cache
def world() -> World:
    return World()


def empty_tar(files: Files | None = None) -> bytes:
    """The five files, empty where nothing is given: for what is refused before they are read."""
    return tar(dict.fromkeys(FILES, b"") | (files or {}))


def trusts() -> dict[str, tuple[bytes, bytes | None]]:
    """Roots and lists that a reader may have, by name."""
    w = world()
    north = w.north.certificate.serial_number
    root = pem(w.root.certificate)
    found: dict[str, tuple[bytes, bytes | None]] = {
        "fresh": (root, pem(w.root.list())),
        "later": (root, pem(w.root.list(9, issued=LATER - DAY))),
        "none": (root, None),
        "foreign-list": (root, pem(w.other.list())),
        "critical-list": (root, pem(w.root.list(critical=True))),
        "other-root": (pem(w.other.certificate), pem(w.other.list())),
    }
    for reason in REASONS:
        listed = w.root.list(2, {north: (NOW + HOUR, reason)}, issued=NOW + HOUR)
        found[reason.replace("_", "-")] = (root, pem(listed))
    return found


REASONS = (
    "key_compromise",
    "privilege_withdrawn",
    "affiliation_changed",
    "superseded",
    "cessation_of_operation",
    "unspecified",
)


def cases() -> list[Case]:
    """All, those with a file of their own first wherever another names it."""
    w = world()
    found = [
        one
        for part in (
            valid,
            framing,
            forms,
            signatures,
            certificates,
            revocations,
            audiences_and_dates,
            wraps,
            bodies,
            archives,
            folders,
            memories,
        )
        for one in part(w)
    ]
    names = [one.name for one in found]
    assert len(set(names)) == len(names)
    return found


def valid(w: World) -> Iterator[Case]:
    to = [w.south.sealing, w.north.sealing]
    named = w.draft("named", to=to).sealed()
    yield Case(
        name="named", expect="ok", comment="to south and its donor", data=named, exchange="trial"
    )
    yield Case(
        name="by-donor", expect="ok", comment="the donor's own", file="named", opens_as="north"
    )
    yield Case(
        name="not-addressed",
        expect="not-addressed",
        comment="to others",
        file="named",
        opens_as="west",
    )
    three = w.draft("three", to=[*to, w.west.sealing]).sealed()
    yield Case(name="three", expect="ok", comment="several addressees", data=three, opens_as="west")
    hidden = w.draft("hidden", to=to, hide=True).sealed()
    yield Case(name="hidden", expect="ok", comment="16 slots, two of them used", data=hidden)
    yield Case(
        name="hidden-from-west",
        expect="not-addressed",
        comment="no slot of west's",
        file="hidden",
        opens_as="west",
    )
    again = w.draft(
        "rewrapped",
        to=[w.west.sealing],
        body_label="named",
        exchange="second",
        not_before=NOW + DAY,
    ).sealed()
    assert parts(again)[1] == parts(named)[1]
    yield Case(
        name="rewrapped",
        expect="ok",
        comment="a later offer of the body of 'named'",
        data=again,
        opens_as="west",
        now=NOW + DAY,
        exchange="second",
    )
    yield Case(
        name="retired-key",
        expect="ok",
        comment="to a sealing key that south has retired and kept",
        data=w.draft("retired-key", to=[w.old.sealing]).sealed(),
    )
    # README.md is last but four: its size decides where chunks end.
    whole = tar(w.files)
    filled = organ() | {"README.md": b"x" * (16384 - (len(whole) - 512))}
    full = w.draft("full-chunks", signed_folder(filled, w.north))
    assert len(tar(full.files)) % 16384 == 0
    yield Case(
        name="full-chunks",
        expect="ok",
        comment="a plaintext of whole chunks, so that the last chunk is empty",
        data=full.sealed(),
    )
    facts = organ(
        2**53 - 1,
        name="a-2",
        domain="Röntgen “notes” \\ / \U0001f9e0 é",
        base=json.loads(organ()["manifest.json"])["base"]
        | {"config": {"é": 1e21, "b": 1e-7, "a": -0.5, "nested": {"": [], "\r": "\u20ac"}}},
        training={
            "scaffold": "alone",
            "rank": None,
            "tokens": 1,
            "steps": 1,
            "seed": 0,
            "learning_rate": 5e-324,
            "block_tokens": 1,
            "step_tokens": 1,
            "head_sample": None,
            "precision": "float32",
            "device": "cpu",
            "threads": 1,
            "libraries": {"torch": "2.8", "\ufb33": "x", "\U0001f600": "y"},
        },
    )
    yield Case(
        name="numbers-and-text",
        expect="ok",
        comment="RFC 8785 of floats, of text beyond ASCII, and keys sorted by UTF-16",
        data=w.draft("numbers-and-text", signed_folder(facts, w.north)).sealed(),
    )


def framing(w: World) -> Iterator[Case]:
    named = w.draft("named", to=[w.south.sealing, w.north.sealing]).sealed()
    header, body = parts(named)
    start = len(MAGIC) + 4
    for name, length, where in (
        ("empty", 0, "nothing"),
        ("cut-in-magic", 10, "in the first line"),
        ("cut-in-length", start - 1, "in the header's length"),
        ("cut-before-header", start, "before the header"),
        ("cut-in-header", start + 500, "in the header"),
        ("cut-before-body", start + len(header), "before the body"),
        ("cut-in-body", start + len(header) + 700, "in the body"),
        ("cut-last-byte", len(named) - 1, "one byte early"),
    ):
        yield Case(name=name, expect="truncated", comment=f"ends: {where}", data=named[:length])
    yield Case(name="longer", expect="body", comment="one byte too many", data=named + b"\0")
    for name, expect, data, comment in (
        ("another-magic", "format", b"PK\3\4" + bytes(60), "another kind of file"),
        ("short-other", "format", b"PK", "another kind of file, shorter than the magic"),
        (
            "version-2",
            "format",
            MAGIC.replace(b"v1", b"v2") + named[len(MAGIC) : 99],
            "of the future",
        ),
        (
            "line-ending",
            "format",
            MAGIC[:-1] + b"\r\n" + named[len(MAGIC) : 99],
            "as text was copied",
        ),
        ("huge-header", "too-large", MAGIC + b"\xff" * 4, "4 GiB of header claimed"),
        ("large-header", "too-large", MAGIC + b"\0\x10\0\1", "1 MiB and 1 byte of header claimed"),
        ("no-header", "format", MAGIC + bytes(4), "a header of no bytes"),
        ("header-not-json", "format", framed(b"{", body[:8]), "not JSON"),
        ("header-deep", "format", framed(b"[" * 5000, b""), "nested 5,000 deep"),
    ):
        yield Case(name=name, expect=expect, comment=comment, data=data)


def carried(sealed: bytes, header: bytes, body: bytes | None = None) -> bytes:
    """What a carrier makes of a file."""
    return framed(header, parts(sealed)[1] if body is None else body)


def forms(w: World) -> Iterator[Case]:
    named = w.draft("named", to=[w.south.sealing, w.north.sealing]).sealed()
    data = parts(named)[0]
    header = json.loads(data)
    short = b"body"  # none of these is read so far
    for name, changed, comment in (
        ("header-space", data.replace(b'":"', b'": "', 1), "a space, so not RFC 8785"),
        ("header-line-feed", data + b"\n", "a line feed after it, so not RFC 8785"),
        ("header-escape", data.replace(b"organ-exch", b"\\u006frgan-exch", 1), "a needless escape"),
        (
            "header-order",
            data[:-1].replace(b'{"format":"organ-exchange/sealed/v1",', b"{", 1)
            + b',"format":"organ-exchange/sealed/v1"}',
            "format last, out of order",
        ),
        ("header-twice", b'{"format":"organ-exchange/sealed/v1",' + data[1:], "a field twice"),
        ("header-unknown", canonical(header | {"zone": 1}), "a field that no version has"),
        ("header-lacks", canonical({k: v for k, v in header.items() if k != "wraps"}), "no wraps"),
        ("header-format", canonical(header | {"format": "organ-exchange/sealed/v2"}), "version 2"),
        ("header-utf-8", data.replace(b"/sealed/", b"/seal\xe9d", 1), "not UTF-8"),
        ("no-wraps", canonical(header | {"wraps": {}}), "no wraps"),
    ):
        yield Case(name=name, expect="format", comment=comment, data=framed(changed, short))
    for name, change, comment in (
        ("offer-unknown", lambda o: o.update(zone=1), "a field that no version has"),
        ("offer-lacks-hidden", lambda o: o.pop("hidden") and None, "null is not absence"),
        ("offer-order", lambda o: o.update(addressees=o["addressees"][::-1]), "addressees unsorted"),
        ("offer-twice", lambda o: o.update(addressees=o["addressees"][:1] * 2), "one named twice"),
        ("offer-float", lambda o: canonical(o).replace(b'version":3', b'version":3.0'), "3.0"),
        ("offer-true", lambda o: o.update(version=True), "a version that is true"),
        ("offer-large", lambda o: canonical(o).replace(b'version":3', b'version":9007199254740993'),
         "more than 2**53 - 1"),
        ("offer-descriptor", lambda o: o.update(descriptor="0" * 64), "of another organ and donor"),
        ("offer-id", lambda o: o.update(organ_id="west/notes"), "organ id of another donor"),
        ("offer-span", lambda o: o.update(span={"start": 3, "stop": 3}), "an empty span"),
        ("offer-dates", lambda o: o.update(expires=o["not_before"]), "expires as it begins"),
        ("offer-control", lambda o: o.update(domain="a\u202eb"), "text that turns around"),
        ("offer-name", lambda o: o.update(exchange="Trial"), "a name with a capital"),
        ("offer-format", lambda o: o.update(format="organ-exchange/offer/v2"), "version 2"),
    ):  # fmt: skip
        to = [w.south.sealing, w.north.sealing][: 2 if "addressees" in comment else 1]
        draft = w.draft(name, to=to, in_signed=change)
        made = framed(parts(draft.sealed())[0], short)
        yield Case(name=name, expect="format", comment=f"signed: {comment}", data=made)
    for name, envelope, comment in (
        ("envelope-space", lambda e: json.dumps(e), "not RFC 8785"),
        ("envelope-two", lambda e: e.update(signatures=e["signatures"] * 2), "two signatures"),
        ("envelope-none", lambda e: e.update(signatures=[]), "no signature"),
        ("envelope-base64", lambda e: e.update(payload=stray(e["payload"])), "stray bits"),
    ):
        made = framed(parts(w.draft(name, in_envelope=envelope).sealed())[0], short)
        yield Case(name=name, expect="format", comment=f"envelope: {comment}", data=made)


def stray(text: str) -> str:
    """Base64 of the same bytes with other bits where nothing is decoded."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    core = text.rstrip("=")
    if core == text:
        return text[:-1]  # nothing to pad: cut it short instead
    return core[:-1] + alphabet[alphabet.index(core[-1]) + 1] + text[len(core) :]


def signatures(w: World) -> Iterator[Case]:
    short = b"body"

    def spoil(envelope: dict[str, Any]) -> None:
        raw = bytearray(primitives.from_base64(envelope["signatures"][0]["sig"]))
        raw[-1] ^= 1
        envelope["signatures"][0]["sig"] = base64_of(bytes(raw))

    def retype(envelope: dict[str, Any]) -> None:
        receipt = "application/vnd.organ-exchange.receipt.v1+json"
        payload = primitives.from_base64(envelope["payload"])
        envelope.update(primitives.envelope(payload, receipt, w.north.signing))

    def rename(envelope: dict[str, Any]) -> None:
        envelope["signatures"][0]["keyid"] = "0" * 64

    def extend(envelope: dict[str, Any]) -> None:
        offer = json.loads(primitives.from_base64(envelope["payload"]))
        envelope["payload"] = base64_of(canonical(offer | {"expires": offer["expires"] + DAY}))

    for name, change, comment in (
        ("signature-spoiled", spoil, "the signature's last bit"),
        ("signature-of-receipt", retype, "signed as a receipt"),
        ("signature-key-id", rename, "the key id of another key"),
        ("offer-extended", extend, "a later date under the same signature"),
    ):
        made = framed(parts(w.draft(name, in_envelope=change).sealed())[0], short)
        yield Case(name=name, expect="signature", comment=comment, data=made)
    by_west = w.draft("signed-by-west", signer=w.west).sealed()
    yield Case(
        name="signed-by-west",
        expect="signature",
        comment="north's offer and profile, west's signature",
        data=by_west,
    )
    as_north = w.draft(
        "offered-by-west", signer=w.west, in_header=lambda h: h.update(profile=w.west.profile)
    )
    yield Case(
        name="offered-by-west",
        expect="offer",
        comment="an offer that names north, with the signature and profile of west",
        data=framed(parts(as_north.sealed())[0], short),
    )


def certificates(w: World) -> Iterator[Case]:
    def north(leaf: Leaf | None = None, **changes: Any) -> Site:
        made = site(w.root, "north", leaf)
        return replace(made, **changes)

    p256 = primitives.signing_key("north-p256", ec.SECP256R1())
    alone = Root("north")
    middle = site(w.root, "north", Leaf(ca=True))
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\5\0")
    odd = {
        "foreign-root": (site(w.other, "north"), "admitted by another root of the same name"),
        "own-root": (site(alone, "north"), "admitted by nobody but itself"),
        "p-256": (
            replace(
                w.north,
                certificates=(
                    w.root.issue("p256", "north", p256.public_key(), w.north.sealing.fingerprint),
                ),
            ),
            "certificate for a key of P-256",
        ),
        "is-a-ca": (middle, "a certificate that may issue certificates"),
        "no-code-signing": (
            north(Leaf(purposes=(ExtendedKeyUsageOID.CLIENT_AUTH,))),
            "certificate without the purpose of code signing",
        ),
        "three-names": (north(Leaf(also=("urn:x:y",))), "a third subject alternative name"),
        "critical-extension": (north(Leaf(extra=((unknown, True),))), "critical and unknown"),
        "needless-certificate": (
            replace(w.north, certificates=(w.north.certificate, w.west.certificate)),
            "a chain with a certificate that it does not need",
        ),
        "certificate-of-future": (north(Leaf(start=NOW + 1)), "valid from one second later on"),
        "certificate-expired": (north(Leaf(end=NOW - 1)), "valid until one second before"),
    }
    for name, (donor, comment) in odd.items():
        sealed = w.draft(name, donor=donor, files=signed_folder(organ(), w.north)).sealed()
        made = framed(parts(sealed)[0], b"body")
        yield Case(name=name, expect="certificate", comment=comment, data=made)
    first_and_last = north(Leaf(start=NOW, end=NOW))
    yield Case(
        name="certificate-of-one-second",
        expect="ok",
        comment="its first and last second is now",
        data=w.draft("certificate-of-one-second", donor=first_and_last).sealed(),
    )
    for name, change, comment in (
        ("key-swapped", {"sealing_key": w.west.profile["sealing_key"]}, "west's sealing key"),
        ("site-swapped", {"site": "west"}, "another site's name"),
        ("pem-text", {"certificates": [w.north.profile["certificates"][0] + "x\n"]}, "text after PEM"),
        ("pem-broken", {"certificates": ["-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"]},
         "no certificate"),
    ):  # fmt: skip
        draft = w.draft(name, in_header=lambda h, change=change: h["profile"].update(change))
        made = framed(parts(draft.sealed())[0], b"body")
        yield Case(name=name, expect="certificate", comment=f"profile: {comment}", data=made)


def revocations(w: World) -> Iterator[Case]:
    for reason in REASONS:
        word = reason.replace("_", "-")
        yield Case(
            name=f"revoked-{word}",
            expect="revoked",
            comment=f"north's certificate is revoked: {word}",
            file="named",
            trust=word,
            now=NOW + HOUR,
        )
    long = w.draft("long-offer", not_before=NOW - DAY, expires=NOW + 60 * DAY).sealed()
    due = NOW + 29 * DAY
    last = due + 7 * DAY
    yield Case(
        name="long-offer", expect="ok", comment="the list's last second", data=long, now=last
    )
    for name, expect, now, comment in (
        ("list-stale", "stale-list", last + 1, "a second after the list's days of grace"),
        ("list-early", "ok", NOW - DAY - 300, "300 seconds before the list was issued"),
        ("list-of-future", "stale-list", NOW - DAY - 301, "301 seconds before the list was issued"),
    ):
        yield Case(name=name, expect=expect, comment=comment, file="long-offer", now=now)
    for name, expect, trust, comment in (
        ("list-missing", "stale-list", "none", "no list"),
        ("list-foreign", "certificate", "foreign-list", "a list that another root signed"),
        ("list-critical", "certificate", "critical-list", "a list with a critical extension"),
    ):
        yield Case(name=name, expect=expect, comment=comment, file="named", trust=trust)


def audiences_and_dates(w: World) -> Iterator[Case]:
    yield Case(
        name="other-exchange",
        expect="audience",
        comment="for exchange trial, asked for second",
        file="named",
        exchange="second",
    )
    elsewhere = w.draft("other-federation", donor=site(w.other, "north")).sealed()
    yield Case(
        name="other-federation",
        expect="audience",
        comment="a donor who is a member of both federations; the offer is for the first",
        data=framed(parts(elsewhere)[0], b"body"),
        trust="other-root",
    )
    for name, expect, now, comment in (
        ("early-by-300", "ok", NOW - 300, "300 seconds before the offer begins"),
        ("early-by-301", "not-yet-valid", NOW - 301, "301 seconds before the offer begins"),
        ("late-by-300", "ok", NOW + 20 * DAY + 300, "300 seconds after the offer ends"),
        ("late-by-301", "expired", NOW + 20 * DAY + 301, "301 seconds after the offer ends"),
    ):
        yield Case(name=name, expect=expect, comment=comment, file="named", now=now)


def wraps(w: World) -> Iterator[Case]:
    to = [w.south.sealing, w.north.sealing]
    named = w.draft("named", to=to).sealed()
    header = json.loads(parts(named)[0])
    south, north = w.south.sealing.fingerprint, w.north.sealing.fingerprint
    of_other = json.loads(parts(w.draft("three", to=[*to, w.west.sealing]).sealed())[0])["wraps"]
    own = header["wraps"]
    spoiled = bytearray(primitives.from_base64(own[south]))
    spoiled[0] ^= 1
    for name, changed, comment in (
        (
            "wraps-swapped",
            own | {south: own[north], north: own[south]},
            "each under the other's name",
        ),
        ("wrap-spoiled", own | {south: base64_of(bytes(spoiled))}, "one bit of south's"),
        ("wrap-missing", {south: own[south]}, "the donor's is missing"),
        ("wrap-extra", own | {"0" * 64: own[south]}, "one more"),
        ("wrap-of-other-offer", own | {south: of_other[south]}, "south's of 'three'"),
    ):
        data = carried(named, canonical(header | {"wraps": changed}), b"body")
        yield Case(name=name, expect="wraps", comment=f"carrier: {comment}", data=data)

    def other_info(made: dict[str, bytes], draft: Draft) -> None:
        randomness = primitives.seeded("other info", 64)
        made[south] = primitives.wrap(draft.key, w.south.sealing.public, b"\1" * 32, randomness)

    def flipped(made: dict[str, bytes], draft: Draft) -> None:
        made[south] = made[south][:-1] + bytes([made[south][-1] ^ 1])

    def low_order(made: dict[str, bytes], draft: Draft) -> None:
        made[south] = made[south][:1088] + bytes(32) + made[south][1120:]

    def short(made: dict[str, bytes], draft: Draft) -> None:
        made[south] = made[south][:-1]

    def bits(made: dict[str, Any], draft: Draft) -> None:
        made[south] = stray(base64_of(made[south]))

    def wrong_key(made: dict[str, bytes], draft: Draft) -> None:
        randomness = primitives.seeded("wrong key", 64)
        made[south] = primitives.wrap(b"\1" * 32, w.south.sealing.public, draft.info, randomness)

    for name, expect, change, comment in (
        ("signed-other-info", "unseal", other_info, "a wrap bound to another offer"),
        ("signed-flipped", "unseal", flipped, "a spoiled wrap"),
        ("signed-low-order", "unseal", low_order, "a wrap with an X25519 point of low order"),
        ("signed-short", "format", short, "a wrap of 1,167 bytes"),
        ("signed-stray", "format", bits, "a wrap in base64 with stray bits"),
        ("signed-wrong-key", "unseal", wrong_key, "a wrap of another key than the body's"),
    ):
        data = w.draft(name, plaintext=empty_tar(), in_wraps=change).sealed()
        yield Case(name=name, expect=expect, comment=f"donor: {comment}", data=data)

    def under_west(offer: dict[str, Any]) -> None:
        offer.update(hidden="7" * 64, addressees=[west_tag])

    draft = w.draft("hidden-other-tag", plaintext=empty_tar())
    west_tag = tag(draft.key, "7" * 64, w.west.sealing.fingerprint)
    draft.in_offer = under_west

    def as_west(made: dict[str, bytes], draft: Draft) -> None:
        made[west_tag] = made.pop(south)

    draft.in_wraps = as_west
    yield Case(
        name="hidden-other-tag",
        expect="not-addressed",
        comment="donor: south can open the wrap, but the tag is west's",
        data=draft.sealed(),
    )


def bodies(w: World) -> Iterator[Case]:
    to = [w.south.sealing, w.north.sealing]
    named = w.draft("named", to=to).sealed()
    header, body = parts(named)
    small = empty_tar()
    other = parts(w.draft("three", to=to).sealed())[1]
    assert len(other) == len(body)
    yield Case(
        name="body-spoiled",
        expect="body",
        comment="carrier: the last bit",
        data=framed(header, body[:-1] + bytes([body[-1] ^ 1])),
    )
    yield Case(
        name="body-spliced",
        expect="body",
        comment="carrier: the body of 'three', as long as this one's",
        data=framed(header, other),
    )

    def reordered(body: bytes) -> bytes:
        prefix, one, two, *rest = primitives.chunks_of(body)
        return b"".join([prefix, two, one, *rest])

    def without(number: int) -> Any:
        def cut(body: bytes) -> bytes:
            chunks = primitives.chunks_of(body)
            del chunks[number]
            return b"".join(chunks)

        return cut

    def flip(at: int) -> Any:
        return lambda body: body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]

    two, three = (empty_tar({"README.md": bytes(size)}) for size in (14_000, 31_000))
    for name, plaintext, change, comment in (
        ("chunks-reordered", three, reordered, "two chunks in each other's place"),
        ("chunk-dropped", two, without(1), "the first chunk is missing"),
        ("last-chunk-dropped", two, without(-1), "the last chunk is missing"),
        ("salt-spoiled", small, flip(0), "a bit of the salt"),
        ("commitment-spoiled", small, flip(30), "a bit of the key commitment"),
        ("chunk-spoiled", small, flip(2000), "a bit of a chunk"),
        ("last-byte-cut", small, lambda body: body[:-1], "a chunk that is a byte short"),
        ("prefix-only", small, lambda body: body[:56], "no chunk"),
    ):
        data = w.draft(name, plaintext=plaintext, in_body=change).sealed()
        yield Case(name=name, expect="unseal", comment=f"donor: {comment}", data=data)

    def renamed(offer: dict[str, Any]) -> None:
        said = {"format": "organ-exchange/body/v1", "organ_digest": "9" * 64, "donor": "north"}
        offer.update(organ_digest="9" * 64, descriptor=sha256(canonical(said)))

    yield Case(
        name="other-context",
        expect="unseal",
        comment="donor: an offer of another organ digest, and so of another context",
        data=w.draft("other-context", plaintext=small, in_offer=renamed).sealed(),
    )


def archives(w: World) -> Iterator[Case]:
    member, files = primitives.tar_member, w.files
    readme = files["README.md"]
    # Signatures are not read before the tar is: they may as well be empty.
    good = [member(name, b"" if "sig" in name else data) for name, data in sorted(files.items())]
    rest, end = b"".join(good[1:]), primitives.TAR_END
    whole = b"".join(good)
    pax = b"19 path=/etc/passwd\n"
    for name, plaintext, comment in (
        ("tar-symlink", member("README.md", b"", b"2", "/etc/passwd") + rest + end, "a link"),
        ("tar-hard-link", member("README.md", b"", b"1", "../x") + rest + end, "a hard link"),
        ("tar-parent", member("../README.md", readme) + rest + end, "a path with .."),
        ("tar-absolute", member("/README.md", readme) + rest + end, "a path from the root"),
        ("tar-pax", member("x", pax, b"x") + whole + end, "a pax extension"),
        ("tar-extra", whole + member("z.py", b"print()") + end, "a sixth file"),
        ("tar-twice", good[0] + whole + end, "a file twice"),
        ("tar-missing", rest + end, "a file is missing"),
        ("tar-order", good[1] + good[0] + b"".join(good[2:]) + end, "not in order of name"),
        ("tar-mode", member("README.md", readme, mode=b"0004755\0") + rest + end, "a mode"),
        ("tar-mtime", member("README.md", readme, mtime=b"00000000001\0") + rest + end, "a time"),
        ("tar-gnu", member("README.md", readme, magic=b"ustar  \0") + rest + end, "GNU's magic"),
        ("tar-huge", primitives.tar_header("README.md", 8**11 - 1) + rest, "8 GiB claimed"),
        (
            "tar-base-256",
            member("README.md", readme, size=b"\x80" + bytes(10) + b"\x0b") + rest + end,
            "a size in base 256",
        ),
        ("tar-padding", whole.replace(readme + b"\0", readme + b"!") + end, "bytes between files"),
        ("tar-no-end", whole, "no end"),
        ("tar-half-end", whole + end[:512], "half an end"),
        ("tar-trailing", whole + end + bytes(512), "zeros after the end"),
        ("tar-none", b"", "nothing"),
    ):
        yield Case(
            name=name,
            expect="archive",
            comment=f"donor: {comment}",
            data=w.draft(name, plaintext=plaintext).sealed(),
        )


def folders(w: World) -> Iterator[Case]:
    def said(change: Any) -> Files:
        told = statement(organ(), "north/notes")
        change(told)
        return signed_folder(organ(), w.north, told)

    twice = w.files["model.sig"].replace(b'{"dsse', b'{ "dsse', 1)
    by_west = signed_folder(organ(), w.west)
    unread = organ() | {"manifest.json": organ()["manifest.json"].replace(b'":', b'": ', 1)}
    for name, expect, files, comment in (
        (
            "readme-changed",
            "signature",
            w.files | {"README.md": b"# Better\n"},
            "README.md is not the one signed",
        ),
        (
            "tensors-changed",
            "signature",
            w.files | {"organ.safetensors": w.files["organ.safetensors"][:-1] + b"\1"},
            "organ.safetensors is not the one signed",
        ),
        (
            "signatures-disagree",
            "signature",
            w.files | {"model.key.sig": by_west["model.key.sig"]},
            "model.key.sig is west's, model.sig north's",
        ),
        (
            "statement-ignores",
            "signature",
            said(lambda s: s["predicate"]["serialization"]["ignore_paths"].insert(0, "README.md")),
            "the signature leaves README.md out",
        ),
        (
            "statement-other-type",
            "signature",
            said(lambda s: s.update(predicateType="https://model_signing/signature/v0.1")),
            "of an older predicate",
        ),
        ("bundle-not-canonical", "format", w.files | {"model.sig": twice}, "a space"),
        ("manifest-not-canonical", "format", signed_folder(unread, w.north), "a space"),
        (
            "manifest-unknown",
            "format",
            signed_folder(organ(zone=1), w.north),
            "a field that no version has",
        ),
        (
            "manifest-of-west",
            "organ",
            signed_folder(organ(donor="west"), w.north, statement(organ(donor="west"), "west/notes")),
            "signed by north, but its manifest says west",
        ),
        ("organ-of-west", "offer", signed_folder(organ(donor="west"), w.west), "west's, resealed"),
        ("signed-by-stranger", "certificate", signed_folder(organ(), site(w.other, "north")), "signer of another root"),
    ):  # fmt: skip
        draft = w.draft(name, files)
        yield Case(name=name, expect=expect, comment=f"donor: {comment}", data=draft.sealed())
    for field, value in (("version", 4), ("domain", "other"), ("base_weights", "0" * 64)):
        name = f"offers-other-{field}".replace("_", "-")
        change = lambda o, field=field, value=value: o.update({field: value})  # noqa: E731
        yield Case(
            name=name,
            expect="offer",
            comment=f"donor: another {field} is offered than is inside",
            data=w.draft(name, in_offer=change).sealed(),
        )


def memories(w: World) -> Iterator[Case]:
    newer = w.draft("version-4", signed_folder(organ(4), w.north)).sealed()
    yield Case(
        name="version-4", expect="ok", comment="a later version", data=newer, after=("named",)
    )
    yield Case(
        name="rollback",
        expect="rollback",
        comment="version 3 after version 4",
        file="three",
        after=("version-4",),
    )
    yield Case(
        name="again",
        expect="ok",
        comment="the same file twice",
        file="named",
        after=("named", "version-4"),
    )
    twin = w.draft("same-version", signed_folder(organ(licence="MIT"), w.north)).sealed()
    yield Case(
        name="same-version",
        expect="rollback",
        comment="another organ under a version that was seen",
        data=twin,
        after=("named",),
    )
    reoffered = w.draft("reoffered", donor=w.renewed, body_label="named").sealed()
    for name, expect, trust, after, comment in (
        ("reoffered", "ok", "fresh", (), "under a second certificate of north's"),
        ("superseded-unseen", "revoked", "superseded", (), "the one that signed the organ is superseded"),
        ("superseded-seen", "ok", "superseded", ("named",), "it was seen before that"),
        ("compromised-seen", "revoked", "key-compromise", ("named",), "seen before, but the key was stolen"),
        ("unspecified-seen", "revoked", "unspecified", ("named",), "seen before, but nobody says why"),
    ):  # fmt: skip
        yield Case(
            name=name,
            expect=expect,
            comment=comment,
            data=reoffered if name == "reoffered" else None,
            file="" if name == "reoffered" else "reoffered",
            trust=trust,
            now=NOW + HOUR,
            after=after,
        )
    late = w.draft(
        "offered-late", donor=w.late, body_label="named", not_before=LATER, expires=LATER + DAY
    ).sealed()
    yield Case(
        name="offered-late",
        expect="certificate",
        comment="the certificate that signed the organ has expired, the donor's new one has not",
        data=late,
        trust="later",
        now=LATER,
    )
    yield Case(
        name="offered-late-seen",
        expect="ok",
        comment="the same, but the organ was seen while it was valid",
        file="offered-late",
        trust="later",
        now=LATER,
        after=("named",),
    )
    yield Case(
        name="offer-expired-certificate",
        expect="certificate",
        comment="the donor's own certificate has expired",
        file="named",
        trust="later",
        now=LATER,
    )
