"""The rules that keep strangers out, for iptables and nftables alike. Pure: no I/O.

A stranger is whoever is neither a peer, nor a container of this host or of a peer. These rules drop a stranger's
packets to containers of this host, unless Docker publishes the port, and packets of strangers that this host would
forward into the overlay. They drop spoofed packets too: with a source address of the overlay, and not from where that
subnet is. SECURITY.md names the attack behind each rule.
"""

from __future__ import annotations

from dataclasses import field, replace

from overlayd.firewall.rules import DesiredRules, Overlay
from overlayd.lib.addresses import IPNetwork
from overlayd.lib.quick_dataclass import dataclass

ACCEPT, DROP, RETURN = "accept", "drop", "return"
ICMP = {4: "icmp", 6: "ipv6-icmp"}


@dataclass(frozen=True, kw_only=True)
class FilterRule:
    """One rule with its verdict. A packet has to match every field that is set; networks are of the chain's IP version.

    `source_peer` and `destination_peer`: that address is (True) or is not (False) the public address of a peer.
    `source_leased` and `destination_leased`: that address is or is not in the subnet of a peer. `local`: the
    destination is an address of this host. `source_mac`: the link address of the sender on this link.
    `not_established`: connection tracking has the packet in no established connection, nor related to one.
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
    not_established: bool = False

    @property
    def uses_peers(self) -> bool:
        """Whether the rule looks into the set of peers' public addresses."""
        return self.source_peer is not None or self.destination_peer is not None

    @property
    def uses_leased(self) -> bool:
        """Whether the rule looks into the set of peers' subnets."""
        return self.source_leased is not None or self.destination_leased is not None


@dataclass(frozen=True, kw_only=True)
class FilterRules:
    """The rules of one IP version, by the place where a packet meets them.

    `raw`: hook prerouting, before connection tracking. `prerouting`: the same hook after it, and before addresses are
    translated. `input` and `forward`: these hooks before every other filter. `input_last`: hook input, after the rules
    of the administrator.
    """

    raw: tuple[FilterRule, ...] = field(default=())
    prerouting: tuple[FilterRule, ...] = field(default=())
    input: tuple[FilterRule, ...] = field(default=())
    forward: tuple[FilterRule, ...] = field(default=())
    input_last: tuple[FilterRule, ...] = field(default=())


def stranger_rules(desired: DesiredRules, version: int) -> FilterRules:
    """The rules of one IP version; no rules where there is no overlay of that version."""
    overlay = desired.overlay(version)
    if overlay is None:
        return FilterRules()
    return FilterRules(
        raw=tuple(_raw(desired, overlay)),
        prerouting=tuple(_prerouting(desired, overlay)),
        input=tuple(_backend_input(desired, version)),
        forward=tuple(_backend_forward(desired, version)),
        input_last=tuple(_host_ports(desired, overlay)),
    )


def accept_rules(desired: DesiredRules, overlay: Overlay) -> list[FilterRule]:
    """The forwarded packets to containers of this host that Docker's own rules must not drop."""
    network, subnet, bridge = overlay.network, overlay.subnet, desired.bridge
    accept = FilterRule(verdict=ACCEPT, out_device=bridge, destination=subnet)
    return [
        *(replace(accept, in_device=device, source=network) for device in desired.devices),
        # What a peer's host itself sends by a plain route has the peer's public address.
        *(replace(accept, in_device=device, source_peer=True) for device in desired.underlays),
        *(replace(accept, source=one) for one in desired.trusts(network.version)),
    ]


def left_open(desired: DesiredRules, backend: str | None) -> tuple[str, ...]:
    """Sentences: what strangers can do on this host where no `backend` keeps the rules; empty where one does."""
    if backend is not None or not desired.overlays:
        return ()
    networks = ", ".join(str(overlay.network) for overlay in desired.overlays)
    found = [
        f"firewall is none: whoever has a route to {networks} by this host reaches containers here and on peers",
    ]
    for listening in desired.listens:
        if not listening.anyone:
            found.append(f"firewall is none: {listening} is taken from anybody, so anybody can send to containers")
    return tuple(found)


