"""A whole exchange on one machine: the very apps of client and server under Flower's simulation.

Every site gets a home folder of its own, outside the checkout; what the sites share in reality, the
federation's root and nothing else, they share here.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from client import home as site_home
from client.policy import Policy
from not_core import atomic, canonical
from not_core.errors import HomeError, OutputExistsError
from not_core.protocol import Terms
from not_core.surgery.checkpoint import open_checkpoint
from not_core.surgery.plan import Mode
from not_core.trust import authority, keys
from not_core.trust.federation import Trust, load_trust
from not_core.trust.profile import read_request
from server import home as coordinator_home
from server.asked import Asked
from server.exchange import Settings
from server.progress import Event
from simulations.federation.marks import plant
from simulations.federation.sites import Federation, SiteSpec, materialise
from simulations.material import domains
from simulations.material.sources import Report, quiet

READY = "simulation.json"
MARKS = "marks.txt"
GENERAL_DOCUMENTS = 12
OPEN = Policy(release_organs="always")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One simulated exchange.

    Attributes:
        federation: Its sites and what they hold.
        model: Where the common base model lies.
        terms: What donors train.
        mode: How recipients put organs in.
        homes: Folder for all homes; private, outside the checkout.
        donors: Policy of the sites that donate; nobody sits beside a simulated site, so organs
            leave unasked.
        marks: Marked sentences to plant in private records.
        keep_messages: Whether the coordinator keeps every reply as it came.
        threads: CPU threads a site.
        parallel: Sites at work at one time.
    """

    federation: Federation
    model: str
    terms: Terms
    mode: Mode
    homes: Path
    donors: Policy = OPEN
    marks: int = 0
    keep_messages: bool = False
    threads: int = 1
    parallel: int = 2

    def home(self, site: str) -> Path:
        """Home folder of a site."""
        return self.homes / "sites" / site

    @property
    def coordinator(self) -> Path:
        """Home folder of the coordinator."""
        return self.homes / "coordinator"

    @property
    def asked(self) -> Asked:
        """What the coordinator is asked for."""
        name, sites = self.federation.exchange, len(self.federation.sites)
        return Asked.of(self.terms, exchange=name, sites=sites, mode=self.mode)

    @property
    def fingerprint(self) -> str:
        """Digest of what decides the outcome; homes made for another scenario are not resumed."""
        base = open_checkpoint(self.model)
        return canonical.digest(
            {
                "sites": [
                    {key: str(value) for key, value in asdict(site).items()}
                    | {"content": _content_digest(site.records)}
                    for site in self.federation.sites
                ],
                "seed": self.federation.seed,
                "model": [base.weights_digest, base.tokenizer_digest],
                "terms": asdict(self.terms),
                "mode": self.mode,
                "threads": self.threads,
                "donors": asdict(self.donors),
                "marks": self.marks,
                "keep_messages": self.keep_messages,
            }
        )


def _content_digest(records: object) -> list[str]:
    """Digests of a site's own files; a built-in domain is pinned by its package."""
    if not isinstance(records, Path):
        return []
    files = [records] if records.is_file() else sorted(p for p in records.rglob("*") if p.is_file())
    return [canonical.sha256_file(path) for path in files]


def default_homes(out: Path) -> Path:
    """Where the homes of an exchange reported in ``out`` lie: in the user's cache."""
    from not_core.cache import cache_home

    name = canonical.sha256(str(out.resolve()).encode())[:12]
    return cache_home() / "homes" / f"{out.name}-{name}"


def remove(homes: Path) -> None:
    """Remove the homes of an earlier simulation, and nothing else.

    Raises:
        HomeError: ``homes`` is a folder that no simulation made.
    """
    if homes.exists():
        check_made(homes)
        shutil.rmtree(homes)
    for left in homes.parent.glob(f".{homes.name}.*.partial"):  # of a run that died in setting up
        shutil.rmtree(left)


def check_made(homes: Path) -> None:
    """Check that a folder holds the homes of a simulation.

    Raises:
        HomeError: It does not.
    """
    if not (homes / READY).is_file():
        raise HomeError(f"{homes} was not made by organ-simulate exchange; nothing was touched")


def prepare(scenario: Scenario, report: Report = quiet) -> bool:
    """Make federation, coordinator and sites with their records, or find them made.

    Returns:
        Whether an earlier run of this scenario is being resumed.

    Raises:
        OutputExistsError: The homes belong to another scenario.
        RecordsError: A site's records are missing or too few.
        SourceError: Text cannot be fetched.
    """
    ready = scenario.homes / READY
    if ready.is_file():
        kept = canonical.plain(ready.read_bytes(), READY)
        if kept != {"scenario": scenario.fingerprint}:
            raise OutputExistsError(
                f"{scenario.homes} holds another exchange; add --fresh to remove it, "
                "or choose another --out"
            )
        return True
    with atomic.folder(scenario.homes, mode=0o700) as work:
        # Paths inside the homes are those after the rename.
        records = materialise(scenario.federation, work / "private", report)
        marks = plant(scenario.federation, records, scenario.marks)
        (work / MARKS).write_text("".join(f"{mark}\n" for mark in marks), encoding="utf-8")
        general = domains.general(report)[:GENERAL_DOCUMENTS]
        domains.write_site_records("general", general, work / "public")
        authority.create_root(work / "federation", scenario.federation.exchange)
        trust = load_trust(work / "federation")
        coordinator_home.create(work / "coordinator", work / "federation")
        for site in scenario.federation.sites:
            path = records[site.name]
            if path.is_relative_to(work):
                path = scenario.homes / path.relative_to(work)
            _make_site(scenario, site, path, work, trust)
        (work / READY).write_text(json.dumps({"scenario": scenario.fingerprint}), encoding="utf-8")
    return False


def _make_site(scenario: Scenario, site: SiteSpec, records: Path, work: Path, trust: Trust) -> None:
    home = work / "sites" / site.name
    settings = site_home.Settings(
        site=site.name,
        model=str(Path(scenario.model).resolve())
        if Path(scenario.model).exists()
        else scenario.model,
        records=str(records.resolve()),
        general=str(scenario.homes / "public" / "general" / "records.jsonl"),
        domain=site.domain,
        text_field=site.text_field,
        donates=site.donates,
        organ_name=site.organ_name,
        licence=site.licence,
        held_out=site.held_out,
        threads=scenario.threads,
    )
    site_home.create(home, settings, scenario.donors if site.donates else OPEN)
    request = read_request(home / site_home.IDENTITY / keys.REQUEST)
    profile = authority.admit(work / "federation", request)
    keys.install(home / site_home.IDENTITY, profile, trust)


def run(scenario: Scenario, notify: Callable[[Event], None] = lambda event: None) -> None:
    """Run the exchange on Flower's simulation engine.

    Raises:
        ExchangeError: It could not be carried out.
    """
    from flwr.app import Context

    from client.app import site_app
    from server.app import coordinator_app
    from simulations.federation.engine import play

    homes = [str(scenario.home(site.name)) for site in scenario.federation.sites]

    def find_home(context: Context) -> Path:
        return Path(homes[int(str(context.node_config["partition-id"]))])

    settings = Settings(asked=scenario.asked, keep_messages=scenario.keep_messages)
    with coordinator_home.opened(scenario.coordinator) as coordinator:
        play(
            coordinator_app(lambda context: (coordinator, settings), notify),
            site_app(find_home),
            len(homes),
            threads=scenario.threads,
            parallel=scenario.parallel,
        )
