"""Marked sentences planted in private records, to be searched for where they must not be."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from not_core import atomic, canonical
from not_core.errors import RecordsError
from simulations.federation.sites import Builtin, Federation


def plant(federation: Federation, records: Mapping[str, Path], count: int) -> tuple[str, ...]:
    """Append ``count`` marked sentences to records, a record each, over all sites in turn.

    Args:
        federation: Only built-in records can be marked: nobody's own files are changed.
        records: JSON lines of each site, as ``materialise`` wrote them.
        count: Number of sentences, at most one a record.

    Raises:
        RecordsError: A site brought its own records, or there are too few records.
    """
    own = [site.name for site in federation.sites if not isinstance(site.records, Builtin)]
    if count and own:
        raise RecordsError(
            f"{own[0]} brought its own records, which are never changed; "
            "plant sentences in built-in records only"
        )
    marks = tuple(_sentence(federation.seed, number) for number in range(count))
    sites = list(records)
    for place, name in enumerate(sites):
        mine = marks[place :: len(sites)]
        lines = records[name].read_text(encoding="utf-8").splitlines()
        if len(mine) > len(lines):
            raise RecordsError(
                f"{name} has {len(lines)} records, {len(mine)} are to be marked; plant fewer marks"
            )
        rows = [canonical.plain(line.encode(), "record") for line in lines]
        for row, mark in zip(rows, mine, strict=False):
            row["text"] += f"\n{mark}"
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        atomic.write(records[name], data.encode(), mode=0o600)
    return marks


def _sentence(seed: int, number: int) -> str:
    word = hashlib.sha256(f"mark {seed} {number}".encode()).hexdigest()
    return f"Marked sentence {number} is {word[:16]} and {word[16:32]}."
