"""The coordinator's processes: Flower on loopback, what starts its tasks, and the gateway.

Beside what ``home`` names, a coordinator that is served has

    service.toml                  where it listens and how sites reach it
    tls.pem, tls.key              the gateway's certificate, which sites are given, and its key
    flower/                       Flower's state, secret and loopback certificate
    run/, logs/                   what runs now, and what it said
"""

import errno
import secrets
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tomli_w
from pydantic import Field
from pydantic.dataclasses import dataclass

from not_core import atomic
from not_core.canonical import STRICT
from not_core.errors import CertificateError, HomeError, RevokedError, ServiceError
from not_core.service import tls
from not_core.service.flower import SERVER, command
from not_core.service.supervisor import (
    LOOPBACK,
    POLL_SECONDS,
    STOP_SECONDS,
    Program,
    answers,
    python,
)
from not_core.settings import parsed, read
from not_core.trust.keyfile import write_secret
from server import claims
from server.control import Control
from server.home import Coordinator, settings_of

SETTINGS = "service.toml"
APP = "server.app:app"
ENDING_SECONDS = STOP_SECONDS + 5
"""How long a port is waited for that may be of processes which are being ended."""
Port = Annotated[int, Field(ge=1, le=65535)]


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Service:
    """Where a coordinator listens.

    Attributes:
        host: Name or address by which sites reach it; their TLS expects it.
        listen: Address that the gateway listens on.
        port: Port of the gateway, for sites.
        flower_port: Port of Flower's SuperLink, on loopback.
        monitor_port: Port of ``/healthz`` and ``/metrics``, on loopback.
        page_listen: Address that the page for operators listens on; with TLS, if not loopback.
        page_port: Port of that page; 0 where it is not served.
    """

    host: str
    listen: str = "0.0.0.0"  # noqa: S104 - sites come from elsewhere
    port: Port = 9092
    flower_port: Port = 9091
    monitor_port: Port = 9094
    page_listen: str = LOOPBACK
    page_port: Annotated[int, Field(ge=0, le=65535)] = 0

    def __post_init__(self) -> None:
        ports = {name: value for name, value in asdict(self).items() if name.endswith("port")}
        for value in ports.values():
            same = [other for other, its in ports.items() if its == value]
            if value and len(same) > 1:
                raise ValueError(f"{' and '.join(same)} are all {value}, expected a port for each")

    @property
    def flower(self) -> str:
        """Where Flower listens."""
        return f"{LOOPBACK}:{self.flower_port}"


def asked(home: Path, given: Mapping[str, object]) -> Service:
    """Where a coordinator is to listen: what is given, else as it does, else as usual.

    Raises:
        HomeError: They do not go together, or no host is given and it has none.
    """
    before = asdict(load(home)) if (home / SETTINGS).is_file() else {}
    return parsed(before | dict(given), Service, "what is asked for")


def create(home: Path, service: Service) -> bool:
    """Let a coordinator's home be served there, or elsewhere than before.

    What is there stays, and what was cut off is completed: Flower's state, the certificate where
    it is for that host, and its key always.

    Args:
        home: Nothing serves it now.
        service: Where.

    Returns:
        Whether sites must be given ``tls.pem``, which they do not have yet.

    Raises:
        CertificateError: The certificate's key cannot be read.
    """
    known = (home / SETTINGS).is_file() and load(home).host == service.host
    if not any((home / "flower").glob("*")):
        with atomic.folder(home / "flower", mode=0o700) as work:
            tls.create(work / "loopback.pem", work / "loopback.key", [LOOPBACK, "localhost"])
            write_secret(work / "secret", secrets.token_bytes(32))
    if not _certified(home, service.host):
        known = False
        tls.create(home / "tls.pem", home / "tls.key", [service.host])
    atomic.write(home / SETTINGS, tomli_w.dumps(asdict(service)).encode())
    return not known


def _certified(home: Path, host: str) -> bool:
    if not (home / "tls.key").is_file() or not (home / "tls.pem").is_file():
        return False
    try:
        tls.check_serves((home / "tls.pem").read_bytes(), host)
    except CertificateError:
        return False
    return True


def load(home: Path) -> Service:
    """Read where a coordinator listens.

    Raises:
        HomeError: It is no coordinator's, has no address, or its settings are not valid.
    """
    if not (home / SETTINGS).is_file():
        settings_of(home)
        raise HomeError(
            f"{home} was made without an address; give it one by 'organ-coordinator serve-at "
            f"{home} --host NAME'"
        )
    return read(home / SETTINGS, Service, "organ-coordinator serve-at")


