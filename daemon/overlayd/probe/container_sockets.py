"""Containers of this host to send from, and ICMP sockets in them.

A process that may enter network namespaces (root, by hand) opens the sockets itself. The daemon's unit may not: it gets
them from a service that does nothing else (socket_server.py).
"""

from __future__ import annotations

import json
import math
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path

from overlayd.errors import OverlaydError
from overlayd.kernel import survey
from overlayd.lib.addresses import IPAddress, IPNetwork, ip_address
from overlayd.lib.quick_dataclass import dataclass
from overlayd.probe.containers import BRIDGE, bridge_of, first_on_bridge
from overlayd.probe.peers import SourceContainer
from overlayd.probe.sockets import Socket

# One to send from, and a second one that shows whether a failure is the first one's fault.
AT_MOST = 2
SOCKET = Path("/run/overlayd/containers.sock")
# So long the service is waited for at once, and by a command. It is started for each request, and on a busy host its
# answer comes later: every further look sees whether it is there, until GIVEN_UP_S.
TIMEOUT_S, COMMAND_TIMEOUT_S, GIVEN_UP_S = 5.0, 20.0, 300.0
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

    def __init__(self, *, path: Path = SOCKET, timeout_s: float = TIMEOUT_S) -> None:
        """`path` is the service's socket. Where it does not exist, this process enters containers itself.

        `timeout_s` is how long `containers` may wait for the service at once.
        """
        self._path = path
        self._timeout_s = timeout_s
        self._request: Request | None = None
        self._ports: frozenset[int] | None = None
        self._found: tuple[SourceContainer, ...] = ()
        self._avoided: set[tuple[IPAddress, ...]] = set()
        self._looked_at = 0.0
        self._again_at, self._again_s = math.inf, AGAIN_S
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
        if self._request is not None:
            self._receive(self._request, now, timeout_s=0.0)
        elif ports != self._ports or now >= self._again_at:
            if ports != self._ports:
                self._again_s = AGAIN_S
            self.close()
            self._ports, self.bridge, self.problem = ports, bridge, None
            self._look(now)
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
        self._end_request()

    def _end_request(self) -> None:
        if self._request is not None:
            self._request.close()
            self._request = None

    def _look(self, now: float) -> None:
        if not self._ports:
            self._keep((), now)
            return
        try:
            if self._path.exists():
                self._request = Request(self._path, self.bridge)
                self._receive(self._request, now, timeout_s=self._timeout_s)
            else:
                self._keep(tuple(first_on_bridge(AT_MOST, bridge=self.bridge)), now)
        except (OSError, OverlaydError) as error:
            self._fail(error_text(error), now)

    def _receive(self, request: Request, now: float, *, timeout_s: float) -> None:
        """Take the service's answer, if it is there within `timeout_s`."""
        try:
            found = request.answer(timeout_s=timeout_s)
        except TimeoutError:
            self.problem = "containers cannot be entered yet: overlayd-containers.service has not answered"
            if now - request.asked_at > GIVEN_UP_S:
                self._fail(f"overlayd-containers.service has not answered within {GIVEN_UP_S:g} s", now)
        except OSError as error:
            self._fail(error_text(error), now)
        else:
            self._end_request()
            self.problem = None
            self._keep(found, now)

    def _fail(self, why: str, now: float) -> None:
        self._end_request()
        self.problem = f"containers cannot be entered: {why}"
        self._keep((), now)

    def _keep(self, found: tuple[SourceContainer, ...], now: float) -> None:
        """Send from these from now on; say when to look for more."""
        self._found = found
        self._avoided &= {one.addresses for one in found}
        self._again_at = math.inf
        if len(found) < min(AT_MOST, len(self._ports or ())):
            self._again_at = now + self._again_s
            self._again_s = min(2 * self._again_s, AGAIN_AT_MOST_S)


class Request:
    """One request for sockets, whose answer may come much later. `asked_at` is by time.monotonic."""

    def __init__(self, path: Path, bridge: str) -> None:
        """Ask the service at `path` for sockets in a bridge's containers. Raises OSError."""
        self._path = path
        self._client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.asked_at = time.monotonic()
        try:
            # Where the service does not run, systemd takes both.
            self._client.settimeout(TIMEOUT_S)
            self._client.connect(str(path))
            self._client.send(f"containers {bridge}".encode())
        except BaseException:
            self._client.close()
            raise

    def answer(self, *, timeout_s: float) -> tuple[SocketsInContainer, ...]:
        """The answer. Raises TimeoutError where there is none yet, OSError also for a malformed one."""
        waiting = select.poll()
        waiting.register(self._client, select.POLLIN)
        if not waiting.poll(timeout_s * 1000):
            raise TimeoutError(f"{self._path} has not answered")
        reply, descriptors, _flags, _address = socket.recv_fds(self._client, REPLY_BYTES, DESCRIPTORS)
        if not reply:
            raise OSError(f"{self._path} ended without an answer")
        opened = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        try:
            return _parse(reply, opened)
        except (ValueError, TypeError, KeyError, IndexError, StopIteration) as error:
            for one in opened:
                one.close()
            raise OSError(f"{self._path} sent a malformed reply: {error}") from error

    def close(self) -> None:
        """Ask no more."""
        self._client.close()


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
