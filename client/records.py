"""A site's own records: read, and split once for the life of the site."""

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from client.home import Home
from not_core import atomic, canonical
from not_core.canonical import STRICT, Digest
from not_core.learning.guard import around
from not_core.learning.records import (
    Split,
    UnitSplit,
    read_records,
    read_units,
    split,
    split_units,
    text_digest,
)

SPLIT_SEED = 0
KEPT = "split.json"
PART = "split-private.json"


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class _Kept:
    """Digests of documents by side; a document never changes sides."""

    held_out: tuple[Digest, ...]
    train: tuple[Digest, ...]


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class _Part:
    """Part of the units that is held out; it never changes, so no unit changes sides."""

    part: Annotated[float, Field(gt=0, le=0.5)]


def own_split(site: Home) -> Split:
    """The site's documents to train on and to measure on, where no privacy is promised.

    The sides are kept in the home: what was held out once is held out in every exchange, and what
    may have been trained on is never measured on, whatever records come or go.
    """
    parts, kept, now = _parted(site)
    if now != kept:
        atomic.write(site.place(KEPT), canonical.encode(now), mode=0o600)
    return parts


def _parted(site: Home) -> tuple[Split, _Kept, _Kept]:
    """The documents by side as they would be now, and what is and would be kept of that."""
    texts = read_records(Path(site.settings.records), site.settings.text_field)
    place = site.folder / KEPT
    kept = _Kept(held_out=(), train=())
    if place.is_file():
        kept = canonical.decode(_Kept, place.read_bytes(), KEPT, limit=2**30)
    parts = split(
        texts,
        site.settings.held_out,
        SPLIT_SEED,
        always=frozenset(kept.held_out),
        never=frozenset(kept.train),
    )
    now = _Kept(
        held_out=_merged(kept.held_out, parts.held_out), train=_merged(kept.train, parts.train)
    )
    return parts, kept, now


def _merged(kept: tuple[str, ...], texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted({*kept, *map(text_digest, texts)}))


def own_units(site: Home) -> UnitSplit:
    """The site's units to train on with differential privacy, and documents to measure on.

    A unit's side follows from itself and from the part that is held out, which is chosen when units
    are first counted and kept in the home.
    """
    parts, part = _parted_units(site)
    place = site.place(PART)
    if not place.is_file():
        atomic.write(place, canonical.encode(part), mode=0o600)
    return parts


def _parted_units(site: Home) -> tuple[UnitSplit, _Part]:
    settings, place = site.settings, site.folder / PART
    units = read_units(Path(settings.records), settings.text_field, settings.unit_field or None)
    if place.is_file():
        part = canonical.decode(_Part, place.read_bytes(), PART)
    else:
        part = _Part(part=min(0.5, settings.held_out / around(len(units))))
    return split_units(units, part.part, SPLIT_SEED), part


def sides(site: Home) -> tuple[int, int]:
    """How many documents or units there are to train on, and documents to measure on.

    As the next exchange would find them; nothing is kept of it.
    """
    parts = _parted(site)[0] if site.unit is None else _parted_units(site)[0]
    return len(parts.train), len(parts.held_out)


def held_out_texts(site: Home) -> tuple[str, ...]:
    """The site's documents to measure on."""
    return (own_split(site) if site.unit is None else own_units(site)).held_out


def general_texts(site: Home) -> tuple[str, ...]:
    """Public general text, to measure forgetting."""
    return read_records(Path(site.settings.general))
