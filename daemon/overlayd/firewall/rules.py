"""What the firewall has to do for the overlay, as a value that both backends render. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from overlayd.backends.listening import Listening
from overlayd.lib.addresses import IPAddress, IPNetwork

DOCKER_BRIDGE = "docker0"
# Docker names the bridges of its networks `br-` and twelve hexadecimal digits (moby, bridge.go).
USER_BRIDGES = "br-+"
# Every device of ours is named so (kernel/state.py). Other devices carry the packets of others too.
TUNNEL_PREFIX = "overlay"
# By IP version: never masqueraded, for nobody could answer.
MULTICAST = {4: "224.0.0.0/4", 6: "ff00::/8"}
VERSIONS = (4, 6)
# On packets that something else has already decided to masquerade (Kubernetes, and flannel after it).
MASQUERADED_ELSEWHERE = 0x4000


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """One network and this host's subnet of it, both IPv4 or both IPv6.

    `shared`: others live in the network as well, as where it is 10.0.0.0/8 and the underlay 10.1.2.0/24.
    """

    network: IPv4Network | IPv6Network
    subnet: IPv4Network | IPv6Network
    shared: bool = False


@dataclass(frozen=True, kw_only=True)
class OtherNetwork:
    """A network of one family that another daemon serves on this host, and the bridges of its containers here."""

    network: IPNetwork
    bridges: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Bits of a packet's firewall mark: those of `mask` are set as in `value`."""

    value: int
    mask: int

    def __str__(self) -> str:
        """As iptables and dockerd write it."""
        return f"{self.value:#x}/{self.mask:#x}"


# One bit that nobody else is known to use: Kubernetes has 0x4000 and 0x8000, CNI's portmap 0x2000, Cilium 0x0f00,
# Calico and Tailscale the upper half.
DOCKER_MARK = Mark(value=0x1000, mask=0x1000)


@dataclass(frozen=True, kw_only=True)
class DesiredRules:
    """All that the firewall has to do. The empty one: nothing, and nothing of ours may be left.

    On `devices` packets from peers' containers arrive: on those of ours nothing else does, on the others (plain routes)
    everything may. `bridge` has this host's containers, `other_bridges` have containers of other networks; names end
    with `+` for any ending. `peers` are the public addresses of hosts that hold a lease, `leased` their subnets, and
    `listens` what is taken from them. `routers` are the link addresses of the underlay's gateways that are no peers,
    `underlay` is its interface.
    `trusted` networks outside the overlay may reach containers by their own addresses; with `direct_routing` everybody
    may, as daemon.json asks. `mark` opens the door of Docker's nftables backend, None where Docker uses iptables.
    `others` are this host's other networks.
    """

    overlays: tuple[Overlay, ...] = ()
    devices: tuple[str, ...] = ()
    masquerade: bool = False
    forward: bool = False
    mark: Mark | None = None
    bridge: str = DOCKER_BRIDGE
    other_bridges: tuple[str, ...] = (USER_BRIDGES,)
    peers: frozenset[IPAddress] = frozenset()
    leased: frozenset[IPNetwork] = frozenset()
    listens: tuple[Listening, ...] = ()
    routers: tuple[str, ...] = ()
    underlay: str | None = None
    trusted: tuple[IPNetwork, ...] = ()
    direct_routing: bool = False
    others: tuple[OtherNetwork, ...] = ()

    def overlay(self, version: int) -> Overlay | None:
        """The overlay of that IP version, if there is one."""
        return next((overlay for overlay in self.overlays if overlay.network.version == version), None)

    @property
    def tunnels(self) -> tuple[str, ...]:
        """The devices that carry nothing but the overlay."""
        return tuple(device for device in self.devices if device.startswith(TUNNEL_PREFIX))

    @property
    def underlays(self) -> tuple[str, ...]:
        """The devices on which packets from peers' containers arrive as they are, beside everybody else's."""
        return tuple(device for device in self.devices if not device.startswith(TUNNEL_PREFIX))

    def trusts(self, version: int) -> tuple[IPNetwork, ...]:
        """The trusted networks of an IP version."""
        return tuple(network for network in self.trusted if network.version == version)

    def peers_of(self, version: int) -> frozenset[IPAddress]:
        """The peers' public addresses of an IP version."""
        return frozenset(peer for peer in self.peers if peer.version == version)

    def leased_of(self, version: int) -> frozenset[IPNetwork]:
        """The peers' subnets of an IP version."""
        return frozenset(subnet for subnet in self.leased if subnet.version == version)


NOTHING = DesiredRules()


