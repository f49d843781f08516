"""Who is kept out, as rules that iptables and nftables both render. Pure: no I/O.

A packet reaches a container of this host from the host's own containers, from a peer's container by that peer, or by a
published port; and this host forwards nobody else's packets into the overlay. What each rule is against: SECURITY.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from overlayd.firewall.rules import DesiredRules, Overlay
from overlayd.lib.addresses import IPNetwork

ACCEPT, DROP, RETURN = "accept", "drop", "return"
ICMP = {4: "icmp", 6: "ipv6-icmp"}


@dataclass(frozen=True, kw_only=True)
class FilterRule:
    """One rule: all that is set must match. Networks, addresses and sets are of the chain's IP version.

    `source_peer` and `destination_peer`: whether that address is a peer's public one. `source_leased` and
    `destination_leased`: whether it is in a peer's subnet. `local`: the destination is an address of this host.
    `source_mac`: the link's address that it came from. `begins`: the packet belongs to no connection that is known
    already.
    """

    verdict: str
    in_device: str | None = None
    out_device: str | None = None
    source: IPNetwork | None = None
    destination: IPNetwork | None = None
    protocol: str | None = None
    port: int | None = None
    source_mac: str | None = None
    source_peer: bool | None = None
    destination_peer: bool | None = None
    source_leased: bool | None = None
    destination_leased: bool | None = None
    local: bool = False
    begins: bool = False

    @property
    def asks_for_peers(self) -> bool:
        """Whether the set of peers' addresses is needed."""
        return self.source_peer is not None or self.destination_peer is not None

    @property
    def asks_for_subnets(self) -> bool:
        """Whether the set of peers' subnets is needed."""
        return self.source_leased is not None or self.destination_leased is not None


@dataclass(frozen=True, kw_only=True)
class FilterRules:
    """The rules of one IP version.

    `early`: before connections are looked at. `prerouting`: after that, and before addresses are translated.
    `delivered`: for packets to this host itself, before all filters; `to_host`: after those of the administrator.
    `forwarded`: for packets that leave again, before all filters.
    """

    early: tuple[FilterRule, ...] = field(default=())
    prerouting: tuple[FilterRule, ...] = field(default=())
    delivered: tuple[FilterRule, ...] = field(default=())
    forwarded: tuple[FilterRule, ...] = field(default=())
    to_host: tuple[FilterRule, ...] = field(default=())


def strangers(wanted: DesiredRules, version: int) -> FilterRules:
    """The rules of one IP version; none where there is no overlay of it."""
    overlay = wanted.overlay(version)
    if overlay is None:
        return FilterRules()
    return FilterRules(
        early=tuple(_from_devices(wanted, overlay)),
        prerouting=tuple(_beside(wanted, overlay)),
        delivered=tuple(_carriers_here(wanted, version)),
        forwarded=tuple(_carriers_passed_on(wanted, version)),
        to_host=tuple(_to_host(wanted, overlay)),
    )


def accept_rules(wanted: DesiredRules, overlay: Overlay) -> list[FilterRule]:
    """From whom Docker lets packets through to containers because we say so."""
    network, subnet, bridge = overlay.network, overlay.subnet, wanted.bridge
    way = FilterRule(verdict=ACCEPT, out_device=bridge, destination=subnet)
    return [
        *(replace(way, in_device=device, source=network) for device in wanted.devices),
        # A peer's host itself has the underlay's address there.
        *(replace(way, in_device=device, source_peer=True) for device in wanted.underlays),
        *(replace(way, source=one) for one in wanted.trusts(network.version)),
    ]


def left_open(wanted: DesiredRules, backend: str | None) -> tuple[str, ...]:
    """What others can do on this host where nothing keeps the rules (`backend` None), in words; else nothing."""
    if backend is not None or not wanted.overlays:
        return ()
    networks = ", ".join(str(overlay.network) for overlay in wanted.overlays)
    found = [
        f"firewall is none: whoever has a route to {networks} by this host reaches containers here and on peers",
    ]
    for listening in wanted.listens:
        if not listening.anyone:
            found.append(f"firewall is none: {listening} is taken from anybody, so anybody can send to containers")
    return tuple(found)


