"""Which addresses of peers to ping, and from where. Pure: leases and addresses in, targets out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Protocol

from overlayd import backends
from overlayd.errors import ConfigError
from overlayd.lib.quick_dataclass import dataclass
from overlayd.monitoring.state import Peer, Status

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class SourceContainer(Protocol):
    """A container of this host to send from: its addresses on docker0, and sockets inside it. Compared by value."""

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Its addresses in docker0's subnets."""

    def address(self, version: int) -> Address | None:
        """Its address of IP version 4 or 6."""

    def socket(self, version: int) -> Any:
        """A raw ICMP socket inside it (socket.socket). Raises OSError."""


@dataclass(frozen=True, kw_only=True)
class PathSpec:
    """One path to a peer: its addresses, one of which has to answer, and the sender.

    `container` is the container of this host that sends; without one this host sends, from `source` if given.
    `wished_bytes` is the largest packet that has to get through.
    """

    addresses: tuple[Address, ...]
    source: Address | None = None
    container: SourceContainer | None = None
    wished_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class PingTarget:
    """One peer by one family of its overlay addresses.

    `known`: a container is known to be at the address in `containers`. `said`: the problem that this host's daemon
    reports of this peer.
    """

    subnet: str
    backend: str
    underlay: PathSpec
    overlay: PathSpec
    containers: PathSpec | None = None
    known: bool = False
    said: str | None = None


# How many addresses of a peer are tried where none of its containers is known.
CANDIDATES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownPeer:
    """A peer by one IP version, from the daemon's status or from etcd.

    `host` is an address that the peer has in both IP versions; None: it is known by `public_ip` alone.
    """

    subnet: Network
    public_ip: Address
    backend: str
    host: Address | None = None


@dataclass(frozen=True, kw_only=True)
class LocalHost:
    """This host: its subnets, its interfaces' addresses, its containers' MTU, and what it knows of peers."""

    subnets: tuple[Network, ...] = ()
    addresses: frozenset[Address] = frozenset()
    mtu_bytes: int | None = None
    containers: tuple[SourceContainer, ...] = ()
    """Containers of this host to send from, the best one first."""
    peer_containers: Mapping[str, Address] = field(default_factory=dict)
    """A container of each peer, by the peer's subnet, where one is known."""
    peer_problems: Mapping[str, str] = field(default_factory=dict)
    """The problem that the daemon reports of each peer that is not reached, by the peer's subnet."""


def known(status: Status, addresses: frozenset[Address]) -> tuple[LocalHost, list[KnownPeer]]:
    """This host, whose interfaces have these addresses, and its peers, both from the daemon's status. Pure."""
    return local_host(status, addresses), known_peers(status.peers)


def local_host(status: Status, addresses: frozenset[Address]) -> LocalHost:
    """This host, whose interfaces have these addresses, from the daemon's status. Pure."""
    return LocalHost(
        subnets=tuple(ip_network(text) for text in (status.subnet, status.subnet6) if text),
        addresses=addresses,
        mtu_bytes=status.mtu_bytes,
        peer_containers={one.subnet: ip_address(one.container) for one in status.reach if one.container},
        peer_problems={one.subnet: one.problem for one in status.reach if one.problem},
    )


def known_peers(peers: Iterable[Peer]) -> list[KnownPeer]:
    """Those of the status's peers that have something in the kernel here, each by each of its IP versions. Pure."""
    return [
        KnownPeer(
            subnet=ip_network(subnet),
            public_ip=(address := ip_address(public_ip)),
            backend=peer.backend,
            host=ip_address(peer.public_ip) if peer.public_ip not in (None, public_ip) else address,
        )
        for peer in peers
        # A reserved subnet has no host, and without a path nothing was configured in the kernel.
        if peer.path not in ("reserved", None)
        for subnet, public_ip in ((peer.subnet, peer.public_ip), (peer.subnet6, peer.public_ip6))
        if subnet and public_ip
    ]


