"""What was seen on this host, as values. Pure. None stands for what could not be looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Network

from overlayd.backends.listening import Listening
from overlayd.doctor.x509 import Certificate
from overlayd.lib.addresses import IPAddress, IPInterface, IPNetwork
from overlayd.monitoring.state import Reach
from overlayd.ruleset.nftables import BaseChain
from overlayd.ruleset.packet_path import IptablesRules


@dataclass(frozen=True, kw_only=True)
class Daemon:
    """The daemon here. `state` and `problems` are what it last said, `unit` what systemd says of its unit."""

    running: bool | None = False
    state: str | None = None
    problems: tuple[str, ...] = ()
    open_files: int | None = None
    open_files_limit: int | None = None
    unit: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Network:
    """The overlay as this host takes part in it: from the daemon's status, else from etcd and the settings.

    `bridge` has this host's containers. `refusals` say why this host cannot serve the network in etcd, `remarks` what
    it holds that hosts need. `listens` is what the backend takes from peers, empty where that is not known.
    """

    network: IPv4Network | None = None
    network6: IPv6Network | None = None
    backend: str
    mtu_bytes: int
    devices: tuple[str, ...]
    subnet: IPv4Network | None = None
    subnet6: IPv6Network | None = None
    port: int | None = None
    listens: tuple[Listening, ...] = ()
    ipv6: bool = False
    refusals: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    bridge: str = "docker0"

    @property
    def subnets(self) -> tuple[IPNetwork, ...]:
        """What this host holds, of either family."""
        return tuple(subnet for subnet in (self.subnet, self.subnet6) if subnet is not None)

    @property
    def networks(self) -> tuple[IPNetwork, ...]:
        """The network in each of its families."""
        return tuple(network for network in (self.network, self.network6) if network is not None)

    @property
    def overlays(self) -> tuple[tuple[IPNetwork, IPNetwork], ...]:
        """The network and this host's subnet of it, in each family that it holds one of."""
        both = ((self.network, self.subnet), (self.network6, self.subnet6))
        return tuple((network, subnet) for network, subnet in both if network is not None and subnet is not None)

    def devices_of(self, version: int) -> tuple[str, ...]:
        """The devices that carry packets of one IP version; where there are two of ours, each has its own."""
        sixth = {
            name for name in self.own_devices if name.endswith("-v6") or name.startswith(("overlay-v6", "overlay-x"))
        }
        others = set(self.own_devices) - sixth if sixth and version == 6 else sixth if version == 4 else set()
        return tuple(name for name in self.devices if name not in others)

    @property
    def own_devices(self) -> tuple[str, ...]:
        """The devices that overlayd makes itself."""
        return tuple(name for name in self.devices if name.startswith("overlay"))


@dataclass(frozen=True, kw_only=True)
class Link:
    """One interface. `kind` is netlink's (`bridge`, `vxlan` …), `master` the bridge it is a port of."""

    name: str
    mtu_bytes: int
    up: bool
    mac: str | None = None
    kind: str | None = None
    master: str | None = None
    addresses: tuple[IPInterface, ...] = ()


@dataclass(frozen=True, kw_only=True)
class WayBack:
    """Out of which interfaces this host would answer a peer's host and a container on it; None: no route."""

    peer: IPv4Address
    underlay: str | None
    overlay: str | None


