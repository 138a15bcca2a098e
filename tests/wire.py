"""What lies between machines: a slow link, and somebody who listens."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from not_core.service.supervisor import LOOPBACK

PIECE = 4096
ETH_P_ALL = 3
HEADERS = struct.Struct("!HH")
"""Of TCP, its ports; they begin where IP's header ends."""


class SlowLink:
    """A port that leads to another one, with so much delay and so few bytes a second.

    Args:
        target: Port on loopback that it leads to.
        rate: Bytes a second in each direction, of all connections together.
        delay: Seconds that each piece takes to cross.
    """

    def __init__(self, target: int, rate: float, delay: float) -> None:
        self._target, self._rate, self._delay = target, rate, delay
        self._free = {False: 0.0, True: 0.0}
        self._lock = threading.Lock()
        self._server = socket.create_server((LOOPBACK, 0))
        self._open = [self._server]
        self._threads: list[threading.Thread] = []
        self.port = int(self._server.getsockname()[1])
        self.passed = 0

    def __enter__(self) -> "SlowLink":
        self._begin(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)  # wakes who waits for it
            one.close()
        for thread in self._threads:
            thread.join()

    def _begin(self, task: Callable[..., None], *given: object) -> None:
        thread = threading.Thread(target=task, args=given)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._server.accept()
                self._open.append(here)
                with contextlib.suppress(ConnectionRefusedError):
                    there = socket.create_connection((LOOPBACK, self._target))
                    self._open.append(there)
                    self._begin(self._pass, True, here, there)
                    self._begin(self._pass, False, there, here)
                    continue
                here.close()

    def _pass(self, upwards: bool, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(PIECE):
                with self._lock:
                    start = max(time.monotonic(), self._free[upwards])
                    self._free[upwards] = start + len(data) / self._rate
                    self.passed += len(data)
                time.sleep(max(0.0, self._free[upwards] + self._delay - time.monotonic()))
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@contextmanager
def listening(folder: Path) -> Iterator[None]:
    """Write what crosses this machine's loopback meanwhile to files, one a direction of a flow.

    Raises:
        PermissionError: This user may not capture packets.
    """
    folder.mkdir()
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
    tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 26)
    tap.bind(("lo", ETH_P_ALL))
    tap.settimeout(0.2)
    stop = threading.Event()

    def capture() -> None:
        flows: dict[str, bytearray] = {}
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                packet, address = tap.recvfrom(1 << 17)
                if address[2] == socket.PACKET_OUTGOING and packet[0] >> 4 == 4 and packet[9] == 6:
                    _keep(flows, packet)
        for name, data in flows.items():
            (folder / name).write_bytes(data)

    thread = threading.Thread(target=capture)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        tap.close()


def _keep(flows: dict[str, bytearray], packet: bytes) -> None:
    ip = 4 * (packet[0] & 15)
    ports = HEADERS.unpack_from(packet, ip)
    payload = packet[ip + 4 * (packet[ip + 12] >> 4) : int.from_bytes(packet[2:4], "big") or None]
    if payload:
        flows.setdefault("{}-{}".format(*ports), bytearray()).extend(payload)