def _from_devices(wanted: DesiredRules, overlay: Overlay) -> list[FilterRule]:
    """What may come out of the overlay: from the network's other subnets, to this host's."""
    network, subnet = overlay.network, overlay.subnet
    found = []
    for device in wanted.devices:
        if device not in wanted.tunnels:
            # By plain routes peers come from the segment itself. A router of it, which is no peer, brings strangers.
            leased = _from(replace(overlay, shared=True))
            found += [replace(rule, in_device=device, source_mac=mac) for mac in wanted.routers for rule in leased]
        found += [
            FilterRule(verdict=DROP, in_device=device, source=subnet),
        ]
        if device in wanted.tunnels:
            found += [
                FilterRule(verdict=ACCEPT, in_device=device, source=network, destination=subnet),
                FilterRule(verdict=DROP, in_device=device),
            ]
        else:
            found += _by_plain_route(device, overlay)
    trusted = wanted.trusts(overlay.network.version)
    if trusted:
        # A container may claim to be from there.
        found += [FilterRule(verdict=RETURN, in_device=bridge) for bridge in (wanted.bridge, *wanted.other_bridges)]
    return [*found, *(FilterRule(verdict=ACCEPT, source=one, destination=subnet) for one in trusted)]


def _from(overlay: Overlay) -> list[FilterRule]:
    """Drops what claims to be from the network. Where others live in it too, only what claims to be from a lease."""
    if not overlay.shared:
        return [FilterRule(verdict=DROP, source=overlay.network)]
    return [FilterRule(verdict=DROP, source=overlay.subnet), FilterRule(verdict=DROP, source_leased=True)]


def _to(overlay: Overlay) -> list[FilterRule]:
    """The same of what is for it."""
    if not overlay.shared:
        return [FilterRule(verdict=DROP, destination=overlay.network)]
    return [FilterRule(verdict=DROP, destination=overlay.subnet), FilterRule(verdict=DROP, destination_leased=True)]


def _by_plain_route(device: str, overlay: Overlay) -> list[FilterRule]:
    """Packets of peers' containers; and of the peers themselves, which have the underlay's address there."""
    return [
        FilterRule(
            verdict=ACCEPT,
            in_device=device,
            source=overlay.network,
            source_leased=True,
            destination=overlay.subnet,
        ),
        FilterRule(verdict=ACCEPT, in_device=device, source_peer=True, destination=overlay.subnet),
    ]


def _carriers(wanted: DesiredRules, version: int) -> list[FilterRule]:
    """One rule without conditions for each kind of packet that the backend takes from peers only."""
    return [
        FilterRule(verdict=DROP, protocol=listening.protocol, port=listening.port)
        for listening in wanted.listens
        if listening.version == version and not listening.anyone
    ]


def _carriers_here(wanted: DesiredRules, version: int) -> list[FilterRule]:
    """The backend's own packets: from peers only, and from no container, whatever address of this host they are for.

    A kernel's VXLAN socket takes what is for any address: broadcast, multicast and anycast too, and that of docker0,
    which peers' containers reach by the overlay.
    """
    found = []
    for carrier in _carriers(wanted, version):
        found += [replace(carrier, in_device=bridge) for bridge in (wanted.bridge, *wanted.other_bridges)]
        found.append(replace(carrier, source_peer=False))
    return found