def _raw(desired: DesiredRules, overlay: Overlay) -> list[FilterRule]:
    """On the overlay's devices: accept packets from other subnets of the network to this host's, drop spoofed ones.

    The accepts stand before Docker's own drops in this table, of whatever is for a container and not from its bridge.
    """
    network, subnet = overlay.network, overlay.subnet
    found = []
    for device in desired.devices:
        # This host's own subnet is never behind a device of the overlay.
        own_subnet = FilterRule(verdict=DROP, in_device=device, source=subnet)
        if device in desired.tunnels:
            found += [
                own_subnet,
                FilterRule(verdict=ACCEPT, in_device=device, source=network, destination=subnet),
                FilterRule(verdict=DROP, in_device=device),
            ]
        else:
            # By plain routes a peer's packets have the peer's own link address. With that of a router, which is no
            # peer, they are a stranger's.
            found += [
                replace(rule, in_device=device, source_mac=mac)
                for mac in desired.routers
                for rule in _drop_from_leases(overlay)
            ]
            found += [own_subnet, *_accept_plain_routes(device, overlay)]
    trusted = desired.trusts(network.version)
    if trusted:
        # A container can give itself an address of a trusted network: the accepts below are not for containers.
        found += [FilterRule(verdict=RETURN, in_device=bridge) for bridge in (desired.bridge, *desired.other_bridges)]
    return [*found, *(FilterRule(verdict=ACCEPT, source=one, destination=subnet) for one in trusted)]


def _prerouting(desired: DesiredRules, overlay: Overlay) -> list[FilterRule]:
    """Drop what arrives by another way than the overlay's and is to the network, or claims to be from it."""
    network, subnet, bridge = overlay.network, overlay.subnet, desired.bridge
    found = [
        # `_raw` has looked at packets of the tunnels.
        *(FilterRule(verdict=ACCEPT, in_device=name) for name in ("lo", *desired.tunnels)),
        *_drop_between_networks(desired, overlay),
        *(rule for device in desired.underlays for rule in _accept_plain_routes(device, overlay)),
        FilterRule(verdict=ACCEPT, in_device=bridge, source=subnet),
        # From the bridge alone, also within an established connection: the connection's end is on the bridge.
        FilterRule(verdict=DROP, source=subnet),
        # Other sources on the bridge: neighbour discovery, and containers of a bridge that still has an older subnet.
        # These reach this host and the outside, and nobody in the network.
        FilterRule(verdict=ACCEPT, in_device=bridge, local=True),
        *_unless_established(_drop_to(overlay), in_device=bridge),
        FilterRule(verdict=ACCEPT, in_device=bridge),
        # Packets of peers' containers were accepted above. Others with such an address only answer this host.
        *_unless_established(_drop_from_leases(overlay)),
    ]
    for other in desired.other_bridges:
        # Containers of Docker's other networks reach peers, masqueraded; Docker keeps them from this bridge's
        # containers. None of them has an address of the network.
        found += _unless_established(_drop_from(overlay), in_device=other)
    found += [
        *(FilterRule(verdict=ACCEPT, in_device=other) for other in desired.other_bridges),
        *(FilterRule(verdict=ACCEPT, source=one) for one in desired.trusts(network.version)),
        # A host with an address of the network that is not leased, behind some router: it reaches this host only.
        FilterRule(verdict=ACCEPT, source=network, local=True),
        *_unless_established(_drop_from(overlay)),
        # The bridge's address is this host's own, and ports are published there.
        FilterRule(verdict=ACCEPT, destination=network, local=True),
    ]
    if desired.direct_routing:
        found.append(FilterRule(verdict=ACCEPT, destination=subnet))
    return [*found, *_unless_established(_drop_to(overlay))]


def _unless_established(rules: list[FilterRule], *, in_device: str | None = None) -> list[FilterRule]:
    """The same rules for what comes in by that device, and only for packets outside of established connections."""
    return [replace(rule, in_device=in_device, not_established=True) for rule in rules]


