"""The containers on docker0, and ICMP sockets inside them.

A thread of root may enter a container's network namespace and open a socket there. Packets of that socket have the
container's address and meet the same firewall rules as the container's own. Nothing in the container changes, and none
of its programs is used.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from overlayd.errors import KernelRefused, OverlaydError
from overlayd.kernel import interfaces, survey
from overlayd.kernel.namespaces import in_namespace, others
from overlayd.lib import marks
from overlayd.lib.addresses import IPAddress, IPNetwork, contains
from overlayd.lib.quick_dataclass import dataclass
from overlayd.probe.sockets import icmp_socket

BRIDGE = "docker0"


def bridge_of(subnets: Collection[IPNetwork]) -> str:
    """The bridge of this network's containers: docker0 for network 0, else the bridge with the subnet's address."""
    ours = marks.ours()
    if not ours.number:
        return BRIDGE
    with contextlib.suppress(OverlaydError):
        found = [name for name in interfaces.with_address_in(subnets) if not ours.names(name)]
        return found[0] if found else ours.bridge
    return ours.bridge


@dataclass(frozen=True, kw_only=True)
class Container:
    """One container on docker0: its network namespace (file and number), and its addresses in docker0's subnets.

    A restarted container has another number, and perhaps the same addresses.
    """

    namespace: Path
    number: int
    addresses: tuple[IPAddress, ...]

    def address(self, version: int) -> IPAddress | None:
        """Its address of IP version 4 or 6."""
        return next((address for address in self.addresses if address.version == version), None)

    def socket(self, version: int) -> socket.socket:
        """Open a raw ICMP socket in it. Raises OSError where it has just ended, or this process may not enter it."""
        return in_namespace(self.namespace, lambda: icmp_socket(version))


def on_bridge(at_most: int, *, bridge: str = BRIDGE) -> Iterator[Container]:
    """The containers on a bridge, in any order. Raises PermissionError where this process may enter none of them."""
    ports = {link.index for link in survey.links() if link.master == bridge}
    subnets = [
        one.network
        for found in interfaces.read_interfaces()
        if found.name == bridge
        for one in found.addresses
        if not one.is_link_local
    ]
    if not ports or not subnets:
        return
    count, refused = 0, None
    for path, number in others():
        if count >= at_most:
            return
        try:
            addresses = in_namespace(path, lambda: _addresses(ports, subnets))
        except PermissionError as error:
            refused = error
        except (OSError, KernelRefused):
            # The container has just ended.
            continue
        else:
            if addresses:
                count += 1
                yield Container(namespace=path, number=number, addresses=addresses)
    if refused is not None and not count:
        raise refused


def first_on_bridge(at_most: int, *, bridge: str = BRIDGE, looked_at: int = 256) -> list[Container]:
    """The containers with the lowest addresses, so that the choice stays the same while they run."""
    found = sorted(on_bridge(looked_at, bridge=bridge), key=lambda one: min((a.version, int(a)) for a in one.addresses))
    return found[:at_most]


def _addresses(ports: set[int], subnets: Sequence[IPNetwork]) -> tuple[IPAddress, ...]:
    """The addresses in those subnets of this namespace's interfaces whose veth peer is one of those ports."""
    ends = {link.name for link in survey.links() if link.peer in ports and link.up}
    return tuple(
        address.ip
        for found in interfaces.read_interfaces()
        if found.name in ends
        for address in found.addresses
        if any(contains(subnet, address.ip) for subnet in subnets)
    )


def name_of(container: Container) -> str:
    """A name by which people find the container: one of its processes, else the file of its namespace."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (path / "ns/net").stat().st_ino == container.number:
                return f"process {path.name} ({(path / 'comm').read_text(errors='replace').strip()})"
    return container.namespace.name