def _carriers_passed_on(wanted: DesiredRules, version: int) -> list[FilterRule]:
    """What would leave for a peer's backend with this host's address, where it is masqueraded.

    A container's is dropped by the underlay to whatever address: a peer has others than its public one, and its
    kernel's VXLAN socket takes what is for any.
    """
    found = []
    for carrier in _carriers(wanted, version):
        for bridge in (wanted.bridge, *wanted.other_bridges):
            found.append(replace(carrier, in_device=bridge, destination_peer=True))
            if wanted.underlay is not None:
                found.append(replace(carrier, in_device=bridge, out_device=wanted.underlay))
        found.append(replace(carrier, source_peer=False, destination_peer=True))
    return found


def _beside(wanted: DesiredRules, overlay: Overlay) -> list[FilterRule]:
    """What comes by no device of the overlay and claims to be from the network, or is for it."""
    network, subnet = overlay.network, overlay.subnet
    found = [FilterRule(verdict=ACCEPT, in_device=name) for name in ("lo", *wanted.tunnels)]
    found += _between_networks(wanted, overlay)
    for device in wanted.underlays:
        found += _by_plain_route(device, overlay)
    leased = _from(replace(overlay, shared=True))
    found += [
        FilterRule(verdict=ACCEPT, in_device=wanted.bridge, source=subnet),
        # Also as part of a connection that is known: its end is on the bridge.
        FilterRule(verdict=DROP, source=subnet),
        # A bridge that still has the subnet of before: out of the network its containers go on, into it they do not.
        # Neighbour discovery is of no subnet.
        FilterRule(verdict=ACCEPT, in_device=wanted.bridge, local=True),
        *(replace(rule, in_device=wanted.bridge, begins=True) for rule in _to(overlay)),
        FilterRule(verdict=ACCEPT, in_device=wanted.bridge),
        # From here on nobody has peers' addresses but who answers this host.
        *(replace(rule, begins=True) for rule in leased),
        # Containers of other networks of this host are masqueraded on their way to peers; Docker keeps them from
        # docker0's. None of them has an address of the network.
        *(replace(rule, in_device=bridge, begins=True) for bridge in wanted.other_bridges for rule in _from(overlay)),
        *(FilterRule(verdict=ACCEPT, in_device=bridge) for bridge in wanted.other_bridges),
        *(FilterRule(verdict=ACCEPT, source=one) for one in wanted.trusts(network.version)),
        # Who is in the network and leased nothing there, behind some router, reaches this host, and goes no further.
        FilterRule(verdict=ACCEPT, source=network, local=True),
        *(replace(rule, begins=True) for rule in _from(overlay)),
        # The bridge's own address is this host's, and its published ports are there.
        FilterRule(verdict=ACCEPT, destination=network, local=True),
    ]
    if wanted.direct_routing:
        found.append(FilterRule(verdict=ACCEPT, destination=subnet))
    return [*found, *(replace(rule, begins=True) for rule in _to(overlay))]


def _between_networks(wanted: DesiredRules, overlay: Overlay) -> list[FilterRule]:
    """Containers of two networks of this host do not reach each other, whatever source address they claim.

    Each network keeps both directions, as the other's rules may be older than this network. What answers a published
    port's connection, which Docker let through, goes on.
    """
    found = []
    for other in wanted.others:
        if other.network.version == overlay.network.version:
            closed = FilterRule(verdict=DROP, begins=True)
            found.append(replace(closed, in_device=wanted.bridge, destination=other.network))
            found += [replace(closed, in_device=name, destination=overlay.network) for name in other.bridges]
    return found


def _to_host(wanted: DesiredRules, overlay: Overlay) -> list[FilterRule]:
    """Containers of peers do not reach this host's own ports by the overlay, which is a way that was not there before.

    They may ping it, and answer it.
    """
    found = []
    for device in wanted.devices:
        found.append(FilterRule(verdict=RETURN, in_device=device, protocol=ICMP[overlay.network.version]))
        closed = FilterRule(verdict=DROP, in_device=device, destination=overlay.subnet, begins=True)
        if device in wanted.tunnels:
            found.append(closed)
        else:
            found += [replace(closed, source=overlay.network), replace(closed, source_peer=True)]
    return found