@dataclass(frozen=True, kw_only=True)
class Underlay:
    """The interface that peers reach this host by, or why there is none.

    `driver` and `offloads` (those switched on) are ethtool's. `same_address` are the MACs of others that answered for
    our address.
    """

    problem: str | None = None
    advice: str | None = None
    ifname: str = ""
    address: IPAddress | None = None
    public_ip: IPAddress | None = None
    public_ip6: IPAddress | None = None
    driver: str | None = None
    offloads: frozenset[str] | None = None
    same_address: tuple[str, ...] | None = None
    ways_back: tuple[WayBack, ...] = ()
    managers: Mapping[str, str] = field(default_factory=dict)

    @property
    def public_ips(self) -> tuple[IPAddress, ...]:
        """The addresses that peers know this host by."""
        return tuple(address for address in (self.public_ip, self.public_ip6) if address is not None)


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One etcd server. `clock_offset_s` is how far our clock is ahead of the server's, where it said its time."""

    name: str
    problem: str | None = None
    clock_offset_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class PemFile:
    """One of the files that TLS needs."""

    setting: str
    path: str
    problem: str | None = None
    certificates: tuple[Certificate, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Published:
    """One family's part of a lease, as it stands in etcd. `mac` is the VTEP's, with vxlan."""

    key: str
    subnet: IPNetwork
    public_ip: IPAddress
    backend: str
    mac: str | None = None


@dataclass(frozen=True, kw_only=True)
class Containers:
    """The containers on a bridge that were tried: how many, and which of them reached etcd, with where it is."""

    bridge: str = "docker0"
    tried: int = 0
    reached: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Etcd:
    """The store. `problem` is why it cannot be used; `config_problem` what is wrong with the network config, `ipv6`
    whether that has any.

    `open_to` says what anybody may do there without a password, `read` or `read and write`; empty for nothing.
    `full`: it takes no writes. `missing_rights` are what this host's user may not do, in the words of etcdctl.
    """

    endpoints: tuple[Endpoint, ...] = ()
    files: tuple[PemFile, ...] = ()
    problem: str | None = None
    advice: str | None = None
    config_problem: str | None = None
    config_advice: str | None = None
    config: str | None = None
    ipv6: bool = False
    leases: tuple[Published, ...] | None = None
    open_to: str | None = None
    containers: Containers | None = None
    full: bool = False
    missing_rights: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Zone:
    """A zone of firewalld. `ports` are written `8472/udp`."""

    name: str
    target: str
    interfaces: frozenset[str] = frozenset()
    sources: frozenset[str] = frozenset()
    ports: frozenset[str] = frozenset()
    protocols: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Firewalld:
    """A running firewalld.

    `forwarded` are the rich rules of our policy for forwarded packets, None where it does not know it. `shipped`:
    the policy is in its folder all the same.
    """

    default_zone: str
    zones: tuple[Zone, ...]
    forwarded: tuple[str, ...] | None = None
    shipped: bool = False

    def zone_of(self, ifname: str) -> Zone | None:
        """The zone of an interface: the one that names it, else the default one."""
        named = [zone for zone in self.zones if ifname in zone.interfaces]
        return next(iter([*named, *(zone for zone in self.zones if zone.name == self.default_zone)]), None)


@dataclass(frozen=True, kw_only=True)
class Firewall:
    """The rules on this host. `kind` is what overlayd keeps its own with: iptables, nftables or none.

    `kinds` are those of each installed kind of iptables for each IP version, the one in use first. `chains` are the
    base chains of nftables that none of these shows, None where they could not be read. `sets` are the members of the
    sets of addresses that iptables' rules ask for, by name.
    """

    kind: str = "iptables"
    kinds: tuple[IptablesRules, ...] = ()
    sets: Mapping[str, frozenset[str]] = field(default_factory=dict)
    chains: tuple[BaseChain, ...] | None = None
    firewalld: Firewalld | None = None

    @property
    def docker_nftables(self) -> bool:
        """Whether there are rules of Docker's nftables backend."""
        return any(base.table == "docker-bridges" for base in self.chains or ())


@dataclass(frozen=True, kw_only=True)
class Docker:
    """Docker here. `conflicts` are sentences about what it is told; `drop_ins` the names systemd knows, if it is there;
    `by_hand`: somebody's own unit has our options without them. `on_its_way`: systemd is about to start or stop it;
    `at_rest`: it does not run, and nobody wants it to.

    `down` says why it does not run though it should, `otherwise` in what the dockerd that runs was started otherwise,
    if it could be `compared`. `etcd_here`: one of etcd's servers has an address of this host; `remembered`: what docker
    was told in the last run is known. `left_to_others`: neither docker nor overlayd masquerades;
    `masqueraded` whether somebody's rule does, None where that cannot be seen.
    """

    installed: bool = False
    conflicts: tuple[str, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    drop_ins: tuple[str, ...] | None = None
    by_hand: bool = False
    active: bool | None = None
    on_its_way: bool = False
    at_rest: bool = False
    failed: bool = False
    down: str | None = None
    compared: bool = False
    otherwise: str | None = None
    etcd_here: bool = False
    remembered: bool = False
    left_to_others: bool = False
    masqueraded: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One thing that a kernel has or has not. `how` says how that was found out."""

    there: bool | None
    how: str


@dataclass(frozen=True, kw_only=True)
class Host:
    """The kernel and its settings. `sysctls` are named with slashes; those that do not exist are left out."""

    root: bool = False
    now: datetime
    settings_problem: str | None = None
    sysctls: Mapping[str, str] = field(default_factory=dict)
    features: Mapping[str, Feature] = field(default_factory=dict)
    neighbours: int | None = None
    neighbour_overflows: int | None = None
    links: tuple[Link, ...] = ()

    def link(self, name: str) -> Link | None:
        """The interface of that name."""
        return next((link for link in self.links if link.name == name), None)

    def number(self, sysctl: str) -> int | None:
        """A setting that is a number."""
        value = self.sysctls.get(sysctl, "")
        return int(value) if value.lstrip("-").isdigit() else None


@dataclass(frozen=True, kw_only=True)
class Reachability:
    """What echoes to containers of peers came to just now. `source` says from where; `problem` why nobody was asked.

    `said` is what the daemon, which has measured longer, says of peers that are not reached, by subnet.
    """

    peers: tuple[Reach, ...] = ()
    source: str = ""
    said: Mapping[str, str] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that the checks judge by. `number` is that of the network on this host; docker belongs to 0."""

    host: Host
    daemon: Daemon = field(default_factory=Daemon)
    underlay: Underlay = field(default_factory=Underlay)
    etcd: Etcd = field(default_factory=Etcd)
    firewall: Firewall = field(default_factory=Firewall)
    docker: Docker = field(default_factory=Docker)
    network: Network | None = None
    reach: Reachability = field(default_factory=Reachability)
    number: int = 0
