"""What all vectors are made of: a tiny federation, an organ, and what a vector is."""

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

from second.federation import DAY, NOW, Leaf, Root, pem, site
from second.primitives import canonical, sha256
from second.sealed import FILES, Draft, Files, signed_folder, tar

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
        given: dict[str, Any] = {"donor": self.north, "to": [self.south.sealing]} | changes
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


def stray(text: str) -> str:
    """Base64 of the same bytes with other bits where nothing is decoded."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    core = text.rstrip("=")
    if core == text:
        return text[:-1]  # nothing to pad: cut it short instead
    return core[:-1] + alphabet[alphabet.index(core[-1]) + 1] + text[len(core) :]


REASONS = (
    "key_compromise",
    "privilege_withdrawn",
    "affiliation_changed",
    "superseded",
    "cessation_of_operation",
    "unspecified",
)


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
