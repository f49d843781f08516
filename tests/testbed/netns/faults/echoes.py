"""Numbered datagrams between the containers of all hosts, each answered, at a steady rate, until the block ends."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from tests.testbed.netns import namespaces
from tests.testbed.netns.lab import Host

Address = IPv4Address | IPv6Address
INTERVAL_S = 0.1
# A datagram without an answer after so long is lost. Two cores and many daemons make late ones, which are not.
ANSWERED_S = 3.0
_PORT = 5207
_ASKS, _ANSWERS = b"q", b"a"
_NUMBER = struct.Struct("!cQ")
_BUFFER_BYTES = 4 * 1024 * 1024
# socket(7); Python has no name for it.
_SO_RCVBUFFORCE = 33
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


@dataclass(frozen=True, kw_only=True)
class Echo:
    """One datagram that was sent. `at` is monotonic, in seconds."""

    source: str
    target: str
    version: int
    at: float

    def __str__(self) -> str:
        return f"{self.source} to {self.target} by IPv{self.version}"


@dataclass(frozen=True, kw_only=True)
class _End:
    """A socket in a host's container."""

    host: str
    address: Address
    socket: socket.socket


class Echoes:
    """The datagrams of a lab. `add`, `drop` and `lost` may be called by any thread while they are sent."""

    def __init__(self) -> None:
        """Sends nothing yet: see `echoing`."""
        self.sent: Counter[tuple[str, str]] = Counter()
        self._ends: list[_End] = []
        self._pending: dict[int, Echo] = {}
        self._number = 0
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def add(self, host: Host) -> None:
        """From now on send from and to the container of this host."""
        addresses = [subnet[2] for subnet in host.subnets]
        ends = [_End(host=host.name, address=one, socket=_open(host.container, one)) for one in addresses]
        with self._lock:
            self._ends += ends

    def drop(self, host: Host) -> None:
        """Send no more from and to this host's container. What is under way to it counts as lost."""
        with self._lock:
            for end in [end for end in self._ends if end.host == host.name]:
                self._ends.remove(end)
                end.socket.close()

    @property
    def hosts(self) -> set[str]:
        """The names of the hosts that send."""
        with self._lock:
            return {end.host for end in self._ends}

    def lost(self) -> list[Echo]:
        """Those that had no answer in time and were not told yet."""
        before = time.monotonic() - ANSWERED_S
        with self._lock:
            late = [number for number, echo in self._pending.items() if echo.at < before]
            return [self._pending.pop(number) for number in late]

    def run(self) -> None:
        """Send and answer until `stop`, in a thread."""
        due = time.monotonic()
        while not self._ended.is_set():
            now = time.monotonic()
            if now >= due:
                # What a busy machine has kept from being sent is not sent later at once.
                due = max(due + INTERVAL_S, now)
                with self._lock:
                    self._send_all()
            with self._lock:
                sockets = {end.socket.fileno(): end.socket for end in self._ends}
            with contextlib.suppress(OSError, ValueError):
                ready, _, _ = select.select(list(sockets), [], [], max(0.0, due - time.monotonic()))
                with self._lock:
                    for number in ready:
                        self._receive(sockets[number])

    def stop(self) -> None:
        """End `run`."""
        self._ended.set()

    def close(self) -> None:
        """Close all sockets."""
        for end in self._ends:
            end.socket.close()

    def _send_all(self) -> None:
        for end in self._ends:
            for other in self._ends:
                if other.host != end.host and other.address.version == end.address.version:
                    self._number += 1
                    echo = Echo(source=end.host, target=other.host, version=end.address.version, at=time.monotonic())
                    self._pending[self._number] = echo
                    self.sent[end.host, other.host] += 1
                    # What cannot even be sent is lost.
                    with contextlib.suppress(OSError):
                        end.socket.sendto(_NUMBER.pack(_ASKS, self._number), (str(other.address), _PORT))

    def _receive(self, end: socket.socket) -> None:
        with contextlib.suppress(OSError, struct.error):
            while True:
                data, sender = end.recvfrom(64)
                kind, number = _NUMBER.unpack(data)
                if kind == _ASKS:
                    end.sendto(_NUMBER.pack(_ANSWERS, number), sender)
                else:
                    self._pending.pop(number, None)


@contextmanager
def echoing() -> Iterator[Echoes]:
    """Echoes for the length of the block, of the hosts that are added in it."""
    echoes = Echoes()
    thread = threading.Thread(target=echoes.run)
    thread.start()
    try:
        yield echoes
    finally:
        echoes.stop()
        thread.join()
        echoes.close()


def _open(namespace: str, address: Address) -> socket.socket:
    def make() -> socket.socket:
        end = socket.socket(_FAMILY[address.version], socket.SOCK_DGRAM)
        end.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        end.bind((str(address), _PORT))
        end.setblocking(False)
        return end

    return namespaces.inside(namespace, make)
