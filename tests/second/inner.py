"""Vectors of wraps, bodies, archives and the folders in them."""

import json
from collections.abc import Iterator
from typing import Any

from second import primitives
from second.federation import site
from second.primitives import base64_of, canonical, sha256
from second.sealed import Draft, Files, framed, parts, signed_folder, statement, tag
from second.world import Case, World, empty_tar, organ, stray


def carried(sealed: bytes, header: bytes, body: bytes | None = None) -> bytes:
    """What a carrier makes of a file."""
    return framed(header, parts(sealed)[1] if body is None else body)


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

    def missing(made: dict[str, bytes], draft: Draft) -> None:
        del made[north]

    def extra(made: dict[str, bytes], draft: Draft) -> None:
        made["0" * 64] = made[south]

    for name, change, comment in (
        ("signed-missing", missing, "no wrap of an addressee's"),
        ("signed-extra", extra, "a wrap of nobody's"),
    ):
        data = framed(parts(w.draft(name, to=to, in_wraps=change).sealed())[0], b"body")
        yield Case(name=name, expect="wraps", comment=f"donor: {comment}", data=data)

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
    says_west = organ(donor="west")
    older = signed_folder(organ() | {"README.md": b"# Older\n"}, w.north)["model.key.sig"]
    by_key = json.loads(w.files["model.key.sig"])
    other = sha256(primitives.public_pem(w.west.signing.public_key()))
    by_key["verificationMaterial"]["publicKey"]["hint"] = other
    for name, expect, files, comment in (
        (
            "signatures-of-two",
            "signature",
            w.files | {"model.key.sig": older},
            "model.key.sig is north's over another statement",
        ),
        (
            "hint-of-west",
            "signature",
            w.files | {"model.key.sig": canonical(by_key)},
            "model.key.sig names west's key",
        ),
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
            signed_folder(says_west, w.north, statement(says_west, "west/notes")),
            "signed by north, but its manifest says west",
        ),
        ("organ-of-west", "offer", signed_folder(says_west, w.west), "west's, resealed"),
        (
            "signed-by-stranger",
            "certificate",
            signed_folder(organ(), site(w.other, "north")),
            "by another root's member",
        ),
    ):
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
