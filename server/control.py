"""Flower's control, by which the operator's side registers nodes and starts runs.

Flower asks nobody who reaches it who they are, so it is reached on loopback only.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import tomli_w
from flwr.cli.build import build_fab_from_files
from flwr.cli.cli_client_interceptor import CliClientHttpInterceptor
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto import control_pb2 as messages
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from not_core.errors import ServiceError

ENDED, WELL = "finished", "completed"
"""Flower's words for a run that has ended, and for how."""
ONLINE, UNREGISTERED = "online", "unregistered"
APP = """\
[project]
name = "organ-exchange"
version = "1"
description = "An exchange, among code that is installed everywhere"
license = "Apache-2.0"
[tool.flwr.app]
publisher = "organ-exchange"
[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"
[tool.flwr.app.config]
"""
"""What a run of ours brings: names of what is installed everywhere, and not a line of code."""

REFUSALS = {
    ApiErrorCode.RUN_ID_NOT_FOUND: "it has no such run; its database was lost, or an older one "
    "restored",
    ApiErrorCode.RUN_ALREADY_FINISHED: "the run has ended already",
    ApiErrorCode.PUBLIC_KEY_NOT_VALID: "the node's key is not one it takes; have the site make "
    "another by 'organ-site connect --new-key', and admit it",
    ApiErrorCode.PUBLIC_KEY_ALREADY_IN_USE: "it takes a key once; a node that was taken back needs "
    "another: 'organ-site connect --new-key'",
    ApiErrorCode.NODE_NOT_FOUND: "it has no such node; give the site's admission to "
    "'organ-coordinator admit' again",
    ApiErrorCode.RUNTIME_VERSION_INCOMPATIBLE: "another version of it runs than is installed here; "
    "stop the coordinator and start it again",
}
"""What an operator can meet, and what to do then."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run of Flower's.

    Attributes:
        identifier: Flower's number of it.
        status: Flower's word, such as ``running`` or ``finished``.
        outcome: How it ended, such as ``completed`` or ``failed``; empty while it runs.
        exchange: Whose run it is.
    """

    identifier: int
    status: str
    outcome: str
    exchange: str


class Control:
    """Flower's control at an address.

    Args:
        address: ``host:port`` on loopback.
        certificate: PEM file of Flower's certificate.
    """

    def __init__(self, address: str, certificate: Path) -> None:
        self._address, self._certificate = address, certificate

    def register(self, key: str) -> int:
        """Register a node's public key, in PEM; the node's id.

        Raises:
            ServiceError: Flower does not run, or has or had the key.
        """
        with self._client() as client:
            request = messages.RegisterNodeRequest(public_key=key.encode())
            return int(client.RegisterNode(request).node_id)

    def unregister(self, node: int) -> None:
        """Take a node's registration back.

        Raises:
            ServiceError: Flower does not run, or has no such node.
        """
        with self._client() as client:
            client.UnregisterNode(messages.UnregisterNodeRequest(node_id=node))

    def start(self, config: dict[str, Any]) -> int:
        """Start a run with a configuration of strings and numbers; the run's id.

        Raises:
            ServiceError: Flower does not run, or refuses.
        """
        # Flower takes values for what an app itself names, only.
        content = (APP + tomli_w.dumps(config)).encode()
        bundle, _ = build_fab_from_files({"pyproject.toml": content})
        fab = Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})
        request = messages.StartRunRequest(
            fab=fab_to_proto(fab), override_config=user_config_to_proto(config)
        )
        with self._client() as client:
            return int(client.StartRun(request).run_id)

    def stop(self, run: int) -> None:
        """Stop a run that has not ended.

        Raises:
            ServiceError: Flower does not run, or has no such run under way.
        """
        with self._client() as client:
            client.StopRun(messages.StopRunRequest(run_id=run))

    def registered(self) -> dict[int, str]:
        """Nodes that may come in: the public key, in PEM, by id.

        Raises:
            ServiceError: Flower does not run.
        """
        return {
            int(node.node_id): node.public_key.decode()
            for node in self._nodes()
            if node.status != UNREGISTERED
        }

    def online(self) -> set[int]:
        """Ids of the nodes that are there.

        Raises:
            ServiceError: Flower does not run.
        """
        return {int(node.node_id) for node in self._nodes() if node.status == ONLINE}

    def _nodes(self) -> list[NodeInfo]:
        with self._client() as client:
            return list(client.ListNodes(messages.ListNodesRequest()).nodes_info)

    def runs(self) -> list[Run]:
        """All runs, newest first.

        Raises:
            ServiceError: Flower does not run.
        """
        with self._client() as client:
            found = client.ListRuns(messages.ListRunsRequest()).run_dict.values()
        newest = sorted(found, key=lambda run: run.pending_at, reverse=True)
        return [
            Run(
                run.run_id,
                run.status.status,
                run.status.sub_status,
                run.override_config["exchange"].string if "exchange" in run.override_config else "",
            )
            for run in newest
        ]

    @contextmanager
    def _client(self) -> Iterator[ControlHttpClient]:
        client = ControlHttpClient.from_server_address(
            self._address,
            insecure=False,
            root_certificates=self._certificate.read_bytes(),
            interceptors=[
                CliClientHttpInterceptor(),
                RuntimeVersionHttpInterceptor(component_name="organ-coordinator"),
            ],
        )
        try:
            yield client
        except httpx.HTTPStatusError as error:
            raise ServiceError(f"Flower refused: {_words(error.response)}") from None
        except httpx.HTTPError as error:
            raise ServiceError(
                f"nothing answers at {self._address} ({type(error).__name__}); start it with "
                "'organ-coordinator start'"
            ) from None
        finally:
            client.close()


def _words(response: httpx.Response) -> str:
    """Why Flower refused."""
    found = FlowerError.from_json(response.text)
    if found is None:
        return f"status {response.status_code}; see logs/superlink.log"
    if found.code in REFUSALS:
        return REFUSALS[ApiErrorCode(found.code)]
    said = found.public_details or found.message.rstrip(".")
    return f"{said} (its code {found.code}); see logs/superlink.log"
