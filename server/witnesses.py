"""Asking sites to sign what the log is by now, so that no two of them are shown different ones."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from not_core.errors import FormatError
from not_core.protocol import (
    WITNESS,
    Cosigned,
    Packet,
    Witnessed,
    WitnessRequest,
)
from not_core.trust.profile import Profile
from not_core.trust.tree_head import TreeHead, public, sign_head
from server import claims
from server.dispatch import Dispatch, Failed
from server.home import Coordinator
from server.log import Log

MOST_COSIGNED = 16
"""Cosignatures of other sites that a site is shown at once."""


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A tree head, and the envelope that the log's key has signed."""

    head: TreeHead
    envelope: bytes


def signed_head(coordinator: Coordinator) -> SignedHead:
    """Sign what the log is now."""
    log = coordinator.catalogue.log
    size = log.size()
    head = TreeHead(
        federation=coordinator.trust.fingerprint,
        key=public(coordinator.log_key.public_key()),
        size=size,
        root=log.root(size),
        time=int(time.time()),
    )
    return SignedHead(head, sign_head(head, coordinator.log_key))


class Witnesses:
    """Asks the sites of one exchange.

    Args:
        dispatch: Of that exchange.
        coordinator: Whose log it is.
        exchange: Its name.
        seconds: Time limit of a message.
    """

    def __init__(
        self, dispatch: Dispatch, coordinator: Coordinator, exchange: str, seconds: float
    ) -> None:
        self._dispatch, self._home, self._log = dispatch, coordinator, coordinator.catalogue.log
        self._exchange, self._seconds = exchange, seconds

    def ask(
        self,
        node: int,
        profile: Profile,
        digests: list[str],
        signed: SignedHead,
        done: Callable[[], None],
        failed: Failed,
    ) -> None:
        """Ask a site to sign a tree head.

        Args:
            node: The site's.
            profile: Verified.
            digests: Of the envelopes that it has signed or was given; it is shown that the log
                holds them.
            signed: The tree head; a site that knows a later one is shown what the log is then.
            done: Called once its cosignature is kept.
            failed: Told the code of what went wrong.
        """
        log = self._log

        def post(since: int, signed: SignedHead, *, again: bool) -> None:
            def then(packet: Packet) -> None:
                answer = claims.reply(packet, Witnessed)
                if answer.envelope:
                    envelope = answer.envelope.encode()
                    claims.cosignature(envelope, profile, self._home.trust, signed.head)
                    log.witnessed(signed.head, profile, envelope)
                    done()
                elif again and answer.size <= (anew := signed_head(self._home)).head.size:
                    # Another exchange, whose request came first, may have shown a newer one.
                    post(answer.size, anew, again=False)
                else:
                    raise FormatError("no cosignature, nor a number of entries to prove it from")

            asked = request(log, self._exchange, profile.site, digests, signed, since)
            self._dispatch.post(
                node, WITNESS, asked, seconds=self._seconds, then=then, failed=failed
            )

        post(min(log.seen_by(profile.site), signed.head.size), signed, again=True)


def request(
    log: Log, exchange: str, site: str, digests: Sequence[str], signed: SignedHead, since: int
) -> WitnessRequest:
    """What asks a site to sign a tree head.

    Args:
        log: Of which it is.
        exchange: Name of the exchange.
        site: Who is asked.
        digests: As ``Witnesses.ask``.
        signed: The tree head.
        since: Entries that the site has signed last.
    """
    size = signed.head.size
    others = log.others(site, size, MOST_COSIGNED)
    path, *paths = log.consistencies([since, *(one.size for one in others)], size)
    return WitnessRequest(
        exchange=exchange,
        head=signed.envelope.decode(),
        since=since,
        path=path,
        logged=tuple(log.find_all(digests, size)),
        cosigned=tuple(
            Cosigned(profile=one.profile, envelope=one.envelope.decode(), path=path)
            for one, path in zip(others, paths, strict=True)
        ),
    )
