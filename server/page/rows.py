"""What the coordinator's page shows, as values: the HTML shows them, ``/api`` hands them out."""

from dataclasses import dataclass
from typing import Literal

from not_core.protocol import Receipt
from not_core.trust.offer import Offer
from server.catalogue import Happened
from server.page.evidence import Link
from server.page.paging import Part
from server.schedule import RUNNING, SCHEDULED, UNFINISHED

Privacy = Literal["any", "stated", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OrganRow:
    """A sealed organ as its donor offers it; nobody here has seen the inside.

    Attributes:
        exchange: Where it was last offered.
        exchanges: All of them.
        organ: Its digest.
        id: Donor and name.
        version: Of that organ.
        donor: Who gave it.
        domain: What it was trained on, in the donor's words.
        family: Of the base.
        base: Digest of the base's weights.
        span: Layers.
        privacy: What the donor states.
        sealed_bytes: Size of the sealed file.
        tokens: It was trained on.
        steps: It was trained for.
        stored: Whether its sealed bytes are in the bank.
        accepted: Other sites that keep it.
        tried: Other sites that tried it.
    """

    exchange: str
    exchanges: tuple[str, ...]
    organ: str
    id: str
    version: int
    donor: str
    domain: str
    family: str
    base: str
    span: str
    privacy: str
    sealed_bytes: int
    tokens: int
    steps: int
    stored: bool
    accepted: int
    tried: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OrganPage:
    """A sealed organ, why its offer is to be believed, and what became of it."""

    row: OrganRow
    offer: Offer
    addressees: list[str]
    links: list[Link]
    receipts: list[Receipt]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptPage:
    """A receipt, and why it is to be believed."""

    receipt: Receipt
    links: list[Link]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeRow:
    """An exchange and how far it is.

    Attributes:
        name: Its name.
        state: ``scheduled``, ``running``, ``cancelling``, or how it ended; ``recorded`` for one
            that was carried out by a simulation.
        terms: What donors train, in words; empty where nobody here asked for it.
        runs: How often it was started.
        since: When the latest run began; 0 where none has.
        asked: Sites that are waited for.
        sites: Sites that take part.
        donors: Those that give organs.
        organs: That were offered.
        stored: Of them, in the bank.
        trials: Receipts that are expected: all organs that were offered, at all sites.
        receipts: Of them, those that are there.
        accepted: Receipts of other sites' organs that say so.
        witnesses: Sites that have signed the log at the end.
        done: How much of it is done, from 0 to 1.
    """

    name: str
    state: str
    terms: str
    runs: int
    since: float
    asked: int
    sites: int
    donors: int
    organs: int
    stored: int
    trials: int
    receipts: int
    accepted: int
    witnesses: int
    done: float

    @property
    def runs_now(self) -> bool:
        """Whether it may still change."""
        return self.cancellable or self.state in UNFINISHED

    @property
    def cancellable(self) -> bool:
        """Whether it can be cancelled."""
        return self.state in (RUNNING, SCHEDULED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One organ at one recipient.

    Attributes:
        receipt: What came of it; None where it went wrong.
        code: Of what went wrong last; empty where there is a receipt.
        tint: ``better-0`` to ``better-8``, or ``worse-1`` to ``worse-8``; empty without a receipt.
    """

    receipt: Receipt | None
    code: str
    tint: str

    @property
    def own(self) -> bool:
        """Whether the donor tried its own organ."""
        return self.receipt is not None and self.receipt.donor == self.receipt.recipient


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixRow:
    """One organ at all recipients, in the order of the matrix; None where it was not tried."""

    organ: OrganRow
    cells: list[Cell | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangePage:
    """An exchange: who takes part, what was found, what happened last.

    Attributes:
        row: How far it is.
        recipients: Columns of the matrix.
        matrix: Rows of this page.
        part: Which of all organs they are.
        events: The latest, newest first.
        happened: How many there are.
    """

    row: ExchangeRow
    recipients: list[str]
    matrix: list[MatrixRow]
    part: Part
    events: list[Happened]
    happened: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BankPage:
    """Organs of the bank.

    Attributes:
        rows: Organs of this page.
        part: Which of those that were looked for they are.
        found: How many these are.
        all: How many there are.
        bases: Family of the bases of all organs, by digest of their weights.
        donors: Of all organs.
    """

    rows: list[OrganRow]
    part: Part
    found: int
    all: int
    bases: dict[str, str]
    donors: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteRow:
    """A site that is known here.

    Attributes:
        site: Its name.
        domain: What its records are about, in its words.
        family: Of its model.
        donates: Whether it gives organs.
        exchanges: In which it took part.
        seen: When it was last heard of, in seconds since the epoch; None where never.
        node: Whether a node of it is let in.
        vouched: Whether the federation vouches for it at this moment, and why not.
    """

    site: str
    domain: str
    family: str
    donates: bool
    exchanges: list[str]
    seen: float | None
    node: bool
    vouched: Link


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which organs are looked for; what is empty does not matter."""

    words: str = ""
    base: str = ""
    donor: str = ""
    privacy: Privacy = "any"

    def matches(self, row: OrganRow) -> bool:
        """Whether an organ is one of them."""
        text = f"{row.id} {row.domain}".lower()
        stated = row.privacy != "none"
        return (
            all(word in text for word in self.words.lower().split())
            and self.base in ("", row.base)
            and self.donor in ("", row.donor)
            and (self.privacy == "any" or stated == (self.privacy == "stated"))
        )
