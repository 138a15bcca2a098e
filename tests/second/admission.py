"""Vectors of certificates, revocation lists, audiences, dates, and what was seen before."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from second import primitives
from second.federation import DAY, NOW, Leaf, Root, Site, site
from second.primitives import base64_of, sha256
from second.sealed import framed, parts, signed_folder
from second.world import HOUR, LATER, REASONS, Case, World, organ

EMPTY_PEM = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"


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
    for name, said, print_ in (
        ("leaf-names-text", "north\n2027-01-01 approved", w.north.sealing.fingerprint),
        ("leaf-names-no-digest", "north", "\x1b[2J"),
    ):
        issued = w.root.issue(name, said, w.north.signing.public_key(), print_)
        donor = replace(w.north, certificates=(issued,))
        data = framed(parts(w.draft(name, donor=donor).sealed())[0], b"body")
        comment = "a certificate with text where a name or a digest belongs"
        yield Case(name=name, expect="certificate", comment=comment, data=data)
    public = w.north.sealing.public[:1184] + bytes(32)
    issued = w.root.issue("low order", "north", w.north.signing.public_key(), sha256(public))
    said = replace(w.north, certificates=(issued,)).profile | {"sealing_key": base64_of(public)}
    draft = w.draft("key-low-order", in_header=lambda h: h.update(profile=said))
    yield Case(
        name="key-low-order",
        expect="certificate",
        comment="admitted with an X25519 key that makes no secret",
        data=framed(parts(draft.sealed())[0], b"body"),
    )
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
        (
            "pem-text",
            {"certificates": [w.north.profile["certificates"][0] + "x\n"]},
            "text after PEM",
        ),
        ("pem-broken", {"certificates": [EMPTY_PEM]}, "no certificate"),
    ):
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
        name="again", expect="ok", comment="the same file twice", file="named", after=("named",)
    )
    yield Case(
        name="rollback-seen",
        expect="rollback",
        comment="version 3 again, after version 4",
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
        ("superseded-unseen", "revoked", "superseded", (), "the organ's certificate is superseded"),
        ("superseded-seen", "ok", "superseded", ("named",), "it was seen before that"),
        (
            "compromised-seen",
            "revoked",
            "key-compromise",
            ("named",),
            "seen before its key was stolen",
        ),
        (
            "unspecified-seen",
            "revoked",
            "unspecified",
            ("named",),
            "seen before, revoked without a reason",
        ),
    ):
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
    after_theft = w.draft(
        "after-theft", signed_folder(organ(), w.renewed), donor=w.renewed
    ).sealed()
    for name, trust, expect, comment in (
        ("after-theft", "key-compromise", "ok", "compromised, so it does not count"),
        ("after-theft-withdrawn", "privilege-withdrawn", "rollback", "withdrawn, so it counts"),
    ):
        yield Case(
            name=name,
            expect=expect,
            comment=f"version 3 after version 4, whose certificate is {comment}",
            data=after_theft if name == "after-theft" else None,
            file="" if name == "after-theft" else "after-theft",
            trust=trust,
            now=NOW + HOUR,
            after=("version-4",),
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
    changed = signed_folder(organ() | {"README.md": b"# Another\n"}, w.north)
    for name, files, offers, expect, comment in (
        ("late-other-card", changed, w.late, "certificate", "another card, signed since"),
        ("late-signed-anew", signed_folder(organ(), w.late), w.late, "ok", "by a new certificate"),
    ):
        draft = w.draft(name, files, donor=offers, not_before=LATER, expires=LATER + DAY)
        yield Case(
            name=name,
            expect=expect,
            comment=f"the certificate of what was seen has expired: {comment}",
            data=draft.sealed(),
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
