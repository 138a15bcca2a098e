"""What an admitted donor can make, honest or not, by another hand than the package's."""

import base64
import functools
import hashlib
import json
import struct
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.cobblestone import Cobblestone256Encryptor
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from mutators import canonical
from securesystemslib.signer import SSlibKey
from trust_world import DAY, NOW, World, manifest, organ_folder

from not_core import canonical as checked
from not_core.errors import NotError
from not_core.trust import addressees, archive, authority, profile, sealing, signing
from not_core.trust.delivery import MAGIC
from not_core.trust.offer import OFFER_TYPE, UNWRAPPED, describe
from not_core.trust.signing import STATEMENT_TYPE

Json = Any


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sealed_file(header: bytes, body: bytes) -> bytes:
    return MAGIC + struct.pack(">I", len(header) % 2**32) + header + body


def taken_apart(data: bytes) -> tuple[Json, bytes]:
    """Delivery header as plain JSON, and body."""
    (length,) = struct.unpack(">I", data[len(MAGIC) : len(MAGIC) + 4])
    start = len(MAGIC) + 4
    return json.loads(data[start : start + length]), data[start + length :]


def payload_of(header: Json) -> bytes:
    return base64.b64decode(json.loads(header["offer"])["payload"])


@dataclass
class Lab:
    """A small federation, files that its donors made, and readers."""

    world: World
    files: list[bytes] = field(default_factory=list)
    tars: list[bytes] = field(default_factory=list)
    folders: list[dict[str, bytes]] = field(default_factory=list)
    offers: set[bytes] = field(default_factory=set)
    headers: list[Json] = field(default_factory=list)
    renewed: Json = None
    memory: bytes = b""

    @property
    def place(self) -> Path:
        return self.world.place

    def read(self, path: Path) -> dict[str, bytes]:
        return {one.name: one.read_bytes() for one in sorted(path.iterdir())}


def lab(place: Path) -> Lab:
    """Two organs of north and one of west; sealed to one, to two, hidden, and offered anew."""
    world = World(place)
    made = Lab(world)
    organs = [(world.organ, world.north)]
    for name, site, facts in (
        ("later", world.north, manifest(version=4, domain="other notes")),
        ("wests", world.west, manifest(donor="west")),
    ):
        folder = organ_folder(place / name, facts, name.encode() * 70)
        signing.sign_folder(folder, site)
        organs.append((folder, site))
    for number, (folder, donor) in enumerate(organs):
        for more in ([], [world.west], None):
            to = [world.south, *(more or [])]
            terms = sealing.Audience(
                addressees=[one.profile for one in to], exchange="trial", hide=more is None
            )
            out = place / f"{number}-{len(made.files)}.organ"
            sealing.seal(folder, donor, terms, out, now=NOW)
            made.files.append(out.read_bytes())
        made.tars.append(b"".join(archive.pack(folder)))
        made.folders.append(made.read(folder))
    again = place / "again.organ"
    terms = sealing.Audience(addressees=[world.south.profile], exchange="trial")
    sealing.rewrap(place / "0-0.organ", world.north, terms, again, now=NOW)
    made.files.append(again.read_bytes())
    made.headers = [taken_apart(data)[0] for data in made.files]
    made.offers = {payload_of(header) for header in made.headers}
    request = profile.read_request(world.north.folder / "request.json")
    fresh = authority.admit(place / "federation", request, now=NOW - DAY, again=True)
    made.renewed = json.loads(checked.encode(fresh))
    sealing.open_sealed(place / "0-0.organ", world.south, place / "opened", now=NOW)
    made.memory = (world.south.folder / "seen.db").read_bytes()
    return made


@functools.cache
def key_id(key: ec.EllipticCurvePrivateKey) -> str:
    return SSlibKey.from_crypto(key.public_key()).keyid


def signed(payload: bytes, kind: str, key: ec.EllipticCurvePrivateKey) -> Json:
    """A DSSE envelope, by another hand than the package's."""
    message = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)
    return {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": kind,
        "signatures": [
            {
                "keyid": key_id(key),
                "sig": base64.b64encode(key.sign(message, ec.ECDSA(hashes.SHA384()))).decode(),
            }
        ],
    }


