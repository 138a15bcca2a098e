"""How much memory a message can take, whoever sent it.

Flower takes in what it is sent: objects of any size and number, compressed or not, from wherever it
is redirected to; and arrays that name one of their pieces as often as they like.
"""

import json
from collections.abc import Callable
from itertools import islice
from types import SimpleNamespace
from typing import Any

import httpx

from not_core.protocol import SEGMENT_BYTES

MOST_OBJECTS = 16
"""Of a message: itself, its records and arrays, and a segment of an organ in pieces."""

MOST_ANSWER = 8 * 2**20
"""Bytes of one answer over HTTP, and so of one object; Flower cuts arrays into pieces of 5 MiB."""

MOST_CALL = 64 * 1024
"""Bytes of what is said of messages and nodes: of a few bytes each, parsing makes objects."""

FLEET = "/v1/fleet/"
"""Where Flower has its calls for sites."""
_CARRY = ("pull-object", "get-fab")

MOST_SAID = 2**20
"""Bytes of an object that is no piece of an array."""

MOST_MESSAGE = SEGMENT_BYTES + MOST_SAID
"""Bytes of a whole message: a segment, and what is said of it."""

Receive = Callable[[], tuple[Any, Any] | None]
"""Of Flower's node: the next message and the tree of its objects."""


class Client(httpx.Client):
    """Follows nobody elsewhere, and takes no answer that is compressed or larger than any is."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**{**given, "follow_redirects": False})
        self.headers["accept-encoding"] = "identity"

    def send(self, request: httpx.Request, *, stream: bool = False, **more: Any) -> httpx.Response:
        """Send a request.

        Raises:
            httpx.DecodingError: The answer is none that is taken.
        """
        response = super().send(request, stream=True, **more)
        if stream:
            return response
        path, body = request.url.path, bytearray()
        light = path.startswith(FLEET) and not path.endswith(_CARRY)
        most = MOST_CALL if light else MOST_ANSWER
        try:
            for piece in response.iter_raw():
                body += piece
                if len(body) > most or "content-encoding" in response.headers:
                    raise httpx.DecodingError("an answer that is too large, or compressed")
        finally:
            response.close()
        return httpx.Response(
            response.status_code, headers=response.headers, content=bytes(body), request=request
        )


def http() -> SimpleNamespace:
    """The module ``httpx``, with this client in the place of its own."""
    return SimpleNamespace(**(vars(httpx) | {"Client": Client}))


def few(receive: Receive) -> Receive:
    """Receive, but no message of more than ``MOST_OBJECTS``: that is as if none had come."""
    from flwr.supercore.inflatable.inflatable_object import iterate_object_tree

    def receiving() -> tuple[Any, Any] | None:
        found = receive()
        if found is None:
            return None
        one_more = islice(iterate_object_tree(found[1]), MOST_OBJECTS, None)
        return found if next(one_more, None) is None else None

    return receiving


def bound_objects() -> None:
    """From now on, in this process, no array is made that is larger than a message.

    Nor of anything else more than ``MOST_SAID``: a few bytes of it can make objects of hundreds.
    """
    from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
    from flwr.app.message.array import Array
    from flwr.supercore.inflatable.inflatable_object import (
        get_object_body,
        get_object_children_ids_from_object_content,
    )

    whole = Array.inflate

    def inflate(
        cls: type[Array], object_content: bytes, children: dict[str, Any] | None = None
    ) -> Array:
        pieces = get_object_children_ids_from_object_content(object_content)
        named = json.loads(get_object_body(object_content, cls))["arraychunk_ids"]
        sizes = [len((children or {})[one].data) for one in pieces]
        if sum(sizes[one] for one in named) > MOST_MESSAGE:
            raise ValueError("an array larger than any of this protocol")
        return whole(object_content, children)

    Array.inflate = classmethod(inflate)  # type: ignore[assignment,method-assign]
    for kind in (Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict):
        kind.inflate = staticmethod(_small(kind.inflate))  # type: ignore[method-assign]


def _small(inflate: Callable[..., Any]) -> Callable[..., Any]:
    def inflating(object_content: bytes, children: dict[str, Any] | None = None) -> Any:
        if len(object_content) > MOST_SAID:
            raise ValueError("words larger than any of this protocol")
        return inflate(object_content, children)

    return inflating
