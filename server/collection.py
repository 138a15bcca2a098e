"""Fetching sealed organs from their donors: headers always, bodies where the bank lacks them.

A donor that offers an organ to others makes a new header; the body stays as it is in the bank. A
body counts only for the donor that brought it: nobody learns what others have brought.
"""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from not_core.errors import BodyError, FormatError, NotError
from not_core.protocol import (
    SEGMENT,
    SEGMENT_BYTES,
    Donation,
    Packet,
    Segment,
    SegmentRequest,
)
from not_core.trust.offer import Offer
from server import claims
from server.bank import CHUNK, Bank, chunks
from server.catalogue import Kept
from server.dispatch import Dispatch, Failed
from server.home import Coordinator

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """A sealed organ as one exchange offers it; its body is in the bank, and all was verified.

    Attributes:
        offer: Its donor's.
        donation: What its donor said of it.
        header: What stands before its body, the offer and the wrapped keys.
    """

    offer: Offer
    donation: Donation
    header: bytes

    def part(self, offset: int) -> int:
        """How many bytes of it the message has that begins at ``offset``."""
        if offset < len(self.header):
            return len(self.header) - offset
        return min(SEGMENT_BYTES, self.donation.sealed_bytes - offset)

    def read(self, bank: Bank, offset: int) -> bytes:
        """A message's worth of it from ``offset`` on; the header travels alone.

        Raises:
            BankError: The body cannot be read.
        """
        if offset < len(self.header):
            return self.header[offset:]
        return bank.read(self.offer.body_sha256, offset - len(self.header), SEGMENT_BYTES)


@dataclass(frozen=True, slots=True)
class _Fetch:
    """An organ on its way."""

    node: int
    offer: Offer
    donation: Donation
    done: Callable[[Sealed], None]
    failed: Failed

    @property
    def header_bytes(self) -> int:
        return self.donation.sealed_bytes - self.offer.body_bytes