def remembering(pure: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose outcome its arguments decide, called once for each of them."""

    @functools.lru_cache(maxsize=32)
    def outcome(arguments: tuple[Any, ...], named: tuple[tuple[str, Any], ...]) -> Any:
        try:
            return pure(*arguments, **dict(named)), None
        except NotError as error:
            return None, error

    def call(*arguments: Any, **named: Any) -> Any:
        value, error = outcome(
            tuple(tuple(one) if isinstance(one, list) else one for one in arguments),
            tuple(sorted(named.items())),
        )
        if error is not None:
            raise error.with_traceback(None)  # or it grows with each time that it is raised
        return value

    return call


def tar_of(folder: dict[str, bytes]) -> bytes:
    made = b""
    for name, data in sorted(folder.items()):
        facts = tarfile.TarInfo(name)
        facts.size, facts.mode = len(data), 0o644
        made += facts.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)
    return made + bytes(1024)


def offered(
    one: Lab,
    tar: bytes,
    manifest_bytes: bytes,
    edit: Callable[[Json], Json] = lambda offer: offer,
    spoil: Callable[[Json], Json] = lambda wraps: wraps,
    ruin: Callable[[bytes], bytes] = lambda body: body,
) -> bytes:
    """What north, admitted and dishonest, makes of a tar: an offer of its own, signed and wrapped.

    Args:
        one: The federation.
        tar: What is encrypted.
        manifest_bytes: What the offer repeats.
        edit: Changes the offer before it is signed.
        spoil: Changes the wrapped keys before their digest is signed.
        ruin: Changes the encrypted body before its digest is signed.
    """
    facts, donor = json.loads(manifest_bytes), one.world.north
    offer = json.loads(payload_of(taken_apart(one.files[0])[0]))

    def of(value: Json, *names: str, default: Json) -> Json:
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        return default if value is None else value

    offer["organ_digest"] = sha256(manifest_bytes)
    offer["organ_id"] = f"north/{of(facts, 'name', default='notes')}"
    for name in ("version", "domain", "span"):
        offer[name] = of(facts, name, default=offer[name])
    offer["base_weights"] = of(facts, "base", "weights", default=offer["base_weights"])
    offer["family"] = of(facts, "base", "family", default=offer["family"])
    offer["descriptor"] = describe(offer["organ_digest"], "north")
    offer["addressees"] = [one.world.south.profile.sealing_fingerprint]
    key = Cobblestone256Encryptor.generate_key()
    offer = edit(offer)
    try:
        context = bytes.fromhex(offer["descriptor"])
        encryptor = Cobblestone256Encryptor(key, context)
    except (KeyError, TypeError, ValueError):
        encryptor = Cobblestone256Encryptor(key, bytes(32))
    body = ruin(encryptor.update(tar) + encryptor.finalize())
    for field_name, value in (("body_sha256", sha256(body)), ("body_bytes", len(body))):
        if offer.get(field_name) == WAS[field_name]:
            offer[field_name] = value
    listed = offer.get("addressees")
    names = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
    info = hashlib.sha256(canonical(offer | {"wraps_sha256": UNWRAPPED})).digest()
    public = profile.sealing_public_key(one.world.south.profile.sealing_key, "south")
    wraps = {
        name: base64.b64encode(addressees.SUITE.encrypt(key, public, info=info)).decode()
        for name in names[:20]
    }
    wraps = spoil(wraps)
    if offer.get("wraps_sha256") == WAS["wraps_sha256"]:
        offer["wraps_sha256"] = sha256(canonical(wraps))
    header = {
        "format": "organ-exchange/sealed/v1",
        "offer": canonical(
            signed(canonical(offer), OFFER_TYPE, donor.signing_key.private)
        ).decode(),
        "profile": json.loads(checked.encode(donor.profile)),
        "wraps": wraps,
    }
    return sealed_file(canonical(header), body)


WAS: dict[str, Json] = {
    "body_sha256": "b" * 64,
    "body_bytes": 123_456_789,
    "wraps_sha256": "c" * 64,
}
"""What stands in an offer until the body and the wraps are made, unless an edit replaced it."""


def signed_folder(
    one: Lab, folder: dict[str, bytes], name: str, edit: Callable[[Json], Json] | None = None
) -> dict[str, bytes]:
    """A folder that north signs whatever is in it."""
    files = {key: value for key, value in folder.items() if not key.endswith(".sig")}
    digests = {key: sha256(value) for key, value in sorted(files.items())}
    whole = sha256(b"".join(bytes.fromhex(value) for value in digests.values()))
    statement = json.loads(
        base64.b64decode(json.loads(one.folders[0]["model.sig"])["dsseEnvelope"]["payload"])
    )
    statement["subject"] = [{"name": name, "digest": {"sha256": whole}}]
    statement["predicate"]["resources"] = [
        {"name": key, "algorithm": "sha256", "digest": value} for key, value in digests.items()
    ]
    statement = edit(statement) if edit else statement
    envelope = signed(canonical(statement), STATEMENT_TYPE, one.world.north.signing_key.private)
    for kind in ("model.sig", "model.key.sig"):
        bundle = json.loads(one.folders[0][kind])
        bundle["dsseEnvelope"] = envelope
        files[kind] = canonical(bundle)
    return files


def agrees(data: bytes, files: dict[str, bytes], fingerprint: str) -> bool:
    """Whether an opened file's parts bear each other out, as plain JSON and digests tell."""
    header, body = taken_apart(data)
    offer = json.loads(payload_of(header))
    facts = json.loads(files["manifest.json"])
    resources = json.loads(
        base64.b64decode(json.loads(files["model.sig"])["dsseEnvelope"]["payload"])
    )["predicate"]["resources"]
    named = {row["name"]: row["digest"] for row in resources}
    found = {name: sha256(value) for name, value in files.items() if not name.endswith(".sig")}
    whole = {"README.md", "manifest.json", "organ.safetensors"}
    return (
        canonical(header) == data[len(MAGIC) + 4 : len(data) - len(body)]
        and canonical(offer) == payload_of(header)
        and canonical(facts) == files["manifest.json"]
        and set(named) == whole
        and named == found
        and header["profile"]["site"] == offer["donor"] == facts["donor"] == "north"
        and offer["federation"] == fingerprint
        and offer["organ_id"] == f"north/{facts['name']}"
        and offer["organ_digest"] == found["manifest.json"]
        and offer["version"] == facts["version"]
        and offer["domain"] == facts["domain"]
        and offer["span"] == facts["span"]
        and offer["base_weights"] == facts["base"]["weights"]
        and offer["family"] == facts["base"]["family"]
        and offer["body_sha256"] == sha256(body)
        and offer["body_bytes"] == len(body)
        and offer["wraps_sha256"] == sha256(canonical(header["wraps"]))
        and offer["addressees"] == sorted(header["wraps"])
        and offer["not_before"] - 300 <= NOW <= offer["expires"] + 300
    )
