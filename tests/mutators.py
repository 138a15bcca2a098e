"""Edits of bytes, of JSON and of tars, each decided by a random generator alone."""

import base64
import copy
import json
import random
import re
import tarfile
from collections.abc import Sequence
from typing import Any

import rfc8785
from cryptography import x509
from second.federation import pem
from second.federation import twin as certificate_twin
from second.primitives import twin

BLOCK = 512
NUMBERS: tuple[Any, ...] = (
    0,
    -1,
    1,
    2,
    3,
    255,
    2**31,
    2**32 - 1,
    2**53 - 1,
    2**53,
    2**63,
    2**64,
    10**400,
    0.5,
    -0.0,
    1e308,
    5e-324,
    float("nan"),
    float("inf"),
)
TEXTS = (
    "",
    "0",
    "../../x",
    "/etc/passwd",
    "north",
    "nоrth",  # noqa: RUF001 - the second letter is Cyrillic, which is the point
    "NORTH",
    "north\n",
    "north\0",
    "a" * 64,
    "A" * 64,
    "0" * 64,
    "0" * 63,
    "\u202eabc",
    "\u200b",
    "\ufeff",
    "e\u0301",
    "\U0001f9ec",
    "\ud800",
    "=" * 4,
    "x" * 70_000,
    "-----BEGIN CERTIFICATE-----\n",
    "organ-exchange/offer/v2",
)
OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [[]], {"": ""}, [None], {"\u0000": 1})


def envelope_twinned(envelope: Any) -> Any:
    """A signed envelope with the other signature that holds."""
    (one,) = envelope["signatures"]
    sig = base64.b64encode(twin(base64.b64decode(one["sig"]))).decode()
    return envelope | {"signatures": [one | {"sig": sig}]}


def profile_twinned(profile: Any) -> Any:
    """A profile whose certificate has the other signature that holds."""
    made = [
        pem(certificate_twin(x509.load_pem_x509_certificate(one.encode()))).decode()
        for one in profile["certificates"]
    ]
    return profile | {"certificates": made}


