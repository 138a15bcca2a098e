"""What the coordinator remembers: sites, offers, receipts and failed steps, in SQL.

Everything here is public within the federation or signed by a site; nothing opens an organ.
"""

import json
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import URL, delete, func, select
from sqlalchemy.orm import Session

from not_core import canonical
from not_core.errors import (
    CatalogueError,
    ExchangeQuotaError,
    OfferError,
    SiteQuotaError,
)
from not_core.protocol import Donation, Enrolment, Receipt
from not_core.trust.offer import Offer
from server import database, log, tables
from server.counts import Counts
from server.log import Log
from server.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Happened:
    """What a site did in an exchange, or failed to do.

    Attributes:
        time: Seconds since the epoch.
        site: The site, or its node where nobody knows yet whose it is.
        step: Such as ``enrol``.
        code: Of what went wrong; empty where nothing did.
        organ: Digest of the organ that it was about; empty where it was about none.
    """

    time: float
    site: str
    step: str
    code: str
    organ: str = ""


@dataclass(frozen=True, slots=True)
class Kept:
    """An organ that was offered in an exchange.

    Attributes:
        organ: Its digest.
        donor: Who gave it.
        donation: What its donor said of it.
        header: What stands before its body; None where that must be fetched anew.
    """

    organ: str
    donor: str
    donation: Donation
    header: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """What the coordinator keeps at most.

    Attributes:
        site_bytes: Of sealed bodies, of one site.
        exchange_organs: Organs of one exchange.
    """

    site_bytes: int
    exchange_organs: int


