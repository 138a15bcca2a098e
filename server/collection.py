"""Fetching sealed organs from their donors: headers always, bodies where the bank lacks them.

A donor that offers an organ to others makes a new header; the body stays as it is in the bank. A
body counts only for the donor that brought it: nobody learns what others have brought.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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

    def kept(self, kept: Kept) -> Sealed | None:
        """An organ of an earlier run, as its donor offered it then; None if it never came whole.

        Raises:
            NotError: It can no longer be given to anybody.
        """
        if kept.header is None:
            return None
        offer = claims.header(kept.header, kept.donation, self._home.trust, self._exchange)
        body = chunks(self._home.bank, offer.body_sha256)
        claims.sealed(kept.header, body, kept.donation, offer)
        return Sealed(offer=offer, donation=kept.donation, header=kept.header)

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
        offer, part = fetch.offer, self._home.incoming(self._exchange, fetch.offer)
        if self._in_bank(fetch, header):
            part.unlink(missing_ok=True)
            self._finish(fetch, header)
            return
        held = part.stat().st_size if part.is_file() else 0
        if held > offer.body_bytes:
            part.unlink()
            held = 0
        if held == offer.body_bytes:
            self._bank(fetch, header, part)
            return

        def then(data: bytes) -> None:
            with part.open("ab") as file:
                file.write(data)
            self._body(fetch, header)

        offset = fetch.header_bytes + held
        self._segment(fetch, offset, offer.body_bytes - held, then)

    def _in_bank(self, fetch: _Fetch, header: bytes) -> bool:
        """Whether this donor's body is in the bank, whole as it was.

        Raises:
            BankError: The bank cannot be read.
            OfferError: Under this header it is not what the donor announced.
        """
        body, catalogue = fetch.offer.body_sha256, self._home.catalogue
        if not catalogue.banked(fetch.offer):
            return False
        try:
            if self._home.bank.size(body) is None:
                raise BodyError("the bank has no such body any more")
            claims.sealed(header, chunks(self._home.bank, body), fetch.donation, fetch.offer)
        except BodyError as error:
            _log.warning("body %s is fetched again: %s", body, error)
            catalogue.lost(fetch.offer)
            return False
        return True

    def _bank(self, fetch: _Fetch, header: bytes, part: Path) -> None:
        """Check a sealed organ as far as it can be checked closed, and put it into the bank.

        Raises:
            NotError: It is not what was offered, or the bank fails.
        """
        with self._released(fetch):
            claims.sealed(header, _pieces(part), fetch.donation, fetch.offer)
        self._home.bank.put(fetch.offer.body_sha256, part)
        self._finish(fetch, header)

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