def bytes_edited(data: bytes, rng: random.Random, other: bytes = b"") -> bytes:
    """Some bytes changed, put in, taken out, moved, or taken from another file."""
    made = bytearray(data)
    edits = rng.choice((1, 1, 1, 2, 5))
    while edits > 0 or made == data:
        edits -= 1
        at = rng.randrange(len(made) + 1)
        to = min(len(made), at + rng.choice((1, 1, 2, 4, 16, 300)))
        match rng.randrange(8):
            case 0 | 1 if at < len(made):
                made[at] ^= 1 << rng.randrange(8)
            case 2:
                made[at:to] = rng.randbytes(to - at)
            case 3:
                del made[at:to]
            case 4:
                made[at:at] = rng.choice((b"\0", b"\xff" * 4, b'"', b"{", rng.randbytes(9)))
            case 5:
                made[at:at] = made[at:to]
            case 6:
                made[at : at + 4] = rng.choice((bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff"))
            case _ if other:
                start = rng.choice((at, rng.randrange(len(other))))
                made[at:] = other[start:] if rng.random() < 0.5 else made[:0]
    return bytes(made)


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where every value inside a JSON value is."""
    found: list[tuple[Any, ...]] = []
    pairs: Any = ()
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list):
        pairs = enumerate(value)
    for key, one in pairs:
        found.append((*at, key))
        found += paths(one, (*at, key))
    return found


def got(value: Any, at: Sequence[Any]) -> Any:
    """What is at a path."""
    for key in at:
        value = value[key]
    return value


def json_edited(value: Any, rng: random.Random, others: Sequence[Any] = ()) -> Any:
    """One to three edits of a JSON value; fields of ``others`` may take the place of its own."""
    made = copy.deepcopy(value)
    edits = rng.choice((1, 1, 1, 1, 2, 3))
    while edits > 0 or same(made, value):
        places = paths(made)
        if not places:
            break
        at = rng.choice(places)
        holder, key = got(made, at[:-1]), at[-1]
        _edit(made, holder, key, at, rng, others)
        edits -= 1
    return made


def same(one: Any, two: Any) -> bool:
    """Whether two JSON values are written alike; 1, 1.0 and true are not equal here."""
    return json.dumps(one, sort_keys=True) == json.dumps(two, sort_keys=True)


def _edit(
    made: Any, holder: Any, key: Any, at: Sequence[Any], rng: random.Random, others: Sequence[Any]
) -> None:
    old = holder[key]
    match rng.randrange(10):
        case 0:
            del holder[key]
        case 1:
            holder[key] = copy.deepcopy(rng.choice(OTHERS))
        case 2:
            holder[key] = deep(rng.choice((1, 5, 60, 195, 240)), rng.choice(("[]", "{}")))
        case 3 if isinstance(holder, dict):
            holder[rng.choice(("x", key + " ", key.upper(), "format", ""))] = copy.deepcopy(old)
        case 3:
            holder.insert(rng.randrange(len(holder) + 1), copy.deepcopy(old))
        case 4:
            place = rng.choice(paths(made))
            holder[key] = copy.deepcopy(got(made, place))
        case 5 | 6 if others:
            try:
                holder[key] = copy.deepcopy(got(rng.choice(others), at))
            except (KeyError, IndexError, TypeError):
                holder[key] = copy.deepcopy(rng.choice(others))
        case 7 if isinstance(holder, list):
            rng.shuffle(holder)
        case _:
            holder[key] = copy.deepcopy(_near(old, rng))


def _near(old: Any, rng: random.Random) -> Any:
    if isinstance(old, str):
        return rng.choice(
            (
                rng.choice(TEXTS),
                text_edited(old, rng),
                text_edited(old, rng),
                old + rng.choice("\n \0=A0"),
                old.upper(),
                old[::-1],
                old[: len(old) // 2],
            )
        )
    if isinstance(old, bool) or old is None or isinstance(old, list | dict):
        return rng.choice((*NUMBERS, *OTHERS, *TEXTS))
    return rng.choice((*NUMBERS, old + 1, old - 1, -old, old % 7 + 0.5, repr(old)[:50]))


def text_edited(text: str, rng: random.Random) -> str:
    """One character of a text changed to another that texts of its kind hold."""
    if not text:
        return "0"
    at = rng.randrange(len(text))
    if re.fullmatch("[0-9a-f]+", text):
        letters = "0123456789abcdef"
    else:
        letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=-_ \n"
    return text[:at] + rng.choice(letters) + text[at + 1 :]


def deep(depth: int, kind: str) -> Any:
    """A value nested ``depth`` times in lists or in objects."""
    made: Any = 1
    for _ in range(depth):
        made = [made] if kind == "[]" else {"a": made}
    return made


def written(value: Any, rng: random.Random, crooked: float = 0.1) -> bytes:
    """A JSON value as RFC 8785 writes it; with a chance of ``crooked``, otherwise."""
    if rng.random() >= crooked:
        return canonical(value)
    style = rng.randrange(7)
    text = json.dumps(value, separators=(",", ":"), sort_keys=style != 0, ensure_ascii=style == 1)
    match style:
        case 2:
            text = json.dumps(value)
        case 3:  # each key twice, the second time with another value
            text = re.sub(r'\{("[^"]*"):', r"{\1:0,\1:", text, count=1)
        case 4:
            text = rng.choice(("\ufeff", " ", "\n")) + text
        case 5:
            text = text + rng.choice((" ", "\n", "\0", "{}", ","))
        case 6:
            text = text.replace(":", ":" + "[" * rng.choice((3, 150, 100_000)), 1)
    return text.encode(errors="surrogatepass")


def canonical(value: Any) -> bytes:
    """RFC 8785, or nearest to it where it cannot write a value."""
    try:
        return rfc8785.dumps(value)
    except (ValueError, RecursionError):
        text = json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
        return text.encode(errors="surrogatepass")


def tar_edited(data: bytes, rng: random.Random) -> bytes:
    """A tar with headers, members, padding or end changed; most checksums are right again."""
    made = bytearray(data)
    edits = rng.choice((1, 1, 1, 2, 3))
    while edits > 0 or made == data:
        edits -= 1
        heads = headers(bytes(made))
        if not heads:
            return bytes_edited(bytes(made), rng)
        start, size = rng.choice(heads)
        end = start + BLOCK + size + -size % BLOCK
        match rng.randrange(12):
            case 0 | 1 | 2 | 3:
                _field(made, start, rng)
                if rng.random() < 0.8:
                    checksum(made, start)
            case 4:
                del made[start:end]
            case 5:
                made[start:start] = made[start:end]
            case 6:
                made[start:start] = _stranger(rng)
            case 7:
                other, length = rng.choice(heads)
                block = made[other : other + BLOCK + length + -length % BLOCK]
                made[start:end] = block
            case 8 if size % BLOCK:
                made[end - 1 - rng.randrange(-size % BLOCK)] = rng.randrange(1, 256)
            case 9:
                made += rng.choice((b"\0", bytes(BLOCK), bytes(9 * BLOCK), b"x", _stranger(rng)))
            case 10:
                del made[rng.randrange(len(made)) :]
            case _:
                at = rng.randrange(start, start + BLOCK)
                made[at] ^= 1 << rng.randrange(8)
                if rng.random() < 0.5:
                    checksum(made, start)
    return bytes(made)


FIELDS: dict[tuple[int, int], tuple[bytes, ...]] = {
    (0, 100): (b"../x", b"/x", b"a/b", b"model.sig", b"README.md", b"", b"\xff" * 100, b"x" * 100),
    (100, 108): (b"0004755\0", b"0000000\0", b"644\0", b"0000644 ", b"\xff" * 8),
    (108, 116): (b"0000001\0", b"\x80" + bytes(7)),
    (116, 124): (b"7777777\0",),
    (124, 136): (
        b"77777777777\0",
        b"00000000000\0",
        b"00000000001\0",
        b"0000000001 \0",
        b"-0000000001\0",
        b"\x80" + bytes(11),
        b"\xff" * 12,
        b"\x80" + b"\xff" * 11,
        b"+0000000154\0",
        b"0_0_0_0_154\0",
    ),
    (136, 148): (b"00000000001\0", b"77777777777\0"),
    (148, 156): (b"0000000\0", b"        "),
    (156, 157): tuple(bytes([kind]) for kind in (0, *b"123456789ASVKLMNXgx")),
    (157, 257): (b"/etc/passwd", b"..", b"x" * 100),
    (257, 265): (b"ustar  \0", b"\0" * 8, b"ustar\x0000"),
    (265, 297): (b"root",),
    (329, 337): (b"0000001\0",),
    (345, 500): (b"..", b"/", b"prefix"),
    (500, 512): (b"x" * 12,),
}


def _field(made: bytearray, start: int, rng: random.Random) -> None:
    (low, high), values = rng.choice(list(FIELDS.items()))
    value = rng.choice(values)[: high - low]
    made[start + low : start + high] = value + bytes(high - low - len(value))


def checksum(made: bytearray, start: int) -> None:
    """Write the right checksum into a tar header."""
    made[start + 148 : start + 156] = b" " * 8
    made[start + 148 : start + 156] = b"%06o\0 " % sum(made[start : start + BLOCK])


def headers(data: bytes) -> list[tuple[int, int]]:
    """Where the headers of a tar are, and the sizes that they tell."""
    found, at = [], 0
    while at + BLOCK <= len(data) and data[at] and len(found) < 40:
        field = data[at + 124 : at + 135]
        if not re.fullmatch(rb"[0-7]{11}", field):
            break
        size = int(field, 8)
        found.append((at, size))
        at += BLOCK + size + -size % BLOCK
    return found if at <= len(data) else found[:-1]


def _stranger(rng: random.Random) -> bytes:
    """A member that no organ has, as Python's own tar writer writes it."""
    facts = tarfile.TarInfo(rng.choice(("a", "../a", "model.sig", "x" * 150, "é")))
    facts.type = rng.choice(
        (tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)
    )
    facts.linkname = "/etc/passwd" if facts.type in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
    facts.mode = 0o644
    if rng.random() < 0.3:
        facts.pax_headers = {"path": "../b", "size": "99999999999"}
    form = rng.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))
    return facts.tobuf(form)
