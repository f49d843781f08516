"""Containers of this host to send from, and ICMP sockets in them.

A process that may enter network namespaces (root, by hand) opens the sockets itself. The daemon's unit may not: it gets
them from a service that does nothing else (socket_server.py).
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

# One to send from, and a second one that shows whether a failure is the first one's fault.
AT_MOST = 2
SOCKET = Path("/run/overlayd/containers.sock")
# The service is started for each request. An answer that came too late is waited for twice as long the next time.
TIMEOUT_S, TIMEOUT_AT_MOST_S = 5.0, 20.0
# How often docker0's ports are read at most.
LOOK_S = 3.0
# A port exists before its container has an address, and the service may not have answered. Where fewer containers than
# ports were found, they are looked for again after AGAIN_S, and each time after twice as long.
AGAIN_S, AGAIN_AT_MOST_S = 3.0, 60.0
REPLY_BYTES = 4096
# An IPv4 and an IPv6 socket of each.
DESCRIPTORS = 2 * AT_MOST


@dataclass(frozen=True)
class SocketsInContainer:
    """Sockets that the service opened in a container. `number` is that of its network namespace."""

    number: int
    addresses: tuple[IPAddress, ...]
    sockets: dict[int, Socket] = field(compare=False, repr=False)

    def address(self, version: int) -> IPAddress | None:
        """Its address of IP version 4 or 6."""
        return next((address for address in self.addresses if address.version == version), None)

    def socket(self, version: int) -> Socket:
        """Take the socket, once; the caller closes it. Raises OSError where it was taken already."""
        try:
            return self.sockets.pop(version)
        except KeyError:
            raise OSError(f"no IPv{version} socket was opened for {self.addresses[0]}") from None

    def close(self) -> None:
        """Close the sockets that nobody took."""
        for one in self.sockets.values():
            one.close()


class ContainerSockets:
    """Finds the containers to send from, again whenever docker0's ports have changed. For one thread."""

    def __init__(self, *, path: Path = SOCKET) -> None:
        """`path` is the service's socket. Where it does not exist, this process enters containers itself."""
        self._path = path
        self._ports: frozenset[int] | None = None
        self._found: tuple[SourceContainer, ...] = ()
        self._avoided: set[tuple[IPAddress, ...]] = set()
        self._looked_at = 0.0
        self._again_at, self._again_s = math.inf, AGAIN_S
        self._timeout_s = TIMEOUT_S
        self.problem: str | None = None
        self.bridge = BRIDGE

    def containers(self, subnets: Sequence[IPNetwork]) -> tuple[SourceContainer, ...]:
        """Up to AT_MOST containers on the bridge that has these subnets, which are this host's.

        Empty, and `problem` says why, where no container can be entered. Never raises.
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
        """Prefer any other container from now on, because this one's own packets get lost."""
        self._avoided.add(container.addresses)

    def close(self) -> None:
        """Close the sockets that nobody took. The next call of `containers` looks again."""
        for one in self._found:
            if isinstance(one, SocketsInContainer):
                one.close()
        self._found, self._ports = (), None

    def _look(self) -> tuple[SourceContainer, ...]:
        try:
            if self._path.exists():
                return request_sockets(self._path, self.bridge, timeout_s=self._timeout_s)
            return tuple(first_on_bridge(AT_MOST, bridge=self.bridge))
        except (OSError, OverlaydError) as error:
            if isinstance(error, TimeoutError):
                self._timeout_s = min(2 * self._timeout_s, TIMEOUT_AT_MOST_S)
            self.problem = f"containers cannot be entered: {error_text(error)}"
            return ()


def request_sockets(
    path: Path, bridge: str = BRIDGE, *, timeout_s: float = TIMEOUT_S
) -> tuple[SocketsInContainer, ...]:
    """Get sockets in a bridge's containers from the service at `path`. Raises OSError, also for a malformed reply."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.settimeout(timeout_s)
        client.connect(str(path))
        client.send(f"containers {bridge}".encode())
        reply, descriptors, _flags, _address = socket.recv_fds(client, REPLY_BYTES, DESCRIPTORS)
    opened = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    try:
        return _parse(reply, opened)
    except (ValueError, TypeError, KeyError, IndexError, StopIteration) as error:
        for one in opened:
            one.close()
        raise OSError(f"{path} sent a malformed reply: {error}") from error


def _parse(reply: bytes, opened: list[Socket]) -> tuple[SocketsInContainer, ...]:
    document = json.loads(reply)
    if "problem" in document:
        raise OSError(str(document["problem"]))
    found, rest = [], iter(opened)
    for one in document["containers"]:
        addresses = tuple(ip_address(text) for text in one["addresses"])
        found.append(
            SocketsInContainer(int(one["number"]), addresses, {version: next(rest) for version in one["versions"]})
        )
    return tuple(found)


def error_text(error: Exception) -> str:
    """The text of an error, without its number and file."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _ports(bridge: str) -> frozenset[int]:
    links = survey.links()
    return frozenset(link.index for link in links if link.master == bridge and link.up)
