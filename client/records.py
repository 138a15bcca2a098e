"""A site's own records: read, and split once for the life of the site."""

from pathlib import Path

from pydantic.dataclasses import dataclass

from client.home import Site
from not_core import atomic, canonical
from not_core.canonical import STRICT, Digest
from not_core.learning.records import Split, read_records, split, text_digest

SPLIT_SEED = 0
KEPT = "split.json"


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class _Kept:
    """Digests of documents by side; a document never changes sides."""

    held_out: tuple[Digest, ...]
    train: tuple[Digest, ...]


def own_split(site: Site) -> Split:
    """The site's documents to train on and to measure on.

    The sides are kept in the home: what was held out once is held out in every exchange, and what
    may have been trained on is never measured on, whatever records come or go.
    """
    texts = read_records(Path(site.settings.records), site.settings.text_field)
    place = site.place(KEPT)
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
    if now != kept:
        atomic.write(place, canonical.encode(now), mode=0o600)
    return parts


def _merged(kept: tuple[str, ...], texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted({*kept, *map(text_digest, texts)}))


def general_texts(site: Site) -> tuple[str, ...]:
    """Public general text, to measure forgetting."""
    return read_records(Path(site.settings.general))