class Catalogue:
    """The catalogue in a database.

    Args:
        url: Of the database, made or brought up to date by ``database.upgrade``.

    Raises:
        CatalogueError: There is none of this program's version.
    """

    def __init__(self, url: URL) -> None:
        self._engine = database.connect(url)
        try:
            database.check(self._engine)
        except CatalogueError:
            self.close()
            raise

    @property
    def log(self) -> Log:
        """The log of what is written here."""
        return Log(self._engine)

    @property
    def schedule(self) -> Schedule:
        """The exchanges that were asked for."""
        return Schedule(self._engine)

    @property
    def counts(self) -> Counts:
        """What is counted of what is written here."""
        return Counts(self._engine)

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def enrolled(self, exchange: str, *enrolments: Enrolment) -> None:
        """Remember sites; the latest enrolment of one in an exchange is the one that counts."""
        with database.writing(self._engine) as session:
            for one in enrolments:
                key = {"exchange": exchange, "site": one.profile.site}
                row = session.scalar(select(tables.Site).filter_by(**key)) or tables.Site(**key)
                row.enrolment = canonical.encode(one)
                session.add(row)

    def reserve(self, exchange: str, offer: Offer, donation: Donation, quotas: Quotas) -> None:
        """Keep room for an offered organ, once, before a byte of it is fetched.

        Raises:
            OfferError: It is offered with another size than the body that is here has.
            SiteQuotaError: Its donor would have too many bytes here.
            ExchangeQuotaError: The exchange would have too many organs.
        """
        with database.writing(self._engine) as session:
            if _organ(session, exchange, offer.organ_digest) is None:
                all_of_it = select(func.count()).select_from(tables.Organ)
                count = session.scalar(all_of_it.filter_by(exchange=exchange)) or 0
                if count >= quotas.exchange_organs:
                    raise ExchangeQuotaError(
                        f"exchange {exchange} has {count} organs, at most {quotas.exchange_organs} "
                        "are taken; raise most_organs in coordinator.toml, or begin another one"
                    )
                session.add(
                    tables.Organ(
                        exchange=exchange,
                        digest=offer.organ_digest,
                        donor=offer.donor,
                        donation=canonical.encode(donation),
                    )
                )
            row = session.get(tables.Body, (offer.body_sha256, offer.donor))
            kept = row.size if row is not None else 0
            if row is not None and row.banked and kept != offer.body_bytes:
                raise OfferError(
                    f"a body that has {kept} bytes is offered with {offer.body_bytes}; its donor "
                    "has to make the offer anew"
                )
            if row is not None and kept >= offer.body_bytes:
                return
            sizes = select(func.sum(tables.Body.size)).filter_by(donor=offer.donor)
            size = int(session.scalar(sizes) or 0) - kept + offer.body_bytes
            if size > quotas.site_bytes:
                raise SiteQuotaError(
                    f"{offer.donor} would have {size} bytes here, at most {quotas.site_bytes} are "
                    "kept; raise most_site_bytes in coordinator.toml, or free some by "
                    "organ-coordinator forget"
                )
            session.merge(_body(offer, banked=False))

    def banked(self, offer: Offer) -> bool:
        """Whether its donor has brought the body that it offers; another's does not count."""
        with database.reading(self._engine) as session:
            row = session.get(tables.Body, (offer.body_sha256, offer.donor))
            return row is not None and row.banked

    def lost(self, offer: Offer) -> None:
        """Note that a body is no longer in the bank as it was put; its room stays kept."""
        with database.writing(self._engine) as session:
            session.get_one(tables.Body, (offer.body_sha256, offer.donor)).banked = False

    def release(self, exchange: str, offer: Offer) -> None:
        """Give up the room of an organ that is not what was offered."""
        with database.writing(self._engine) as session:
            body = session.get(tables.Body, (offer.body_sha256, offer.donor))
            row = _organ(session, exchange, offer.organ_digest)
            if body is not None and not body.banked:
                session.delete(body)
            if row is not None and row.header is None:
                session.delete(row)

    def offered(self, exchange: str, offer: Offer, donation: Donation, header: bytes) -> None:
        """Note an organ whose body is in the bank, instead of an earlier offer in the exchange."""
        with database.writing(self._engine) as session:
            row = _organ(session, exchange, offer.organ_digest)
            row = row or tables.Organ(exchange=exchange, digest=offer.organ_digest)
            row.donor, row.donation, row.header = offer.donor, canonical.encode(donation), header
            session.add(row)
            session.merge(_body(offer, banked=True))  # forgotten meanwhile, it is there again
            signed = canonical.sha256(donation.offer.encode())
            log.append(session, "offered", site=offer.donor, exchange=exchange, digest=signed)

    def bodies(self, organ: str) -> list[str]:
        """Bodies of an organ that are no other's: who passes the same bytes off as its own, too."""
        with database.reading(self._engine) as session:
            its = set(session.scalars(select(tables.Body.digest).filter_by(organ=organ)))
            others = select(tables.Body.digest).where(
                tables.Body.digest.in_(its), tables.Body.organ != organ
            )
            return sorted(its - set(session.scalars(others)))

    def forget(self, organ: str) -> None:
        """Forget an organ in all exchanges, and its bodies; its receipts stay."""
        with database.writing(self._engine) as session:
            donors = session.scalars(select(tables.Body.donor).filter_by(organ=organ))
            for donor in sorted(set(donors)):
                log.append(session, "forgotten", site=donor, digest=organ)
            session.execute(delete(tables.Organ).filter_by(digest=organ))
            session.execute(delete(tables.Body).filter_by(organ=organ))

    def received(self, receipt: Receipt, envelope: bytes) -> None:
        """Remember a signed receipt; the latest for an organ, recipient and mode counts."""
        with database.writing(self._engine) as session:
            key = {
                "exchange": receipt.exchange,
                "organ": receipt.organ,
                "recipient": receipt.recipient,
                "mode": receipt.mode,
            }
            row = session.scalar(select(tables.Receipt).filter_by(**key)) or tables.Receipt(**key)
            row.envelope, row.receipt = envelope, canonical.encode(receipt)
            row.donor, row.verdict = receipt.donor, receipt.verdict
            session.add(row)
            log.append(
                session,
                "received",
                site=receipt.recipient,
                exchange=receipt.exchange,
                digest=canonical.sha256(envelope),
            )

    def happened(self, exchange: str, *events: Happened) -> None:
        """Remember what sites did."""
        with database.writing(self._engine) as session:
            for one in events:
                session.add(tables.Event(exchange=exchange, **asdict(one)))

    def events(self, exchange: str, most: int) -> list[Happened]:
        """What sites did in an exchange, newest first, and no more than so many."""
        with database.reading(self._engine) as session:
            rows = session.scalars(
                select(tables.Event)
                .filter_by(exchange=exchange)
                .order_by(tables.Event.id.desc())
                .limit(most)
            )
            return [Happened(row.time, row.site, row.step, row.code, row.organ) for row in rows]

    def failures(self, exchange: str, organs: Collection[str]) -> dict[tuple[str, str], str]:
        """By organ and site: the code of what last went wrong with some organs."""
        failed = tables.Event.code != ""
        with database.reading(self._engine) as session:
            rows = session.scalars(
                select(tables.Event)
                .filter_by(exchange=exchange)
                .filter(tables.Event.organ.in_(organs), failed)
                .order_by(tables.Event.id)
            )
            return {(row.organ, row.site): row.code for row in rows}

    def heard(self, sites: Iterable[str], time: float) -> None:
        """Note that sites' nodes are there."""
        with database.writing(self._engine) as session:
            for site in sites:
                session.merge(tables.Contact(site=site, time=time))

    def contacts(self) -> dict[str, float]:
        """When each site was last heard of: of its node, or in an exchange."""
        with database.reading(self._engine) as session:
            found = session.execute(
                select(tables.Event.site, func.max(tables.Event.time))
                .filter(tables.Event.step.not_in(("collect", "bank")))  # the coordinator's own
                .filter(tables.Event.code.not_in(("timeout", "unreachable", "bank")))
                .group_by(tables.Event.site)
            ).all()
            latest = {site: time for site, time in found}
            for row in session.scalars(select(tables.Contact)):
                latest[row.site] = max(row.time, latest.get(row.site, 0.0))
            return latest

    def ran(self, exchange: str, facts: dict[str, Any]) -> None:
        """Remember the failures, bytes and seconds of a run."""
        with database.writing(self._engine) as session:
            session.add(tables.Run(exchange=exchange, facts=json.loads(json.dumps(facts))))

    def enrolments(self, exchange: str) -> list[Enrolment]:
        """Sites of an exchange, by name."""
        with database.reading(self._engine) as session:
            rows = session.scalars(
                select(tables.Site).filter_by(exchange=exchange).order_by(tables.Site.site)
            )
            return [canonical.decode(Enrolment, row.enrolment, "enrolment") for row in rows]

    def organs(self, exchange: str) -> list[Kept]:
        """Organs of an exchange, by donor."""
        with database.reading(self._engine) as session:
            rows = session.scalars(
                select(tables.Organ).filter_by(exchange=exchange).order_by(tables.Organ.donor)
            )
            return [
                Kept(row.digest, row.donor, _donation(row.donation), row.header) for row in rows
            ]

    def donations(
        self, exchange: str, start: int = 0, most: int | None = None
    ) -> list[tuple[str, str, Donation]]:
        """Digest, donor and donation of each organ of an exchange, by donor; or of some of them."""
        row = tables.Organ
        with database.reading(self._engine) as session:
            rows = session.execute(
                select(row.digest, row.donor, row.donation)
                .filter_by(exchange=exchange)
                .order_by(row.donor, row.id)
                .offset(start)
                .limit(most)
            )
            return [(digest, donor, _donation(said)) for digest, donor, said in rows]

    def donation(self, exchange: str, organ: str) -> Donation | None:
        """What its donor said of an organ in an exchange; None where there is none."""
        with database.reading(self._engine) as session:
            row = _organ(session, exchange, organ)
            return None if row is None else _donation(row.donation)

    def stored(self) -> dict[str, int]:
        """Bytes in the bank by organ, of all its bodies."""
        with database.reading(self._engine) as session:
            rows = select(tables.Body.organ, func.sum(tables.Body.size)).where(tables.Body.banked)
            sums = session.execute(rows.group_by(tables.Body.organ))
            return {organ: int(size) for organ, size in sums}

    def receipts(self, exchange: str, organs: Collection[str] | None = None) -> list[Receipt]:
        """Receipts of an exchange, of some organs or all, by organ and recipient."""
        wanted = select(tables.Receipt.receipt).filter_by(exchange=exchange)
        if organs is not None:
            wanted = wanted.filter(tables.Receipt.organ.in_(organs))
        with database.reading(self._engine) as session:
            rows = session.scalars(wanted.order_by(tables.Receipt.organ, tables.Receipt.recipient))
            return [canonical.decode(Receipt, row, "receipt") for row in rows]

    def signed_receipt(
        self, exchange: str, organ: str, recipient: str, mode: str
    ) -> tuple[Receipt, bytes] | None:
        """A receipt, and the envelope that its recipient signed; None where there is none."""
        with database.reading(self._engine) as session:
            row = session.scalar(
                select(tables.Receipt).filter_by(
                    exchange=exchange, organ=organ, recipient=recipient, mode=mode
                )
            )
            if row is None:
                return None
            return canonical.decode(Receipt, row.receipt, "receipt"), row.envelope

    def last_run(self, exchange: str) -> dict[str, Any] | None:
        """Facts of the latest run of an exchange."""
        with database.reading(self._engine) as session:
            row = session.scalar(
                select(tables.Run)
                .filter_by(exchange=exchange)
                .order_by(tables.Run.id.desc())
                .limit(1)
            )
            return None if row is None else dict(row.facts)

    def nodes(self) -> dict[str, tuple[int, bytes]]:
        """By site: its node's id, and the envelope that it was admitted with."""
        with database.reading(self._engine) as session:
            rows = session.scalars(select(tables.Node).order_by(tables.Node.site))
            return {row.site: (int(row.node), row.admission) for row in rows}

    def admitted(self, site: str, node: int, admission: bytes) -> None:
        """Remember a site's node, instead of an earlier one."""
        with database.writing(self._engine) as session:
            session.merge(tables.Node(site=site, node=str(node), admission=admission))
            log.append(session, "admitted", site=site, digest=canonical.sha256(admission))

    def expelled(self, site: str) -> None:
        """Forget a site's node."""
        with database.writing(self._engine) as session:
            row = session.get_one(tables.Node, site)
            log.append(session, "expelled", site=site, digest=canonical.sha256(row.admission))
            session.delete(row)

    def exchanges(self) -> list[str]:
        """Names of all exchanges that sites or organs are known of."""
        with database.reading(self._engine) as session:
            names = select(tables.Site.exchange).union(select(tables.Organ.exchange))
            return sorted(session.scalars(names))


def _body(offer: Offer, banked: bool) -> tables.Body:
    return tables.Body(
        digest=offer.body_sha256,
        donor=offer.donor,
        organ=offer.organ_digest,
        size=offer.body_bytes,
        banked=banked,
    )


def _organ(session: Session, exchange: str, digest: str) -> tables.Organ | None:
    return session.scalar(select(tables.Organ).filter_by(exchange=exchange, digest=digest))


def _donation(said: bytes) -> Donation:
    return canonical.decode(Donation, said, "donation")
