"""What a site's page shows, as values: the HTML shows them, ``/api`` hands them out."""

from dataclasses import dataclass
from pathlib import Path

from client import donor, inventory, progress, witness
from client.home import IDENTITY, Home, read_home
from client.page.burn_down import Chart, Point, chart, points
from client.progress import Doing
from client.reveals import Revealed, listed
from client.witness import Shown
from not_core.errors import NotError
from not_core.manifest import CARD, TENSORS, Manifest
from not_core.privacy.charge import Reservation
from not_core.privacy.report import AuditReport
from not_core.protocol import Receipt
from not_core.trust.keys import PROFILE
from not_core.trust.log import Entry

MOST_ENTRIES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """An organ that waits for the operator's word."""

    organ: str
    id: str
    version: int
    domain: str
    span: str
    privacy: str
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dossier:
    """All there is to know before an organ is let out.

    Attributes:
        waiting: The organ.
        licence: Of it.
        family: Of the base.
        base: Digest of the base's weights.
        tensors: That it holds.
        form: ``layers`` or ``factors``.
        bytes: Of them.
        steps: Of training.
        learning_rate: Peak.
        seed: Of training.
        audit: What its audit found; None where none was made.
        addressees: Whom the policy names; empty for any member of the federation.
        spent: Epsilon of all organs together, this one included; None without a bound.
        bound: The most that it may become; None without one.
        card: What recipients read first.
    """

    waiting: Waiting
    licence: str
    family: str
    base: str
    tensors: int
    form: str
    bytes: int
    steps: int
    learning_rate: float
    seed: int
    audit: AuditReport | None
    addressees: list[str]
    spent: float | None
    bound: float | None
    card: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A word of the operator's.

    Attributes:
        time: When, in seconds since the epoch.
        event: ``approved`` or ``rejected``.
        organ: Its digest.
        stands: Whether it is the last on an organ that is still here.
    """

    time: int
    event: str
    organ: str
    stands: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The site at this moment.

    Attributes:
        site: Its name.
        admitted: Whether the federation has admitted it.
        asks: Whether organs wait for the operator.
        doing: What it does; None where it is idle.
        waiting: Organs that wait.
        decisions: The latest.
    """

    site: str
    admitted: bool
    asks: bool
    doing: Doing | None
    waiting: list[Waiting]
    decisions: list[Decision]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """The privacy ledger.

    Attributes:
        bound: Most that a unit may be charged; None without differential privacy.
        delta: Where it holds.
        spent: Of all organs together.
        points: What was left after each charge.
        charges: All of them, oldest first.
    """

    bound: float | None
    delta: float | None
    spent: float
    points: list[Point]
    charges: list[Reservation]


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """The log.

    Attributes:
        rows: How many it has.
        head: Hash of the last.
        broken: What is wrong with its chain; empty where it holds.
        shown: What the coordinator showed of its own log; None where it has not yet.
        doubtful: What is wrong with that; empty where nothing is.
        entries: The latest, newest first.
    """

    rows: int
    head: str
    broken: str
    shown: Shown | None
    doubtful: str
    entries: list[Entry]


class Views:
    """Everything the page shows of one site; each look is at what there is by now."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def status(self) -> Status:
        """The site at this moment."""
        site = self.home()
        last = {folder.name for folder in site.store.all_made()}
        decided = []
        for entry in reversed(site.log.entries("organ")):
            if entry.event in ("approved", "rejected"):
                organ, stands = entry.digest, entry.digest in last
                last.discard(organ)
                one = Decision(time=entry.time, event=entry.event, organ=organ, stands=stands)
                decided.append(one)
        return Status(
            site=site.settings.site,
            admitted=(self._folder / IDENTITY / PROFILE).is_file(),
            asks=site.policy.release_organs == "ask",
            doing=self.doing(),
            waiting=[_waiting(manifest) for manifest in donor.pending(site)],
            decisions=decided[:10],
        )

    def doing(self) -> Doing | None:
        """What the site does; None where it is idle."""
        return progress.read(self._folder)

    def dossier(self, organ: str) -> Dossier | None:
        """What there is to know of an organ that waits; None where none does."""
        site = self.home()
        found = {one.digest: one for one in donor.pending(site)}.get(organ)
        if found is None:
            return None
        folder = site.store.made(organ)
        training, bound = found.training, site.policy.bound
        return Dossier(
            waiting=_waiting(found),
            licence=found.licence,
            family=found.base.family,
            base=found.base.weights,
            tensors=len(found.tensors),
            form=found.stored.form,
            bytes=(folder / TENSORS).stat().st_size,
            steps=training.steps if training else 0,
            learning_rate=training.learning_rate if training else 0.0,
            seed=training.seed if training else 0,
            audit=donor.audit(site, found),
            addressees=list(site.policy.addressees),
            spent=site.spent,
            bound=bound.epsilon if bound else None,
            card=(folder / CARD).read_text(encoding="utf-8"),
        )

    def receipts(self) -> list[Receipt]:
        """What this site found of organs that it tried, by exchange."""
        return inventory.receipts(self._folder)

    def spending(self) -> Spending:
        """The privacy ledger."""
        site = self.home()
        bound = site.policy.bound
        if bound is None:
            return Spending(bound=None, delta=None, spent=0.0, points=[], charges=[])
        charges = site.ledger.reservations()
        left = points([one.charge for one in charges], bound)
        return Spending(
            bound=bound.epsilon,
            delta=bound.delta,
            spent=site.spent or 0.0,
            points=left,
            charges=charges,
        )

    def chart(self, spending: Spending) -> Chart | None:
        """The chart of a ledger; None without a bound."""
        bound = self.home().policy.bound
        return chart(spending.points, bound) if bound else None

    def log(self) -> Logged:
        """The log, and whether its chain holds; and the coordinator's, as far as it was shown."""
        home = self.home()
        entries = home.log.entries()
        rows, head, broken, shown = len(entries), "", "", None
        try:
            rows, head = home.log.verify()
        except NotError as error:
            broken = str(error)
        try:
            shown = witness.verify(home)
            doubtful = shown.wrong if shown else ""
        except NotError as error:
            doubtful = str(error)
        return Logged(
            rows=rows,
            head=head,
            broken=broken,
            shown=shown,
            doubtful=doubtful,
            entries=entries[::-1][:MOST_ENTRIES],
        )

    def reveals(self) -> list[Revealed]:
        """Every field that ever leaves."""
        return listed(self.home().policy)

    def home(self) -> Home:
        """The site's home as it is by now."""
        return read_home(self._folder)


def _waiting(manifest: Manifest) -> Waiting:
    return Waiting(
        organ=manifest.digest,
        id=manifest.organ_id,
        version=manifest.version,
        domain=manifest.domain,
        span=str(manifest.span),
        privacy=manifest.privacy.words,
        tokens=manifest.training.tokens if manifest.training else 0,
    )
