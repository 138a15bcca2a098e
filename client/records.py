"""A site's own records: read, and split once for the life of the site."""

from pathlib import Path

from client.home import Site
from not_core.learning.records import Split, read_records, split

SPLIT_SEED = 0
"""Fixed: a document once held out is held out in every exchange, or measurements would lie."""


def own_split(site: Site) -> Split:
    """The site's documents to train on and to measure on."""
    texts = read_records(Path(site.settings.records), site.settings.text_field)
    return split(texts, site.settings.held_out, SPLIT_SEED)


def general_texts(site: Site) -> tuple[str, ...]:
    """Public general text, to measure forgetting."""
    return read_records(Path(site.settings.general))
