"""The containers on a bridge: which address and MAC is behind which of its ports (veth(4)).

The kernel tells of the addresses in a container's network namespace without entering it (IFA_TARGET_NETNSID, Linux
4.20), to whoever has CAP_NET_ADMIN. So what is found is what the container has, not what it claims by ARP.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network

from overlayd.errors import KernelRefused
from overlayd.kernel import interfaces, links
from overlayd.kernel.links import LinkMessage
from overlayd.lib.addresses import IPAddress, IPInterface
from overlayd.lib.quick_dataclass import dataclass

# The queueing discipline of a veth that nobody limits.
_NO_QUEUE = ("noqueue", "noop", None)
# In seconds. What changes inside a container without a change of its port is found so late.
ALL_S = 30.0


@dataclass(frozen=True, kw_only=True)
class ContainerPort:
    """A port of a bridge with a container behind it: its index and name here; the container's MAC and addresses.

    `limited`: an administrator's queueing discipline is on it, which limits or delays what the container gets.
    `restricted`: the bridge lets not all packets through it, as links.LinkMessage has it.
    """

    index: int
    name: str
    mac: str
    addresses: tuple[IPInterface, ...]
    limited: bool = False
    restricted: bool = False

    def address_in(self, subnet: IPv4Network) -> IPv4Address | None:
        """Its one address in a subnet; None where it has none there, or several."""
        found = [one.ip for one in self.addresses if isinstance(one.ip, IPv4Address) and one.ip in subnet]
        return found[0] if len(found) == 1 else None


@dataclass(frozen=True, kw_only=True)
class Bridge:
    """A bridge: its name, index and MAC, and its ports that lead into other network namespaces, by index.

    `addresses` are those of this host. `up`: the bridge is switched on. `bypassed`: see interfaces.bypassed_at.
    """

    name: str
    index: int
    mac: str
    ports: tuple[ContainerPort, ...]
    addresses: frozenset[IPAddress] = frozenset()
    up: bool = True
    bypassed: str | None = None

    def fast(self, subnet: IPv4Network) -> Iterator[ContainerPort]:
        """The containers that may be reached past the bridge: with one address of that subnet, and nothing to bypass.

        None whose address another one has too, or this host: with CAP_NET_ADMIN a container takes any address, and
        would get what is for the other, or for published ports.
        """
        times = Counter(one.ip for port in self.ports for one in port.addresses)
        for port in self.ports:
            address = port.address_in(subnet)
            if address is None or port.limited or port.restricted:
                continue
            if times[address] == 1 and address not in self.addresses:
                yield port


class ContainerPorts:
    """Reads the containers on a bridge: each port where it is another than before, and all of them every ALL_S."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` is in seconds."""
        self._clock = clock
        self._known: dict[tuple[object, ...], ContainerPort] = {}
        self._all_at = clock()

    def read(self, bridge: str) -> Bridge | None:
        """The containers on that bridge; None where there is no such bridge. Raises KernelRefused."""
        if self._clock() - self._all_at >= ALL_S:
            self._known, self._all_at = {}, self._clock()
        known, self._known = self._known, {}
        return _read(bridge, known, self._known)


def read(bridge: str) -> Bridge | None:
    """The containers on that bridge; None where there is no such bridge. Raises KernelRefused."""
    return _read(bridge, {}, {})


def _read(
    bridge: str, known: Mapping[tuple[object, ...], ContainerPort], now: dict[tuple[object, ...], ContainerPort]
) -> Bridge | None:
    try:
        there, addresses = links.read(), links.read_addresses()
    except OSError as error:
        raise KernelRefused("link list", f"of {bridge}", error.errno or errno.EIO) from error
    found = next((link for link in there if link.name == bridge), None)
    if found is None or found.mac is None:
        return None
    ports = []
    for link in there:
        if link.master == found.index and link.kind == "veth":
            key = (link.index, link.name, link.mac, link.peer, link.namespace, link.flags, link.qdisc, link.restricted)
            port = known.get(key) or _port(link)
            if port is not None:
                ports.append(port)
                # One without an address is about to get it.
                if any(address.version == 4 for address in port.addresses):
                    now[key] = port
    return Bridge(
        name=bridge,
        index=found.index,
        mac=found.mac,
        ports=tuple(ports),
        addresses=frozenset(one.address.ip for one in addresses),
        up=found.up,
        bypassed=interfaces.bypassed_at(found),
    )


def _port(link: LinkMessage) -> ContainerPort | None:
    """The port that a link is; None where the container is gone, or the other end is in this namespace."""
    if link.namespace is None:
        return None
    try:
        mac = next((one.mac for one in links.read(link.namespace) if one.index == link.peer), None)
        found = links.read_addresses(link.namespace)
    except OSError:
        return None
    if mac is None:
        return None
    return ContainerPort(
        index=link.index,
        name=link.name,
        mac=mac,
        addresses=tuple(one.address for one in found if one.index == link.peer),
        limited=link.qdisc not in _NO_QUEUE,
        restricted=link.restricted,
    )