def _drop_from(overlay: Overlay) -> list[FilterRule]:
    """Drop sources in the network; in a network that others use too, only sources in leased subnets."""
    return _drop_from_leases(overlay) if overlay.shared else [FilterRule(verdict=DROP, source=overlay.network)]


def _drop_from_leases(overlay: Overlay) -> list[FilterRule]:
    """Drop sources in leased subnets, this host's own included."""
    return [FilterRule(verdict=DROP, source=overlay.subnet), FilterRule(verdict=DROP, source_leased=True)]


def _drop_to(overlay: Overlay) -> list[FilterRule]:
    """Drop destinations in the network; in a network that others use too, only destinations in leased subnets."""
    if not overlay.shared:
        return [FilterRule(verdict=DROP, destination=overlay.network)]
    return [FilterRule(verdict=DROP, destination=overlay.subnet), FilterRule(verdict=DROP, destination_leased=True)]


def _accept_plain_routes(device: str, overlay: Overlay) -> list[FilterRule]:
    """Accept packets of peers' containers by a plain route, and of peers' hosts, which have their public addresses."""
    accept = FilterRule(verdict=ACCEPT, in_device=device, destination=overlay.subnet)
    return [replace(accept, source=overlay.network, source_leased=True), replace(accept, source_peer=True)]


def _drop_between_networks(desired: DesiredRules, overlay: Overlay) -> list[FilterRule]:
    """Containers of two networks of this host do not reach each other, whatever source address they use.

    Each network's rules drop both directions, as rules of the other one may be older than this network. Answers pass:
    they belong to a connection to a published port.
    """
    found = []
    for other in desired.others:
        if other.network.version == overlay.network.version:
            drop = FilterRule(verdict=DROP, not_established=True)
            found.append(replace(drop, in_device=desired.bridge, destination=other.network))
            found += [replace(drop, in_device=name, destination=overlay.network) for name in other.bridges]
    return found


def _backend_packets(desired: DesiredRules, version: int) -> list[FilterRule]:
    """A drop of each kind of packet that the backend accepts from peers only, with no other condition yet."""
    return [
        FilterRule(verdict=DROP, protocol=listening.protocol, port=listening.port)
        for listening in desired.listens
        if listening.version == version and not listening.anyone
    ]


def _backend_input(desired: DesiredRules, version: int) -> list[FilterRule]:
    """Drop the backend's packets that are not from a peer, and those from containers, to any address of this host.

    The kernel's VXLAN socket accepts packets to every address of the host: broadcast, multicast and anycast, and
    docker0's, which containers of peers reach by the overlay.
    """
    found = []
    for drop in _backend_packets(desired, version):
        found += [replace(drop, in_device=bridge) for bridge in (desired.bridge, *desired.other_bridges)]
        found.append(replace(drop, source_peer=False))
    return found


def _backend_forward(desired: DesiredRules, version: int) -> list[FilterRule]:
    """Drop packets that this host forwards to a peer's backend: masqueraded, they would seem to be from this host.

    What a container sends to the backend's port leaves by the underlay to no address at all: a peer has other addresses
    than its public one, and its VXLAN socket accepts packets to each of them.
    """
    found = []
    for drop in _backend_packets(desired, version):
        for bridge in (desired.bridge, *desired.other_bridges):
            found.append(replace(drop, in_device=bridge, destination_peer=True))
            if desired.underlay is not None:
                found.append(replace(drop, in_device=bridge, out_device=desired.underlay))
        found.append(replace(drop, source_peer=False, destination_peer=True))
    return found


def _host_ports(desired: DesiredRules, overlay: Overlay) -> list[FilterRule]:
    """Drop connections from peers' containers to this host's own ports: without an overlay they had no way there.

    They may ping this host, and answer its own connections.
    """
    found = []
    for device in desired.devices:
        found.append(FilterRule(verdict=RETURN, in_device=device, protocol=ICMP[overlay.network.version]))
        drop = FilterRule(verdict=DROP, in_device=device, destination=overlay.subnet, not_established=True)
        if device in desired.tunnels:
            found.append(drop)
        else:
            found += [replace(drop, source=overlay.network), replace(drop, source_peer=True)]
    return found