def targets(peers: Sequence[KnownPeer], local: LocalHost) -> list[PingTarget]:
    """The paths to ping of each peer. Pure."""
    return [
        PingTarget(
            subnet=str(peer.subnet),
            backend=peer.backend,
            containers=PathSpec(
                addresses=_where_containers_are(peer.subnet, local),
                container=(within := sender(local.containers, peer.subnet.version)),
                source=None if within is not None else source_of(peer.subnet.version, local),
                wished_bytes=local.mtu_bytes,
            ),
            known=str(peer.subnet) in local.peer_containers,
            said=local.peer_problems.get(str(peer.subnet)),
            underlay=PathSpec(addresses=(peer.public_ip,), wished_bytes=_carrier_bytes(peer, local)),
            overlay=PathSpec(
                addresses=host_addresses(peer.subnet),
                source=source_of(peer.subnet.version, local),
                wished_bytes=local.mtu_bytes,
            ),
        )
        for peer in peers
    ]


def host_addresses(subnet: Network) -> tuple[Address, Address]:
    """A host's own addresses in its subnet: the first is its overlay device's, the second its docker bridge's.

    With host-gw there is no such device, and only the bridge's address answers.
    """
    return subnet.network_address, subnet.network_address + 1


def chosen(peers: Sequence[KnownPeer], names: Collection[str]) -> list[KnownPeer]:
    """The peers with these names: a public address, a subnet, or an address in the subnet. All peers without names.

    Raises ConfigError for a name that no peer has.
    """
    if not names:
        return list(peers)
    found: list[KnownPeer] = []
    for name in names:
        local = [peer for peer in peers if _is_named(peer, name)]
        if not local:
            known = ", ".join(f"{peer.public_ip} ({peer.subnet})" for peer in peers) or "none"
            raise ConfigError(f"no peer is {name}", hint=f"known: {known}")
        found += [peer for peer in local if peer not in found]
    return found


def _is_named(peer: KnownPeer, name: str) -> bool:
    try:
        if "/" in name:
            return ip_network(name, strict=False) == peer.subnet
        address = ip_address(name)
    except ValueError:
        return False
    return address == peer.public_ip or (address.version == peer.subnet.version and address in peer.subnet)


def _where_containers_are(subnet: Network, local: LocalHost) -> tuple[Address, ...]:
    known = local.peer_containers.get(str(subnet))
    return (known,) if known is not None else first_containers(subnet)


def first_containers(subnet: Network) -> tuple[Address, ...]:
    """The addresses of a host's first containers: Docker hands out those after its bridge's, in order."""
    return tuple(subnet[at] for at in range(2, min(2 + CANDIDATES, subnet.num_addresses - 1)))


def sender(containers: Sequence[SourceContainer], version: int) -> SourceContainer | None:
    """The first of these containers that has an address of IP version 4 or 6; None without one."""
    return next((one for one in containers if one.address(version) is not None), None)


def source_of(version: int, local: LocalHost) -> Address | None:
    """This host's own address in its subnet, from which peers accept packets of the overlay; None without one."""
    for own in local.subnets:
        if own.version == version:
            return next((address for address in host_addresses(own) if address in local.addresses), None)
    return None


def _carrier_bytes(peer: KnownPeer, local: LocalHost) -> int | None:
    facts = backends.facts_of(peer.backend)
    if local.mtu_bytes is None or facts is None or facts.overhead_bytes is None:
        return None
    return local.mtu_bytes + facts.overhead_bytes[peer.public_ip.version]


def describe_source(local: LocalHost, problem: str | None, bridge: str) -> str:
    """Where echoes to peers' containers are sent from, and what that cannot show. `problem`: why no container sends."""
    if local.containers:
        return f"container {', '.join(map(str, local.containers[0].addresses))}"
    why = problem or f"no container runs on {bridge}"
    own = next(
        (str(address) for subnet in local.subnets for address in host_addresses(subnet) if address in local.addresses),
        "",
    )
    return f"this host itself{f', {own}' if own else ''} ({why}): what rules do to containers' packets here is not seen"
