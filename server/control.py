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
from flwr.supercore.error import FlowerError
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from not_core.errors import ServiceError

ENDED = "finished"
COMPLETED = "completed"
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


@dataclass(frozen=True, slots=True)
class Run:
    """A run of Flower's.

    Attributes:
        identifier: Flower's number of it.
        status: Flower's word, such as ``running`` or ``finished``.
        outcome: How it ended, such as ``completed`` or ``failed``; empty while it runs.
    """

    identifier: int
    status: str
    outcome: str


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
        try:
            with self._client() as client:
                request = messages.RegisterNodeRequest(public_key=key.encode())
                return int(client.RegisterNode(request).node_id)
        except ServiceError as error:
            raise ServiceError(
                f"{error}; if the node was taken back before, it needs another key: 'organ-site "
                "connect --new-key'"
            ) from None

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
        return [Run(run.run_id, run.status.status, run.status.sub_status) for run in newest]

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
            found = FlowerError.from_json(error.response.text)
            said = found.public_details or found.code if found else error.response.status_code
            raise ServiceError(f"Flower refused: {said}; see its log") from None
        except httpx.HTTPError as error:
            raise ServiceError(
                f"nothing answers at {self._address} ({type(error).__name__}); start it with "
                "'organ-coordinator start'"
            ) from None
        finally:
            client.close()