def desired(
    *,
    overlays: Sequence[Overlay],
    devices: Sequence[str],
    masquerade: bool,
    forward: bool = True,
    daemon_json: Mapping[str, object] | None = None,
    bridge: str | None = None,
    listens: Sequence[Listening] = (),
    peers: Collection[IPAddress] = (),
    leased: Collection[IPNetwork] = (),
    other_bridges: Sequence[str] = (),
    wired_bridges: Sequence[str] = (),
    routers: Sequence[str] = (),
    underlay: str | None = None,
    trusted: Sequence[IPNetwork] = (),
    others: Sequence[OtherNetwork] = (),
) -> DesiredRules:
    """What a host needs that holds a subnet of each overlay (at most one of an IP version: ValueError).

    `forward` accepts the network's packets in FORWARD. `daemon_json` are dockerd's settings: they say whether Docker
    uses nftables, by which mark it lets packets in, and which bridge its containers are on. `bridge` is the one
    that has the subnet's address, whatever they say. `wired_bridges` are ways to a wire. See Wanted for the rest.
    """
    versions = [overlay.network.version for overlay in overlays]
    if len(set(versions)) != len(versions) or any(o.network.version != o.subnet.version for o in overlays):
        raise ValueError(f"one network of each IP version, and its subnet: {overlays}")
    told = daemon_json or {}
    bridge = bridge or container_bridge(told)
    # br-lan, br-ex: where a wire's bridge is named as Docker names its own, each of Docker's is told by its name.
    alike = any(name.startswith(USER_BRIDGES.rstrip("+")) for name in (*wired_bridges, underlay or ""))
    bridges = other_bridges if alike else (USER_BRIDGES, *other_bridges)
    return DesiredRules(
        overlays=tuple(overlays),
        devices=tuple(devices),
        masquerade=masquerade,
        forward=forward,
        mark=docker_mark(told) if docker_uses_nftables(told) else None,
        bridge=bridge,
        other_bridges=tuple(dict.fromkeys(name for name in bridges if name not in (bridge, underlay))),
        peers=frozenset(peers),
        leased=frozenset(leased),
        listens=tuple(listens),
        routers=tuple(sorted(routers)),
        underlay=underlay,
        trusted=tuple(trusted),
        others=tuple(others),
        direct_routing=told.get("allow-direct-routing") in (True, "true"),
    )


def container_bridge(daemon_json: Mapping[str, object]) -> str:
    """The bridge of Docker's default network: docker0, unless daemon.json names another that the administrator made."""
    name = daemon_json.get("bridge")
    # linux/if.h: IFNAMSIZ less the zero byte. What is no name goes into no rule.
    usable = isinstance(name, str) and 0 < len(name) <= 15 and name != "none" and name.replace("-", "").isalnum()
    return str(name) if usable else DOCKER_BRIDGE


def docker_closes_forwarding(daemon_json: Mapping[str, object], version: int) -> bool:
    """Whether dockerd, where it turns forwarding on, sets FORWARD's policy to DROP (moby, setup_ip_forwarding.go).

    With `ip-forward` off it would not turn it on; overlayd does, and so closes it. `ip-forward-no-drop` is from 28.0.
    Before 27 ip6tables is off by default and IPv6 left open: that is not copied.
    """
    off = [daemon_json.get("iptables") is False]
    if version == 6:
        off.append(daemon_json.get("ip6tables") is False)
    return not any(off) and daemon_json.get("ip-forward-no-drop") is not True


def docker_uses_nftables(daemon_json: Mapping[str, object]) -> bool:
    """Whether dockerd is told to write nftables rules (from 29.0)."""
    return daemon_json.get("firewall-backend") == "nftables"


def docker_options_needed(daemon_json: Mapping[str, object]) -> dict[str, str]:
    """dockerd's options, by their names in daemon.json, without which it drops what comes from peers.

    None where it uses iptables. Its nftables backend cannot be overridden by rules of ours, for an accept is final in
    its own base chain only (moby, nftablesdoc/new-daemon.md). `allow-direct-routing` takes away its drop in
    raw-PREROUTING, for everybody: ours put one back for all but peers (strangers.py). `bridge-accept-fwmark` lets in
    what carries our mark; an administrator's own mark in daemon.json is kept and used.
    """
    if not docker_uses_nftables(daemon_json):
        return {}
    return {"allow-direct-routing": "true", "bridge-accept-fwmark": _told_mark(daemon_json) or str(DOCKER_MARK)}


def docker_mark(daemon_json: Mapping[str, object]) -> Mark:
    """The mark by which Docker lets packets in: `value` or `value/mask`, numbers as in C; ours unless it has one."""
    value, _, mask = _told_mark(daemon_json).partition("/")
    try:
        found = Mark(value=_number(value), mask=_number(mask) if mask else 0xFFFFFFFF)
    except ValueError:
        return DOCKER_MARK
    return found if max(found.value, found.mask) <= 0xFFFFFFFF and min(found.value, found.mask) >= 0 else DOCKER_MARK


def _told_mark(daemon_json: Mapping[str, object]) -> str:
    return str(daemon_json.get("bridge-accept-fwmark") or "")


def _number(text: str) -> int:
    # Go's ParseUint with base 0 takes a leading 0 for octal, Python's int refuses it.
    return int(text, 8) if text.isdigit() and text.startswith("0") else int(text, 0)
