"""The facts of this host that the checks judge, as values. Pure. None stands for what could not be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Network

from overlayd.backends.listening import Listening
from overlayd.lib.addresses import IPAddress, IPInterface, IPNetwork
from overlayd.lib.quick_dataclass import dataclass
from overlayd.lib.x509 import Certificate
from overlayd.monitoring.state import Reach
from overlayd.ruleset.nftables import BaseChain
from overlayd.ruleset.packet_path import IptablesRules


@dataclass(frozen=True, kw_only=True)
class DaemonFacts:
    """The daemon on this host. `state` and `problems` are of its status, `unit` of its unit in systemd.

    `fast_path` and `forwarder` are of its status too; `without_program` are interfaces that the fast path needs and
    that it is not at.
    """

    running: bool | None = False
    state: str | None = None
    problems: tuple[str, ...] = ()
    open_files: int | None = None
    open_files_limit: int | None = None
    unit: Mapping[str, str] | None = None
    fast_path: str | None = None
    forwarder: str | None = None
    without_program: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class NetworkFacts:
    """The overlay as this host takes part in it: from the daemon's status, else from etcd and the settings.

    `bridge` is that of this host's containers. `refusals` say why this host cannot serve the network in etcd, `remarks`
    which addresses it holds that hosts need. `listens` is what the backend receives from peers, empty where unknown.
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
        """This host's subnets, of either family."""
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
        """The devices that carry packets of one IP version. Where overlayd made two, each family has its own."""
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
class LinkFacts:
    """One interface. `kind` is netlink's (`bridge`, `vxlan` …), `master` the bridge it is a port of."""

    name: str
    mtu_bytes: int
    up: bool
    mac: str | None = None
    kind: str | None = None
    master: str | None = None
    addresses: tuple[IPInterface, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReturnRoute:
    """By which interfaces this host would answer a peer's host, and a container on it; None: no route."""

    peer: IPv4Address
    underlay: str | None
    overlay: str | None


@dataclass(frozen=True, kw_only=True)
class UnderlayFacts:
    """The interface that peers reach this host by, or why there is none.

    `driver` and `offloads` (those switched on) are ethtool's. `same_address` are the MACs of other hosts that answered
    ARP requests for our address. `managers`: which program manages which of our devices; `silent_managers`: those that
    were asked and did not say.
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
    return_routes: tuple[ReturnRoute, ...] = ()
    managers: Mapping[str, str] = field(default_factory=dict)
    silent_managers: tuple[str, ...] = ()

    @property
    def public_ips(self) -> tuple[IPAddress, ...]:
        """The addresses that peers know this host by."""
        return tuple(address for address in (self.public_ip, self.public_ip6) if address is not None)


@dataclass(frozen=True, kw_only=True)
class EndpointFacts:
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
class PublishedLease:
    """One family's part of a lease, as it stands in etcd. `mac` is the VTEP's, with vxlan."""

    key: str
    subnet: IPNetwork
    public_ip: IPAddress
    backend: str
    mac: str | None = None


@dataclass(frozen=True, kw_only=True)
class ContainerFacts:
    """The containers on a bridge that were tried: how many, and which of them reached which etcd server."""

    bridge: str = "docker0"
    tried: int = 0
    reached: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EtcdFacts:
    """The store. `problem` is why it cannot be used; `config_problem` what is wrong with the network config, `ipv6`
    whether that has any.

    `open_to` says what anybody may do there without a password, `read` or `read and write`; empty for nothing.
    `full`: it takes no writes. `missing_rights` are those that this host's user lacks, as etcdctl writes them.
    """

    endpoints: tuple[EndpointFacts, ...] = ()
    files: tuple[PemFile, ...] = ()
    problem: str | None = None
    advice: str | None = None
    config_problem: str | None = None
    config_advice: str | None = None
    config: str | None = None
    ipv6: bool = False
    leases: tuple[PublishedLease, ...] | None = None
    open_to: str | None = None
    containers: ContainerFacts | None = None
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
class FirewalldFacts:
    """A running firewalld.

    `forwarded` are the rich rules of our policy for forwarded packets, None where firewalld does not have the policy.
    `shipped`: the policy's file is in firewalld's folder.
    """

    default_zone: str
    zones: tuple[Zone, ...]
    forwarded: tuple[str, ...] | None = None
    shipped: bool = False

    def zone_of(self, ifname: str) -> Zone | None:
        """The zone of an interface: the one that names it, else the default zone."""
        named = [zone for zone in self.zones if ifname in zone.interfaces]
        return next(iter([*named, *(zone for zone in self.zones if zone.name == self.default_zone)]), None)


@dataclass(frozen=True, kw_only=True)
class FirewallFacts:
    """The rules on this host. `kind` is what overlayd writes its own with: iptables, nftables or none.

    `kinds` are those of each installed kind of iptables for each IP version, the one in use first. `chains` are the
    base chains of nftables that no iptables shows, None where they could not be read. `sets` are the members of the
    sets of addresses that iptables' rules match, by name.
    """

    kind: str = "iptables"
    kinds: tuple[IptablesRules, ...] = ()
    sets: Mapping[str, frozenset[str]] = field(default_factory=dict)
    chains: tuple[BaseChain, ...] | None = None
    firewalld: FirewalldFacts | None = None

    @property
    def docker_nftables(self) -> bool:
        """Whether there are rules of Docker's nftables backend."""
        return any(base.table == "docker-bridges" for base in self.chains or ())


@dataclass(frozen=True, kw_only=True)
class DockerFacts:
    """Docker on this host. `conflicts` are options of it that conflict with the lease; `drop_ins` those of its unit in
    systemd; `by_hand`: a unit of the administrator's own has our options without them. `on_its_way`: systemd is about
    to start or stop it; `at_rest`: it does not run and is not enabled.

    `down` says why it does not run though it should. `otherwise` says which options of the dockerd that runs differ
    from those it should have, if they could be `compared`. `etcd_here`: one of etcd's servers has an address of this
    host; `remembered`: docker's options of the last run are on disk. `left_to_others`: neither docker nor overlayd
    masquerades; `masqueraded`: whether another rule does, None where that cannot be read.
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
class KernelFeature:
    """Whether the kernel has a feature. `how` says how that was found out."""

    there: bool | None
    how: str


@dataclass(frozen=True, kw_only=True)
class HostFacts:
    """The kernel and its settings. `sysctls` are named with slashes; those that do not exist are left out."""

    root: bool = False
    now: datetime
    settings_problem: str | None = None
    sysctls: Mapping[str, str] = field(default_factory=dict)
    features: Mapping[str, KernelFeature] = field(default_factory=dict)
    neighbours: int | None = None
    neighbour_overflows: int | None = None
    links: tuple[LinkFacts, ...] = ()

    def link(self, name: str) -> LinkFacts | None:
        """The interface of that name."""
        return next((link for link in self.links if link.name == name), None)

    def number(self, sysctl: str) -> int | None:
        """A setting that is a number."""
        value = self.sysctls.get(sysctl, "")
        return int(value) if value.lstrip("-").isdigit() else None


@dataclass(frozen=True, kw_only=True)
class Reachability:
    """The results of echoes to containers of peers just now. `source` says from where; `problem` why none was sent.

    `daemon_problems` are the daemon's sentences about peers that are not reached, by subnet: it measures for longer.
    """

    peers: tuple[Reach, ...] = ()
    source: str = ""
    daemon_problems: Mapping[str, str] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything that the checks judge. `number` is the network-number; docker belongs to network 0."""

    host: HostFacts
    daemon: DaemonFacts = field(default_factory=DaemonFacts)
    underlay: UnderlayFacts = field(default_factory=UnderlayFacts)
    etcd: EtcdFacts = field(default_factory=EtcdFacts)
    firewall: FirewallFacts = field(default_factory=FirewallFacts)
    docker: DockerFacts = field(default_factory=DockerFacts)
    network: NetworkFacts | None = None
    reach: Reachability = field(default_factory=Reachability)
    number: int = 0
