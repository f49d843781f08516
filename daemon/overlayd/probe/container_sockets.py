"""Containers of this host to send from, by sockets that are open inside them.

Who may enter network namespaces (root by hand) does it itself. The daemon's unit may not: it asks a service that does
nothing else (socket_server.py), and gets the sockets.
"""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from overlayd.errors import OverlaydError
from overlayd.kernel import survey
from overlayd.lib.addresses import IPAddress, IPNetwork, ip_address
from overlayd.probe.containers import BRIDGE, bridge_of, first_on_bridge
from overlayd.probe.peers import SourceContainer
from overlayd.probe.sockets import Socket

# One to send from, and one to see whether it is that one's fault.
AT_MOST = 2
SOCKET = Path("/run/overlayd/containers.sock")
TIMEOUT_S = 5.0
# Whether docker0 has other ports than before is looked at so often at most.
LOOK_S = 3.0
# A port is there before its container has an address, and the service may not have answered: where fewer containers
# were found than there could be, it is looked again after so long, and after twice that each time.
AGAIN_S, AGAIN_AT_MOST_S = 3.0, 60.0
REPLY_BYTES = 4096
# An IPv4 and an IPv6 socket of each.
DESCRIPTORS = 2 * AT_MOST


@dataclass(frozen=True)
class SocketsInContainer:
    """A container that another process has entered for us; `number` is its namespace's. Each socket is had once."""

    number: int
    addresses: tuple[IPAddress, ...]
    sockets: dict[int, Socket] = field(compare=False, repr=False)

    def address(self, version: int) -> IPAddress | None:
        """Its address of IP version 4 or 6."""
        return next((address for address in self.addresses if address.version == version), None)

    def socket(self, version: int) -> Socket:
        """The socket inside it; whoever takes it closes it. Raises OSError where it was taken already."""
        try:
            return self.sockets.pop(version)
        except KeyError:
            raise OSError(f"no IPv{version} socket was lent for {self.addresses[0]}") from None

    def close(self) -> None:
        """Close what nobody took."""
        for one in self.sockets.values():
            one.close()


class ContainerSockets:
    """Knows the containers to send from, and looks anew when docker0's ports have changed. In one thread."""

    def __init__(self, *, path: Path = SOCKET) -> None:
        """`path` is where the service listens; where nothing is there, containers are entered by this process."""
        self._path = path
        self._ports: frozenset[int] | None = None
        self._found: tuple[SourceContainer, ...] = ()
        self._avoided: set[tuple[IPAddress, ...]] = set()
        self._looked_at = 0.0
        self._again_at, self._again_s = math.inf, AGAIN_S
        self.problem: str | None = None
        self.bridge = BRIDGE

    def containers(self, subnets: Sequence[IPNetwork]) -> tuple[SourceContainer, ...]:
        """On the bridge that has these subnets, which are ours: up to AT_MOST containers.

        None, and `problem` says why, where none may be entered. Never raises.
        """
        now = time.monotonic()
        if self._ports is not None and now - self._looked_at < LOOK_S:
            return self._sorted()
        self._looked_at = now
        try:
            bridge = bridge_of(subnets)
            ports = _ports(bridge)
        except (OSError, OverlaydError) as error:
            self.problem = f"the bridge of this host's containers cannot be read: {error_text(error)}"
            return self._sorted()
        if ports != self._ports:
            self._again_s = AGAIN_S
        if ports != self._ports or now >= self._again_at:
            self.close()
            self._ports, self.bridge, self.problem = ports, bridge, None
            self._found = self._look() if ports else ()
            self._avoided &= {one.addresses for one in self._found}
            self._again_at = math.inf
            if len(self._found) < min(AT_MOST, len(ports)):
                self._again_at = now + self._again_s
                self._again_s = min(2 * self._again_s, AGAIN_AT_MOST_S)
        return self._sorted()

    def _sorted(self) -> tuple[SourceContainer, ...]:
        return tuple(sorted(self._found, key=lambda one: one.addresses in self._avoided))

    def avoid(self, container: SourceContainer) -> None:
        """Send from another one, as long as there is one: this one's own packets get nowhere."""
        self._avoided.add(container.addresses)

    def close(self) -> None:
        """Close what was lent and not taken. The next question looks anew."""
        for one in self._found:
            if isinstance(one, SocketsInContainer):
                one.close()
        self._found, self._ports = (), None

    def _look(self) -> tuple[SourceContainer, ...]:
        try:
            if self._path.exists():
                return request_sockets(self._path, self.bridge)
            return tuple(first_on_bridge(AT_MOST, bridge=self.bridge))
        except (OSError, OverlaydError) as error:
            self.problem = f"containers cannot be entered: {error_text(error)}"
            return ()


def request_sockets(path: Path, bridge: str = BRIDGE) -> tuple[SocketsInContainer, ...]:
    """Ask the service at a path for containers on a bridge. Raises OSError, also for an answer that is none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asked:
        asked.settimeout(TIMEOUT_S)
        asked.connect(str(path))
        asked.send(f"containers {bridge}".encode())
        reply, descriptors, _flags, _address = socket.recv_fds(asked, REPLY_BYTES, DESCRIPTORS)
    lent = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    try:
        return _parse(reply, lent)
    except (ValueError, TypeError, KeyError, IndexError, StopIteration) as error:
        for one in lent:
            one.close()
        raise OSError(f"{path} answers what is no answer: {error}") from error


def _parse(reply: bytes, lent: list[Socket]) -> tuple[SocketsInContainer, ...]:
    document = json.loads(reply)
    if "problem" in document:
        raise OSError(str(document["problem"]))
    found, rest = [], iter(lent)
    for one in document["containers"]:
        addresses = tuple(ip_address(text) for text in one["addresses"])
        found.append(
            SocketsInContainer(int(one["number"]), addresses, {version: next(rest) for version in one["versions"]})
        )
    return tuple(found)


def error_text(error: Exception) -> str:
    """An error's own words, without a number or a file."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _ports(bridge: str) -> frozenset[int]:
    links = survey.links()
    return frozenset(link.index for link in links if link.master == bridge and link.up)
