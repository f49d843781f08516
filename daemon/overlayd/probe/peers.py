"""Whom to ping, and from which address. Pure: leases and addresses in, targets out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Protocol

from overlayd import backends
from overlayd.errors import ConfigError
from overlayd.monitoring.state import Status

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class Inside(Protocol):
    """A container of this host to send from: its addresses on docker0, and sockets inside it. Compared by value."""

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Its addresses in docker0's subnets."""

    def address(self, version: int) -> Address | None:
        """Its address of IP version 4 or 6."""

    def socket(self, version: int) -> Any:
        """A raw ICMP socket inside it (socket.socket). Raises OSError."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """Addresses of a peer, any of which may answer; where to send from; the largest packet that has to arrive.

    `inside` is the container here that is sent from, instead of an address of this host.
    """

    addresses: tuple[Address, ...]
    source: Address | None = None
    inside: Inside | None = None
    wished_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Target:
    """One peer by one family of its overlay addresses.

    `known`: a container is known to be at the address that `containers` names. `said`: what the daemon here says of it.
    """

    subnet: str
    backend: str
    underlay: Way
    overlay: Way
    containers: Way | None = None
    known: bool = False
    said: str | None = None


# So many addresses of a peer are tried where no container of it is known.
CANDIDATES = 8


@dataclass(frozen=True, kw_only=True)
class KnownPeer:
    """A peer as the daemon's status or etcd name it."""

    subnet: Network
    public_ip: Address
    backend: str


@dataclass(frozen=True, kw_only=True)
class LocalHost:
    """What this host sends from: its own subnets, all addresses that its interfaces have, and its containers' MTU."""

    subnets: tuple[Network, ...] = ()
    addresses: frozenset[Address] = frozenset()
    mtu_bytes: int | None = None
    containers: tuple[Inside, ...] = ()
    """Containers here to send from, the best one first."""
    theirs: Mapping[str, Address] = field(default_factory=dict)
    """A container of each peer, by the peer's subnet, where one is known."""
    said: Mapping[str, str] = field(default_factory=dict)
    """What the daemon here says of each peer that is not reached, by the peer's subnet."""


def known(status: Status, addresses: frozenset[Address]) -> tuple[LocalHost, list[KnownPeer]]:
    """This host, whose interfaces have these addresses, and its peers as a status names them. Pure."""
    here = LocalHost(
        subnets=tuple(ip_network(text) for text in (status.subnet, status.subnet6) if text),
        addresses=addresses,
        mtu_bytes=status.mtu_bytes,
        theirs={one.subnet: ip_address(one.container) for one in status.reach if one.container},
        said={one.subnet: one.problem for one in status.reach if one.problem},
    )
    peers = [
        KnownPeer(subnet=ip_network(subnet), public_ip=ip_address(public_ip), backend=peer.backend)
        for peer in status.peers
        # Nobody is where a subnet is only kept for somebody, and no way leads where none was programmed.
        if peer.path not in ("reserved", None)
        for subnet, public_ip in ((peer.subnet, peer.public_ip), (peer.subnet6, peer.public_ip6))
        if subnet and public_ip
    ]
    return here, peers


def targets(peers: Sequence[KnownPeer], here: LocalHost) -> list[Target]:
    """What to ping of each peer. Pure."""
    return [
        Target(
            subnet=str(peer.subnet),
            backend=peer.backend,
            containers=Way(
                addresses=_where_containers_are(peer.subnet, here),
                inside=(within := sender(here.containers, peer.subnet.version)),
                source=None if within is not None else source_of(peer.subnet.version, here),
                wished_bytes=here.mtu_bytes,
            ),
            known=str(peer.subnet) in here.theirs,
            said=here.said.get(str(peer.subnet)),
            underlay=Way(addresses=(peer.public_ip,), wished_bytes=_carrier_bytes(peer, here)),
            overlay=Way(
                addresses=inside(peer.subnet), source=source_of(peer.subnet.version, here), wished_bytes=here.mtu_bytes
            ),
        )
        for peer in peers
    ]


def inside(subnet: Network) -> tuple[Address, Address]:
    """Where a host answers inside its subnet: on its overlay device (the first address), on docker's bridge (the next).

    With host-gw there is no device, and only the bridge answers.
    """
    return subnet.network_address, subnet.network_address + 1


def chosen(peers: Sequence[KnownPeer], names: Collection[str]) -> list[KnownPeer]:
    """Those that are named: by public address, by subnet, or by any address inside it. All without a name.

    Raises ConfigError for a name that is nobody's.
    """
    if not names:
        return list(peers)
    found: list[KnownPeer] = []
    for name in names:
        here = [peer for peer in peers if _is_named(peer, name)]
        if not here:
            known = ", ".join(f"{peer.public_ip} ({peer.subnet})" for peer in peers) or "none"
            raise ConfigError(f"no peer is {name}", hint=f"known: {known}")
        found += [peer for peer in here if peer not in found]
    return found


def _is_named(peer: KnownPeer, name: str) -> bool:
    try:
        if "/" in name:
            return ip_network(name, strict=False) == peer.subnet
        address = ip_address(name)
    except ValueError:
        return False
    return address == peer.public_ip or (address.version == peer.subnet.version and address in peer.subnet)


def _where_containers_are(subnet: Network, here: LocalHost) -> tuple[Address, ...]:
    known = here.theirs.get(str(subnet))
    return (known,) if known is not None else first_containers(subnet)


def first_containers(subnet: Network) -> tuple[Address, ...]:
    """Where Docker puts a host's first containers: it gives out addresses from the one behind its bridge's on."""
    return tuple(subnet[at] for at in range(2, min(2 + CANDIDATES, subnet.num_addresses - 1)))


def sender(containers: Sequence[Inside], version: int) -> Inside | None:
    """The container here to send from in IP version 4 or 6; None: there is none."""
    return next((one for one in containers if one.address(version) is not None), None)


def source_of(version: int, here: LocalHost) -> Address | None:
    """Our own address inside the overlay: peers take inner packets only from the subnet that a lease names."""
    for own in here.subnets:
        if own.version == version:
            return next((address for address in inside(own) if address in here.addresses), None)
    return None


def _carrier_bytes(peer: KnownPeer, here: LocalHost) -> int | None:
    facts = backends.facts_of(peer.backend)
    if here.mtu_bytes is None or facts is None or facts.overhead_bytes is None:
        return None
    return here.mtu_bytes + facts.overhead_bytes[peer.public_ip.version]


def describe_source(here: LocalHost, problem: str | None, bridge: str) -> str:
    """From where containers of peers are asked, and what that cannot show. `problem` is why no container here is."""
    if here.containers:
        return f"container {', '.join(map(str, here.containers[0].addresses))}"
    why = problem or f"no container runs on {bridge}"
    own = next((str(address) for subnet in here.subnets for address in inside(subnet) if address in here.addresses), "")
    return f"this host itself{f', {own}' if own else ''} ({why}): what rules do to containers' packets here is not seen"
