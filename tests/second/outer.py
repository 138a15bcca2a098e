"""Vectors that opening takes, and those that it refuses by their frame, header or offer."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from second import primitives
from second.federation import DAY, NOW, twin
from second.primitives import base64_of, canonical
from second.sealed import MAGIC, Draft, framed, parts, signed_folder, tar
from second.world import Case, World, organ, stray


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
    others = [primitives.seeded(f"addressee {number} of 512").hex() for number in range(510)]

    def named_too(offer: dict[str, Any]) -> None:
        offer["addressees"] = sorted([*offer["addressees"], *others])

    def wraps_of_others(made: dict[str, bytes], _: Draft) -> None:
        made |= {one: primitives.seeded(f"wrap for {one}", 1168) for one in others}

    yield Case(
        name="512-addressees",
        expect="ok",
        comment="as many as there may be, 510 of them nobody: the longest payload of an offer",
        data=w.draft("512", to=to, in_offer=named_too, in_wraps=wraps_of_others).sealed(),
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
        (
            "offer-order",
            lambda o: o.update(addressees=o["addressees"][::-1]),
            "addressees in disorder",
        ),
        ("offer-twice", lambda o: o.update(addressees=o["addressees"][:1] * 2), "one named twice"),
        ("offer-float", lambda o: canonical(o).replace(b'version":3', b'version":3.0'), "3.0"),
        ("offer-true", lambda o: o.update(version=True), "a version that is true"),
        (
            "offer-large",
            lambda o: canonical(o).replace(b'version":3', b'version":9007199254740993'),
            "more than 2**53 - 1",
        ),
        ("offer-descriptor", lambda o: o.update(descriptor="0" * 64), "of another organ and donor"),
        ("offer-id", lambda o: o.update(organ_id="west/notes"), "organ id of another donor"),
        ("offer-span", lambda o: o.update(span={"start": 3, "stop": 3}), "an empty span"),
        ("offer-dates", lambda o: o.update(expires=o["not_before"]), "expires as it begins"),
        ("offer-control", lambda o: o.update(domain="a\u202eb"), "text that turns around"),
        ("offer-filler", lambda o: o.update(domain="a\u3164b"), "a letter that shows nothing"),
        ("offer-tag", lambda o: o.update(domain="a\U000e0041b"), "a hidden letter"),
        ("offer-name", lambda o: o.update(exchange="Trial"), "a name with a capital"),
        ("offer-format", lambda o: o.update(format="organ-exchange/offer/v2"), "version 2"),
    ):
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

    def twinned(envelope: dict[str, Any]) -> None:
        raw = primitives.from_base64(envelope["signatures"][0]["sig"])
        envelope["signatures"][0]["sig"] = base64_of(primitives.twin(raw))

    certificate = twin(w.north.certificate)
    to = [w.south.sealing, w.north.sealing]
    for name, changed, comment in (
        ("twin-of-signature", {"in_envelope": twinned}, "the offer's signature"),
        (
            "twin-of-certificate",
            {"donor": replace(w.north, certificates=(certificate,))},
            "the signature of the donor's certificate",
        ),
        ("other-certificate", {"donor": w.renewed}, "the donor's certificate, by a later one"),
    ):
        yield Case(
            name=name,
            expect="ok",
            comment=f"carrier: another that holds instead of {comment}, of 'named'",
            data=w.draft("named", to=to, **changed).sealed(),
            after=("named",),
        )
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
