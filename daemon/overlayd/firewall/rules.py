"""What the firewall has to do for the overlay, as a value from which iptables and nftables rules are made. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import TypeVar

from overlayd.backends.listening import Listening
from overlayd.lib.addresses import IPAddress, IPNetwork
from overlayd.lib.quick_dataclass import dataclass

F = TypeVar("F", IPAddress, IPNetwork)

DOCKER_BRIDGE = "docker0"
# Docker names the bridge of each user-defined network `br-` and twelve hexadecimal digits (moby, bridge.go).
USER_BRIDGES = "br-+"
# The names of overlayd's own devices begin so (kernel/state.py). On other devices there are also others' packets.
TUNNEL_PREFIX = "overlay"
# By IP version. Multicast is never masqueraded: no answer could come back.
MULTICAST = {4: "224.0.0.0/4", 6: "ff00::/8"}
VERSIONS = (4, 6)
# The mark of packets that another program masquerades (Kubernetes; flannel has the same exception).
MASQUERADED_ELSEWHERE = 0x4000


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """One network and this host's subnet of it, both IPv4 or both IPv6.

    `shared`: hosts outside the overlay have addresses of the network too, as where the network is 10.0.0.0/8 and the
    underlay 10.1.2.0/24.
    """

    network: IPv4Network | IPv6Network
    subnet: IPv4Network | IPv6Network
    shared: bool = False


@dataclass(frozen=True, kw_only=True)
class OtherNetwork:
    """A network of one IP version that another overlayd serves on this host, and its containers' bridges here."""

    network: IPNetwork
    bridges: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A firewall mark: the bits of `mask` have the values that they have in `value`."""

    value: int
    mask: int

    def __str__(self) -> str:
        """As iptables and dockerd write it."""
        return f"{self.value:#x}/{self.mask:#x}"


# A bit that no other known program uses: Kubernetes has 0x4000 and 0x8000, CNI's portmap 0x2000, Cilium 0x0f00, Calico
# and Tailscale the upper half.
DOCKER_MARK = Mark(value=0x1000, mask=0x1000)


@dataclass(frozen=True, kw_only=True)
class DesiredRules:
    """All that the firewall has to do. The default value means: no rules, and none of overlayd's may be left.

    `devices`: packets of peers' containers arrive on these; on overlayd's own devices no other packets do, on the
    others (plain routes) any packet may. `bridge` is the bridge of this network's containers, `other_bridges` those of
    other containers here; a `+` at the end of a name stands for any ending. `masquerade`: containers' packets get the
    host's address where they leave the network. `forward`: accept the network's packets in FORWARD. `peers` are the
    public addresses of hosts that hold a lease, `leased` their subnets, `listens` what the backend receives from them.
    `underlay` is its interface, `routers` the link addresses of its gateways that are not peers. `trusted` networks
    outside the overlay may reach containers by their own addresses; with `direct_routing` everybody may, because
    daemon.json says so. `mark` is the mark by which Docker's nftables backend accepts packets; None where Docker uses
    iptables. `others` are the other overlay networks of this host.
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
        """The overlay of an IP version; None without one."""
        return next((overlay for overlay in self.overlays if overlay.network.version == version), None)

    @property
    def tunnels(self) -> tuple[str, ...]:
        """overlayd's own devices, on which only packets of the overlay arrive."""
        return tuple(device for device in self.devices if device.startswith(TUNNEL_PREFIX))

    @property
    def underlays(self) -> tuple[str, ...]:
        """The devices of plain routes, on which packets of peers' containers arrive among all others."""
        return tuple(device for device in self.devices if not device.startswith(TUNNEL_PREFIX))

    def trusts(self, version: int) -> tuple[IPNetwork, ...]:
        """The trusted networks of an IP version."""
        return tuple(network for network in self.trusted if network.version == version)

    def peers_of(self, version: int) -> frozenset[IPAddress]:
        """The peers' public addresses of an IP version."""
        return _of(version, self.peers)

    def leased_of(self, version: int) -> frozenset[IPNetwork]:
        """The peers' subnets of an IP version."""
        return _of(version, self.leased)