def refuse_taken(service: Service) -> None:
    """Refuse to start what another program keeps from listening.

    What was killed a moment ago may still be ending, and is waited for.

    Raises:
        ServiceError: A port is taken, or an address is not this machine's.
    """
    places = [
        ("flower_port", LOOPBACK, service.flower_port),
        ("port", service.listen, service.port),
    ]
    if service.page_port:
        places.append(("page_port", service.page_listen, service.page_port))
    deadline = time.monotonic() + ENDING_SECONDS
    for setting, host, port in places:
        while error := _cannot_listen(host, port):
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise ServiceError(
                    f"nothing of this coordinator can listen on port {port} of {host} "
                    f"({error.strerror}); end what listens there, or choose another {setting} in "
                    f"{SETTINGS}"
                )
            time.sleep(POLL_SECONDS)


def _cannot_listen(host: str, port: int) -> OSError | None:
    """Why nothing could listen there; None where something could."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        return error
    return None


def control_of(home: Path) -> Control:
    """Flower's control at a coordinator that is served.

    Raises:
        HomeError: As ``load``.
    """
    return Control(load(home).flower, home / "flower" / "loopback.pem")


def admit(coordinator: Coordinator, envelope: bytes) -> tuple[str, int]:
    """Let a site's node in, instead of an earlier one of that site.

    The same node again, by a new profile of its site, stays in by the newer word. What Flower has
    lost is registered anew, and what was begun before, and not noted, is ended.

    Args:
        coordinator: Served at this moment.
        envelope: What ``organ-site connect`` made.

    Returns:
        The site, and the id of its node.

    Raises:
        NotError: No member of the federation vouches for the node.
        ServiceError: Flower does not run, or refuses.
    """
    claimed = claims.admission(envelope, coordinator.trust)
    site, control = claimed.profile.site, control_of(coordinator.folder)
    registered = control.registered()
    before, _ = coordinator.catalogue.nodes().get(site, (None, b""))
    if before in registered and registered[before] != claimed.node_key:
        control.unregister(before)
    same = [node for node, key in registered.items() if key == claimed.node_key]
    node = same[0] if same else control.register(claimed.node_key)
    coordinator.catalogue.admitted(site, node, envelope)
    return site, node


def expel(coordinator: Coordinator) -> list[str]:
    """Take back the nodes of sites that the federation has revoked; the sites.

    A certificate that has only run out, or a list that is late, loses nobody its node.

    Raises:
        ServiceError: Flower does not run, or refuses.
    """
    gone: list[str] = []
    control = control_of(coordinator.folder)
    for site, (node, envelope) in coordinator.catalogue.nodes().items():
        try:
            claims.admission(envelope, coordinator.trust)
        except RevokedError:
            if node in control.registered():
                control.unregister(node)
            coordinator.catalogue.expelled(site)
            gone.append(site)
        except CertificateError:
            continue
    return gone


def programs(home: Path, service: Service) -> list[Program]:
    """What to keep running, in order."""
    folder = home / "flower"
    environment = {"FLWR_HOME": str(folder)}
    secret = ("--superexec-auth-secret-file", str(folder / "secret"))
    return [
        Program(
            name="superlink",
            command=command(
                "superlink",
                *("--host", LOOPBACK, "--port", str(service.flower_port)),
                *("--ssl-certfile", str(folder / "loopback.pem")),
                *("--ssl-keyfile", str(folder / "loopback.key")),
                *("--ssl-ca-certfile", str(folder / "loopback.pem")),
                *("--database", str(folder / "state.db")),
                *("--isolation", "process", "--enable-supernode-auth"),
                "--disable-runtime-dependency-installation",
                *secret,
            ),
            environment=environment,
            ready=lambda: answers(LOOPBACK, service.flower_port),
        ),
        Program(
            name="superexec",
            command=command(
                "superexec",
                *(SERVER, APP, ""),
                *("--runtime-api-address", service.flower),
                *("--root-certificates", str(folder / "loopback.pem")),
                *secret,
            ),
            environment=environment,
        ),
        Program(name="keeper", command=python("server.keeper", str(home))),
        Program(name="gateway", command=python("server.gateway", str(home))),
        *_page(home, service),
    ]


def _page(home: Path, service: Service) -> list[Program]:
    if not service.page_port:
        return []
    place = (service.page_listen, str(service.page_port))
    return [Program(name="page", command=python("server.page.app", str(home), *place))]
