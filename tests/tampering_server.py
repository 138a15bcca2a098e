"""A coordinator's app that changes what it passes on; run by a hostile coordinator in tests.

The hospital is asked for an organ with another key for the clinic. Of the court's, the clinic gets
what was sealed for an earlier exchange, and the hospital what lacks its end; sizes and digests fit.
In an exchange named ``edited`` both get what says that it is a later version than its donor said.
"""

import base64
import hashlib
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

from not_core import protocol
from not_core.protocol import DONATE, DonateRequest
from server.app import configured
from server.bank import Bank, chunks
from server.collection import Sealed
from server.exchange import Exchange, run_in_passes

EARLIER, EDITED, LACKS = "trial", "edited", 16


class Swapping:
    """A grid that swaps the clinic's key in what it asks a node."""

    def __init__(self, grid: Grid, node: int) -> None:
        self._grid, self._node = grid, node

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grid, name)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self._grid.push_messages([self._swapped(one) for one in messages])

    def _swapped(self, message: Message) -> Message:
        said = message.metadata
        if (said.message_type, said.dst_node_id) == (DONATE, self._node):
            request = protocol.read(protocol.unpack(message.content), DonateRequest)
            other = next(one.sealing_key for one in request.addressees if one.site != "clinic")
            swapped = tuple(
                replace(one, sealing_key=other) if one.site == "clinic" else one
                for one in request.addressees
            )
            message.content = protocol.pack(replace(request, addressees=swapped))
        return message


class Cut(Sealed):
    """A sealed organ that says that it is as long as it is read here."""

    def read(self, bank: Bank, offset: int) -> bytes:
        return Sealed.read(self, bank, offset)[: self.donation.sealed_bytes - offset]


class Tampering(Exchange):
    """Delivers another organ than was given, to each in its own way."""

    def _deliver(self, site: Any, organ: str, offset: int) -> None:
        whole = self._sealed[organ]
        self._sealed[organ] = self._changed(site.name, whole)
        try:
            super()._deliver(site, organ, offset)
        finally:
            self._sealed[organ] = whole

    def _changed(self, site: str, whole: Sealed) -> Sealed:
        body = b"".join(chunks(self._home.bank, whole.offer.body_sha256))
        header = whole.header
        if whole.offer.exchange == EDITED:
            header = _edited(header)
        elif site == "clinic":
            earlier = {one.organ: one.header for one in self._home.catalogue.organs(EARLIER)}
            header = earlier[whole.offer.organ_digest] or b""
        else:
            body = body[:-LACKS]
        data = header + body
        donation = replace(
            whole.donation,
            sealed_bytes=len(data),
            sealed_sha256=hashlib.sha256(data).hexdigest(),
        )
        return Cut(offer=whole.offer, donation=donation, header=header)


def _edited(header: bytes) -> bytes:
    """A sealed organ's header, its offer changed under the signature of the one that was."""
    found = re.search(rb"payload\W+([A-Za-z0-9+/]+=*)", header)
    assert found is not None
    offer = base64.b64decode(found[1])
    changed = offer.replace(b'"version":1', b'"version":9')
    assert changed != offer
    return header.replace(found[1], base64.b64encode(changed))


app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    coordinator, settings = configured(context)
    node, _ = coordinator.catalogue.nodes()["hospital"]
    swapping: Any = Swapping(grid, node)
    run_in_passes(lambda: Tampering(swapping, coordinator, settings))