def _of(version: int, found: frozenset[F]) -> frozenset[F]:
    """Those of an IP version: the same object where all are, as there may be thousands."""
    if all(one.version == version for one in found):
        return found
    return frozenset(one for one in found if one.version == version)


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
    """The rules for a host that holds a subnet of each of `overlays`. ValueError for two of the same IP version.

    `daemon_json` are dockerd's settings: whether it uses nftables, with which mark it accepts packets, the name of its
    bridge. `bridge` is the bridge with the subnet's address and overrides that name. `wired_bridges` have a network
    card among their ports, so they lead out of this host. See DesiredRules for the rest.
    """
    versions = [overlay.network.version for overlay in overlays]
    if len(set(versions)) != len(versions) or any(o.network.version != o.subnet.version for o in overlays):
        raise ValueError(f"one network of each IP version, and its subnet: {overlays}")
    settings = daemon_json or {}
    bridge = bridge or container_bridge(settings)
    # A wired bridge may be called br-lan or br-ex: then `br-+` would match it, and Docker's bridges are listed by name.
    ambiguous = any(name.startswith(USER_BRIDGES.rstrip("+")) for name in (*wired_bridges, underlay or ""))
    bridges = other_bridges if ambiguous else (USER_BRIDGES, *other_bridges)
    return DesiredRules(
        overlays=tuple(overlays),
        devices=tuple(devices),
        masquerade=masquerade,
        forward=forward,
        mark=docker_mark(settings) if docker_uses_nftables(settings) else None,
        bridge=bridge,
        other_bridges=tuple(dict.fromkeys(name for name in bridges if name not in (bridge, underlay))),
        peers=frozenset(peers),
        leased=frozenset(leased),
        listens=tuple(listens),
        routers=tuple(sorted(routers)),
        underlay=underlay,
        trusted=tuple(trusted),
        others=tuple(others),
        direct_routing=settings.get("allow-direct-routing") in (True, "true"),
    )


def container_bridge(daemon_json: Mapping[str, object]) -> str:
    """The bridge of Docker's default network: docker0, or another one that daemon.json names."""
    name = daemon_json.get("bridge")
    # linux/if.h: a name has at most IFNAMSIZ - 1 characters. Any other text must not get into a rule.
    usable = isinstance(name, str) and 0 < len(name) <= 15 and name != "none" and name.replace("-", "").isalnum()
    return str(name) if usable else DOCKER_BRIDGE


def docker_closes_forwarding(daemon_json: Mapping[str, object], version: int) -> bool:
    """Whether dockerd, where it turns forwarding on, sets FORWARD's policy to DROP (moby, setup_ip_forwarding.go).

    With `ip-forward` off dockerd does not turn forwarding on; overlayd does all the same, so that setting does not
    count here. Docker has `ip-forward-no-drop` from 28.0 on. Before 27 ip6tables is off by default and Docker leaves
    IPv6 open; overlayd closes it there too.
    """
    if daemon_json.get("iptables") is False or (version == 6 and daemon_json.get("ip6tables") is False):
        return False
    return daemon_json.get("ip-forward-no-drop") is not True


def docker_uses_nftables(daemon_json: Mapping[str, object]) -> bool:
    """Whether dockerd is configured to write nftables rules (possible from 29.0 on)."""
    return daemon_json.get("firewall-backend") == "nftables"


def docker_options_needed(daemon_json: Mapping[str, object]) -> dict[str, str]:
    """The options, by their names in daemon.json, without which dockerd's nftables rules drop packets of peers.

    Empty where Docker uses iptables. Rules of ours cannot override those of Docker's nftables backend: in nftables an
    accept ends its own base chain only (moby, nftablesdoc/new-daemon.md). `allow-direct-routing` removes Docker's drop
    in raw-PREROUTING for everybody, and strangers.py has one for everybody but peers. With `bridge-accept-fwmark`
    Docker accepts packets that carry a mark: the administrator's own in daemon.json, else ours.
    """
    if not docker_uses_nftables(daemon_json):
        return {}
    return {"allow-direct-routing": "true", "bridge-accept-fwmark": _configured_mark(daemon_json) or str(DOCKER_MARK)}


def docker_mark(daemon_json: Mapping[str, object]) -> Mark:
    """The mark with which Docker accepts packets: that of daemon.json (`value` or `value/mask`), else ours."""
    value, _, mask = _configured_mark(daemon_json).partition("/")
    try:
        found = Mark(value=_number(value), mask=_number(mask) if mask else 0xFFFFFFFF)
    except ValueError:
        return DOCKER_MARK
    return found if max(found.value, found.mask) <= 0xFFFFFFFF and min(found.value, found.mask) >= 0 else DOCKER_MARK


def _configured_mark(daemon_json: Mapping[str, object]) -> str:
    return str(daemon_json.get("bridge-accept-fwmark") or "")


def _number(text: str) -> int:
    # dockerd reads it by Go's ParseUint with base 0, to which a leading 0 means octal; Python's int() refuses that.
    return int(text, 8) if text.isdigit() and text.startswith("0") else int(text, 0)