class Collection:
    """Fetches the organs of one exchange.

    Args:
        dispatch: Of that exchange.
        coordinator: Whose bank and catalogue they go to.
        exchange: Its name.
        seconds: Time limit of a message.
    """

    def __init__(
        self, dispatch: Dispatch, coordinator: Coordinator, exchange: str, seconds: float
    ) -> None:
        self._dispatch, self._home = dispatch, coordinator
        self._exchange, self._seconds = exchange, seconds

    def fetch(
        self,
        node: int,
        offer: Offer,
        donation: Donation,
        done: Callable[[Sealed], None],
        failed: Failed,
    ) -> None:
        """Fetch what is not there yet of an offered organ.

        Args:
            node: Its donor's.
            offer: Verified.
            donation: What its donor said of it.
            done: Called once it is in the bank.
            failed: Told the code of what went wrong.

        Raises:
            SiteQuotaError: Its donor has too many bytes here.
            ExchangeQuotaError: The exchange has too many organs.
        """
        quotas = self._home.settings.quotas
        self._home.catalogue.reserve(self._exchange, offer, donation, quotas)
        self._header(_Fetch(node, offer, donation, done, failed), b"")

    def kept(self, kept: Kept, done: Callable[[Sealed], None], failed: Failed) -> None:
        """Look whether an organ of an earlier run is there, as its donor offered it then.

        Args:
            kept: What the catalogue knows of it; of one that never came whole, nothing follows.
            done: Told, if it is.
            failed: Told why it can no longer be given to anybody.
        """
        header, donation = kept.header, kept.donation
        if header is None:
            return
        try:
            offer = claims.header(header, donation, self._home.trust, self._exchange)
        except NotError as error:
            failed(error.code)
            return
        body = chunks(self._home.bank, offer.body_sha256)

        def looked(work: Future[None]) -> None:
            work.result()
            done(Sealed(offer=offer, donation=donation, header=header))

        self._dispatch.aside(partial(claims.sealed, header, body, donation, offer), looked, failed)

    def _header(self, fetch: _Fetch, held: bytes) -> None:
        def then(data: bytes) -> None:
            if len(held + data) < fetch.header_bytes:
                self._header(fetch, held + data)
                return
            with self._released(fetch):
                claims.header(held + data, fetch.donation, self._home.trust, self._exchange)
            self._body(fetch, held + data)

        self._segment(fetch, len(held), fetch.header_bytes - len(held), then)

    def _body(self, fetch: _Fetch, header: bytes) -> None:
        """Go on with a body: from the bank, or from its donor.

        Raises:
            NotError: The bank cannot be read.
        """
        offer, catalogue = fetch.offer, self._home.catalogue
        if not catalogue.banked(offer):
            self._missing(fetch, header)
            return

        def looked(work: Future[None]) -> None:
            try:
                work.result()
            except BodyError as error:
                _log.warning("body %s is fetched again: %s", offer.body_sha256, error)
                catalogue.lost(offer)
                self._missing(fetch, header)
            else:
                self._home.incoming(self._exchange, offer).unlink(missing_ok=True)
                self._finish(fetch, header)

        self._dispatch.aside(partial(self._look, fetch, header), looked, fetch.failed)

    def _look(self, fetch: _Fetch, header: bytes) -> None:
        """See that the bank has a body, whole as it was.

        Raises:
            BodyError: It has not.
            BankError: The bank cannot be read.
            OfferError: Under this header it is not what the donor announced.
        """
        bank, body = self._home.bank, fetch.offer.body_sha256
        if bank.size(body) is None:
            raise BodyError("the bank has no such body any more")
        claims.sealed(header, chunks(bank, body), fetch.donation, fetch.offer)

    def _missing(self, fetch: _Fetch, header: bytes) -> None:
        """Fetch what is missing of a body; once it is whole, check it and put it into the bank."""
        offer, part = fetch.offer, self._home.incoming(self._exchange, fetch.offer)
        held = part.stat().st_size if part.is_file() else 0
        if held > offer.body_bytes:
            part.unlink()
            held = 0
        if held == offer.body_bytes:
            work = partial(claims.sealed, header, _pieces(part), fetch.donation, offer)
            self._dispatch.aside(work, partial(self._checked, fetch, header, part), fetch.failed)
            return

        def then(data: bytes) -> None:
            with part.open("ab") as file:
                file.write(data)
            self._missing(fetch, header)

        offset = fetch.header_bytes + held
        self._segment(fetch, offset, offer.body_bytes - held, then)

    def _checked(self, fetch: _Fetch, header: bytes, part: Path, check: Future[None]) -> None:
        with self._released(fetch):
            check.result()

        def put(work: Future[None]) -> None:
            work.result()
            self._finish(fetch, header)

        work = partial(self._home.bank.put, fetch.offer.body_sha256, part)
        self._dispatch.aside(work, put, fetch.failed)

    def _finish(self, fetch: _Fetch, header: bytes) -> None:
        self._home.catalogue.offered(self._exchange, fetch.offer, fetch.donation, header)
        fetch.done(Sealed(offer=fetch.offer, donation=fetch.donation, header=header))

    @contextmanager
    def _released(self, fetch: _Fetch) -> Iterator[None]:
        """Keep nothing of what is not what was offered."""
        try:
            yield
        except NotError:
            self._home.incoming(self._exchange, fetch.offer).unlink(missing_ok=True)
            self._home.catalogue.release(self._exchange, fetch.offer)
            raise

    def _segment(
        self, fetch: _Fetch, offset: int, wanted: int, use: Callable[[bytes], None]
    ) -> None:
        length, organ = min(SEGMENT_BYTES, wanted), fetch.offer.organ_digest

        def then(packet: Packet) -> None:
            segment = claims.reply(packet, Segment)
            if (segment.organ, segment.offset, len(packet.body)) != (organ, offset, length):
                raise FormatError("other bytes than were asked for")
            use(packet.body)

        self._dispatch.post(
            fetch.node,
            SEGMENT,
            SegmentRequest(exchange=self._exchange, organ=organ, offset=offset, length=length),
            seconds=self._seconds,
            then=then,
            failed=fetch.failed,
        )


def _pieces(part: Path) -> Iterator[bytes]:
    with part.open("rb") as file:
        while piece := file.read(CHUNK):
            yield piece
