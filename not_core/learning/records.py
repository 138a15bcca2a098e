"""Private records: read from the operator's files, de-duplicated and split by document.

Records stay in memory. They are read as a stream, because the data-set library would otherwise
leave an unencrypted copy of them in its cache in the user's home. No message quotes a record.
"""

import glob
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from not_core import canonical
from not_core.errors import RecordsError
from not_core.learning.near_duplicates import groups

KINDS = {
    ".jsonl": "json",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
}


@dataclass(frozen=True, slots=True)
class Split:
    """Documents to train on and documents to measure on; near-duplicates share a side."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unit:
    """All that differential privacy hides the presence of: a record, or all those of a subject.

    Attributes:
        key: Digest of the record, or of the subject's name.
        texts: Of its records, without exact duplicates; one, if it is a record.
    """

    key: str
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UnitSplit:
    """Units to train on, and documents of the others to measure on."""

    train: tuple[Unit, ...]
    held_out: tuple[str, ...]


def read_records(source: Path, text_field: str = "text") -> tuple[str, ...]:
    """Read the text of every record, in order, without exact duplicates and empty texts.

    Args:
        source: A JSONL, CSV or Parquet file, a text file (one document), or a folder of any one of
            these kinds.
        text_field: Field that holds the text; ignored for text files.

    Raises:
        RecordsError: Nothing there, unreadable, no such field, or no text in it.
    """
    return tuple(dict.fromkeys(text for text, _ in _read(source, text_field, None)))


def read_units(
    source: Path, text_field: str = "text", unit_field: str | None = None
) -> tuple[Unit, ...]:
    """Read records as the units of differential privacy.

    Args:
        source: As for ``read_records``.
        text_field: Field that holds the text; ignored for text files.
        unit_field: Field that names whom a record is about; None makes each record a unit.

    Raises:
        RecordsError: As for ``read_records``; or a record names nobody.
    """
    if unit_field is None:
        return record_units(read_records(source, text_field))
    subjects: dict[str, dict[str, None]] = {}
    for text, subject in _read(source, text_field, unit_field):
        subjects.setdefault(canonical.digest({"subject": subject}), {})[text] = None
    return tuple(Unit(key, tuple(texts)) for key, texts in subjects.items())


def record_units(texts: Iterable[str]) -> tuple[Unit, ...]:
    """Each text as a unit."""
    return tuple(Unit(text_digest(text), (text,)) for text in texts)


def _read(source: Path, text_field: str, unit_field: str | None) -> list[tuple[str, str]]:
    """Text and subject of every record that has text; the subject is empty without its field."""
    files, kind = _files(source)
    if kind == "text" and unit_field is not None:
        raise RecordsError("text files have no field that names a subject; bring a table or JSONL")
    found: list[tuple[str, str]] = []
    number = 0
    try:
        for number, row in enumerate(_rows(files, kind), start=1):
            where = f"record {number} of {source}"
            text = _value(row, "text" if kind == "text" else text_field, where)
            if text is not None and not isinstance(text, str):
                raise RecordsError(
                    f"field {text_field!r} of {where} is {type(text).__name__}, expected text"
                )
            subject = "" if unit_field is None else _value(row, unit_field, where)
            if not isinstance(subject, str | int) or (unit_field and str(subject).strip() == ""):
                raise RecordsError(
                    f"field {unit_field!r} of {where} names nobody; every record needs the "
                    "subject that it is about, as text or a whole number"
                )
            if text and text.strip():
                found.append((text.strip(), str(subject).strip()))
    except (RecordsError, ImportError):
        raise
    except Exception as error:  # the library raises whatever its parsers raise, quoting rows
        raise RecordsError(
            f"{source} cannot be read as {kind} ({type(error).__name__} after {number} records); "
            "check that every line or row is well formed"
        ) from None
    if not found:
        raise RecordsError(f"{source} holds no text; expected at least one record with text")
    return found


def _value(row: dict[str, Any], field: str, where: str) -> Any:
    if field not in row:
        # Names of fields are not quoted: a table without a header has data there.
        raise RecordsError(
            f"{where} has no field {field!r} among its {len(row)}; "
            "name the field that holds the text, or the subject"
        )
    return row[field]


def split(
    texts: Sequence[str],
    held_out: int,
    seed: int,
    *,
    always: frozenset[str] = frozenset(),
    never: frozenset[str] = frozenset(),
) -> Split:
    """Split documents: ``held_out`` of them, or a few more, to measure on; the rest to train on.

    Near-duplicates are put on one side. The order is by a keyed digest, so it does not depend on
    the order of the file.

    Args:
        texts: Documents without exact duplicates.
        held_out: Least number of documents to hold out, at least 1.
        seed: Chooses the split.
        always: Digests (``text_digest``) of documents held out before: held out again, with their
            near-duplicates.
        never: Digests of documents that may have been trained on: not held out, unless a
            near-duplicate must be.

    Raises:
        RecordsError: Fewer documents than are to be held out.
    """
    if held_out < 1:
        raise ValueError(f"expected held_out >= 1, got {held_out}")
    if len(texts) < held_out:
        raise RecordsError(
            f"{len(texts)} documents, {held_out} are to be held out; "
            "hold out fewer or bring more records"
        )
    order = sorted(range(len(texts)), key=lambda i: _keyed(seed, texts[i]))
    group = groups(texts)
    members: dict[int, list[int]] = {}
    for i in order:
        members.setdefault(group[i], []).append(i)
    digests = [text_digest(text) for text in texts]
    away = {
        i
        for relatives in members.values()
        if any(digests[j] in always for j in relatives)
        for i in relatives
    }
    # Singletons first: a large group of near-duplicates is one opinion, not many.
    by_size = sorted(
        (one for one in members.values() if not any(digests[j] in never for j in one)), key=len
    )
    for relatives in by_size:
        if len(away) >= held_out:
            break
        away.update(relatives)
    return Split(
        train=tuple(texts[i] for i in order if i not in away),
        held_out=tuple(texts[i] for i in order if i in away),
    )


def split_part(texts: Sequence[str], part: float, seed: int) -> Split:
    """Hold out about a part of the documents; 0 holds out none.

    Raises:
        RecordsError: Nothing would be left on one side.
    """
    if not part:
        return Split(train=tuple(texts), held_out=())
    found = split(texts, max(1, round(part * len(texts))), seed)
    if not found.train:
        raise RecordsError(
            f"of {len(texts)} documents none is left to train on; "
            "keep back a smaller part or bring more records"
        )
    return found


def split_units(units: Sequence[Unit], part: float, seed: int) -> UnitSplit:
    """Split units so that the side of each depends on itself alone, as differential privacy needs.

    Near-duplicates may be on both sides: leaving them out on either would let one unit decide over
    others, which is seen in what is measured. So what a site measures of its own organ may be
    flattered by them; of another site's it is not.

    Args:
        units: With different keys.
        part: About this part of the units is held out; it must not follow from the units
            themselves, or one more of them may move others.
        seed: Chooses the split.
    """
    sides: tuple[list[Unit], list[Unit]] = ([], [])
    for unit in units:
        chance = int.from_bytes(_keyed(seed, unit.key)[:8], "big") / 2**64
        sides[chance < part].append(unit)
    measured = {text for unit in sides[1] for text in unit.texts}
    return UnitSplit(
        train=tuple(sides[0]),
        held_out=tuple(sorted(measured, key=lambda text: _keyed(seed, text))),
    )


def text_digest(text: str) -> str:
    """What a document is remembered by."""
    return canonical.sha256(text.encode())


def _keyed(seed: int, text: str) -> bytes:
    return hashlib.blake2b(text.encode(), key=seed.to_bytes(8, "big")).digest()


def _files(source: Path) -> tuple[list[Path], str]:
    if source.is_file():
        found = [source]
    elif source.is_dir():
        found = sorted(path for path in source.iterdir() if path.suffix in KINDS)
    else:
        raise RecordsError(f"no file or folder {source}; give the place of the private records")
    kinds = {KINDS.get(path.suffix) for path in found}
    if len(kinds) != 1 or None in kinds:
        raise RecordsError(
            f"{source} holds {'several kinds' if kinds else 'none'} of the files expected: "
            f"{', '.join(sorted(KINDS))}; give a folder of one kind"
        )
    if all(path.stat().st_size == 0 for path in found):
        raise RecordsError(f"{source} is empty; expected at least one record")
    return found, str(kinds.pop())


def _rows(files: Sequence[Path], kind: str) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset

    options = {"sample_by": "document"} if kind == "text" else {}
    yield from load_dataset(
        kind,
        data_files=[glob.escape(str(path.resolve())) for path in files],
        split="train",
        streaming=True,
        **options,
    )
