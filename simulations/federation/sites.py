"""The federation that a simulation plays: its sites, and which records each of them holds."""

import random
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from not_core.errors import FormatError, RecordsError
from simulations.material.domains import BUILTIN, Record, write_site_records
from simulations.material.sources import Report, quiet

DEMO = Path(__file__).parent / "demo_sites.toml"
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
LINE = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
SUFFIXES = (".jsonl", ".csv", ".parquet", ".txt")
UNSTATED = "not stated"

Share = int | float | Literal["rest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Builtin:
    """Part of a built-in domain: a number of documents, a fraction of them, or all that is left."""

    domain: str
    share: Share


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteSpec:
    """One institution: its label, whether it donates, and where its records come from."""

    name: str
    domain: str
    donates: bool
    records: Builtin | Path
    text_field: str
    held_out: int
    organ_name: str
    licence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation:
    """Everything that decides who holds what; ``seed`` decides which built-in documents."""

    exchange: str
    seed: int
    sites: tuple[SiteSpec, ...]

    @property
    def donors(self) -> tuple[SiteSpec, ...]:
        """The sites that donate an organ."""
        return tuple(site for site in self.sites if site.donates)


def load_sites(path: Path | None, data: Path | None, seed: int) -> Federation:
    """Read a federation from TOML.

    Args:
        path: The file; None for the demo's.
        data: Folder whose entries take the place of sites' ``records``: each is a folder or a
            JSONL, CSV, Parquet or text file named after a site. Sites without an entry keep
            what the file says.
        seed: Decides which built-in documents go to which site.

    Raises:
        FormatError: Not TOML, an unknown or missing key, a value of the wrong form, a name twice,
            fewer than two sites, or no donor.
        RecordsError: Records of a site are missing, or ``data`` has an entry that fits no site.
    """
    source = DEMO if path is None else path
    try:
        table = tomllib.loads(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecordsError(
            f"cannot read {source}: {error.strerror}; give the path of a sites file"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"{source} is not toml: {error}; correct it there") from error

    where = source.name
    _keys(table, {"exchange", "site"}, where)
    rows = table.get("site", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise FormatError(f"{where} has no list of sites; write each under [[site]]")
    given = {} if data is None else _entries(data)
    sites = tuple(_site(row, number, source, given) for number, row in enumerate(rows, start=1))
    names = [site.name for site in sites]
    for name in names:
        if names.count(name) > 1:
            raise FormatError(f"{where} has more than one site {name!r}; give each its own name")
    if unknown := sorted(given.keys() - set(names)):
        raise RecordsError(
            f"{data} holds {unknown[0]!r}, expected only names of sites: {', '.join(names)}; "
            "rename it or add the site to a sites file"
        )
    if len(sites) < 2:
        raise FormatError(f"{where} has {len(sites)} sites, expected two or more to exchange")
    if not any(site.donates for site in sites):
        raise FormatError(f"{where} has no donor; set donates = true for one site or more")
    _one_rest(sites, where)
    exchange = _text(table, "exchange", where, "simulation", NAME)
    return Federation(exchange=exchange, seed=seed, sites=sites)


def materialise(federation: Federation, out: Path, report: Report = quiet) -> dict[str, Path]:
    """Write each built-in site's records under ``out`` and say where every site's records are.

    Args:
        federation: Of ``load_sites``.
        out: Folder that gets one folder a built-in site; files there are replaced.
        report: Told what is being fetched.

    Returns:
        Path of the records by site, in the order of the sites. Records that a site brought itself
        are neither copied nor read.

    Raises:
        RecordsError: A domain has fewer documents than its sites ask for.
        SourceError: A package cannot be fetched.
    """
    shared: dict[str, list[SiteSpec]] = {}
    for site in federation.sites:
        if isinstance(site.records, Builtin):
            shared.setdefault(site.records.domain, []).append(site)
    paths: dict[str, Path] = {}
    for domain, sites in shared.items():
        shares = {
            site.name: site.records.share for site in sites if isinstance(site.records, Builtin)
        }
        parts = divide(BUILTIN[domain](report), shares, f"{federation.seed}:{domain}")
        for name, records in parts.items():
            paths[name] = write_site_records(name, records, out)
    for site in federation.sites:
        if isinstance(site.records, Path):
            paths[site.name] = site.records
    return {site.name: paths[site.name] for site in federation.sites}


def divide(
    records: Sequence[Record], shares: Mapping[str, Share], seed: str
) -> dict[str, list[Record]]:
    """Deal records out to sites so that no group of near-duplicates is at two of them.

    Args:
        records: One domain's.
        shares: What each site gets: documents (int), fraction of all documents (float), or
            ``"rest"``, which at most one site may have.
        seed: The same seed deals the same records.

    Returns:
        Records by site, shuffled. A group that would overfill a share is passed over.

    Raises:
        RecordsError: Too few documents for a share, or none left for the rest.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.group, []).append(record)
    order = sorted(groups)
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    chance.shuffle(order)

    parts: dict[str, list[Record]] = {}
    for name, share in shares.items():
        if share == "rest":
            continue
        wanted = share if isinstance(share, int) else round(float(share) * len(records))
        part: list[Record] = []
        for group in list(order):
            if len(part) + len(groups[group]) <= wanted:
                part += groups[group]
                order.remove(group)
            if len(part) == wanted:
                break
        if not part or len(part) < wanted:
            raise RecordsError(
                f"site {name!r} asks for {wanted} of {len(records)} documents and {len(part)} "
                "were left for it; make the shares of this domain smaller, or larger than 0"
            )
        parts[name] = part
    for name, share in shares.items():
        if share == "rest":
            parts[name] = [record for group in order for record in groups[group]]
            if not parts[name]:
                raise RecordsError(f"no documents are left for site {name!r}; lower the others")
    for part in parts.values():
        chance.shuffle(part)  # near-duplicates should not stand in a row
    return parts


def _site(row: Mapping[str, Any], number: int, source: Path, given: Mapping[str, Path]) -> SiteSpec:
    where = f"site {number} of {source.name}"
    name = _text(row, "name", where, None, NAME)
    where = f"site {name!r} of {source.name}"
    fields = set(SiteSpec.__dataclass_fields__)
    _keys(row, fields, where)
    donates = row.get("donates", False)
    if not isinstance(donates, bool):
        raise FormatError(f"{where} has donates = {donates!r}, expected true or false")
    held_out = row.get("held_out", 20)
    if not _is_int(held_out) or held_out < 1:
        raise FormatError(f"{where} has held_out = {held_out!r}, expected a number of 1 or more")
    site = SiteSpec(
        name=name,
        domain=_text(row, "domain", where, None, LINE),
        donates=donates,
        records=Path() if name in given else _records(row.get("records"), where, source),
        text_field=_text(row, "text_field", where, "text", LINE),
        held_out=held_out,
        organ_name=_text(row, "organ_name", where, name, NAME),
        licence=_text(row, "licence", where, UNSTATED, LINE),
    )
    if name not in given:
        return site
    if isinstance(row.get("records"), dict):  # the licence in the file was the built-in text's
        site = replace(site, licence=UNSTATED)
    return replace(site, records=given[name])


def _records(value: Any, where: str, source: Path) -> Builtin | Path:
    if value is None:
        raise RecordsError(f"{where} has no records; set records, or give a data folder")
    if isinstance(value, str):
        path = (source.parent / Path(value).expanduser()).absolute()
        if not path.exists():
            raise RecordsError(
                f"{where} has its records at {path}, which does not exist; correct the path"
            )
        return path
    if not isinstance(value, dict):
        raise FormatError(f"{where} has records = {value!r}, expected a path or a builtin table")
    _keys(value, {"builtin", "share"}, f"records of {where}")
    domain, share = value.get("builtin"), value.get("share", "rest")
    if not isinstance(domain, str) or domain not in BUILTIN:
        raise FormatError(
            f"{where} asks for the domain {domain!r}; built in are {', '.join(BUILTIN)}"
        )
    whole = _is_int(share) and share >= 1
    if not (share == "rest" or whole or (isinstance(share, float) and 0 < share <= 1)):
        raise FormatError(
            f"{where} has share = {share!r}, expected a number of documents, a fraction above 0.0 "
            'up to 1.0, or "rest"'
        )
    return Builtin(domain=domain, share=share)


def _entries(data: Path) -> dict[str, Path]:
    """What a data folder holds, by name without suffix; hidden and foreign files do not count."""
    if not data.is_dir():
        raise RecordsError(f"{data} is not a folder; give one with an entry named after each site")
    found: dict[str, Path] = {}
    for entry in sorted(data.absolute().iterdir()):
        if entry.name.startswith(".") or not (entry.is_dir() or entry.suffix in SUFFIXES):
            continue
        name = entry.name if entry.is_dir() else entry.stem
        if name in found:
            raise RecordsError(
                f"{data} holds both {found[name].name} and {entry.name}; keep one of them"
            )
        found[name] = entry
    if not found:
        raise RecordsError(
            f"{data} holds no records; expected folders or {', '.join(SUFFIXES)} files named "
            "after the sites"
        )
    return found


def _one_rest(sites: Iterable[SiteSpec], where: str) -> None:
    seen: dict[str, str] = {}
    for site in sites:
        if isinstance(site.records, Builtin) and site.records.share == "rest":
            domain = site.records.domain
            if domain in seen:
                raise FormatError(
                    f"{where} gives the rest of {domain} to both {seen[domain]!r} and "
                    f"{site.name!r}; give one of them a number of documents"
                )
            seen[domain] = site.name


def _keys(table: Mapping[str, Any], known: set[str], where: str) -> None:
    if unknown := sorted(table.keys() - known):
        raise FormatError(
            f"{where} has the unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}"
        )


def _text(
    table: Mapping[str, Any], key: str, where: str, default: str | None, form: re.Pattern[str]
) -> str:
    value = table.get(key, default)
    if value is None:
        raise FormatError(f"{where} has no {key}; add it")
    if not isinstance(value, str) or not form.fullmatch(value):
        kind = (
            "lower-case letters, digits and inner hyphens, at most 63"
            if form is NAME
            else "one line of 1 to 200 characters"
        )
        raise FormatError(f"{where} has {key} = {value!r}, expected {kind}")
    return value


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
