"""This host's rules under one network config: ours, and what a running firewalld is told."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from overlayd import firewall, firewalld
from overlayd.backends.backend import Backend
from overlayd.docker import options as docker_options
from overlayd.errors import CommandFailed, KernelRefused
from overlayd.host import other_networks
from overlayd.kernel import interfaces, netlink
from overlayd.leases.conflicts import CurrentNeeds
from overlayd.leases.lease import Lease, Subnets
from overlayd.leases.network_config import NetworkConfig
from overlayd.lib.addresses import IPAddress, IPNetwork, overlaps
from overlayd.lib.counters import counter
from overlayd.lib.log import logger
from overlayd.lib.marks import ours
from overlayd.settings import Settings

log = logger("host")

FIREWALL_WRITES = counter("overlayd_firewall_writes_total", "Times that firewall rules were not as they should be.")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What one look came to. `backend` is what keeps the rules, None where nothing does.

    `problems` keep packets from their way. So may `firewalld_problem`, unless an administrator opened by hand what
    firewalld would not be told.
    """

    backend: str | None
    problems: tuple[str, ...] = ()
    firewalld_problem: str | None = None
    written: bool = False


class HostFirewall:
    """Keeps the rules for one backend on one underlay interface. Called in one thread."""

    def __init__(self, settings: Settings, config: NetworkConfig, ifname: str, backend: Backend, here: CurrentNeeds) -> None:
        """Changes nothing yet. `here` is what this host needs, as it was last seen."""
        self._settings = settings
        self._config = config
        self._ifname = ifname
        self._backend = backend
        self._here = here
        self._firewall = firewall.Firewall(settings.firewall, prefer_nftables=config.nftables)
        self._firewalld = firewalld.Firewalld(enabled=settings.firewall != "none")
        self._forwards_for_all: set[str] = set()
        self._left_open: tuple[str, ...] = ()
        self._backend_name: str | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is open to others on this host, though packets go."""
        return (*sorted(self._forwards_for_all), *self._left_open)

    def close(self) -> None:
        """Let go of firewalld's bus; what it was told stays, and so do our rules."""
        self._firewalld.close()

    def open_to_nobody(self, subnets: Subnets, peers: Collection[Lease]) -> None:
        """Before a backend is opened: close what it opens, and what forwarding does, which it turns on.

        What Docker would have closed when it turned forwarding on is closed; and strangers are kept out before the way
        in is open, from the port that will be open. Peers of the last run are peers until it is known who is now, and
        so are `peers`: a host that is moved from flannel loses no packet. Raises CommandFailed, KernelRefused.
        """
        told = docker_options.read_told().settings
        for version in sorted({4, *self._config.versions}):
            if not netlink.forwards(version):
                reason = self._close_forwarding(told, version)
                if reason is not None:
                    log.warning("this host forwards for everybody", reason=reason)
                    self._forwards_for_all.add(reason)
        addresses, leased = self._firewall.members()
        leased |= {family_lease.subnet for peer in peers for family_lease in peer.family_leases}
        report = self._sync(self._wanted(subnets, addresses | _addresses(peers), leased))
        if report.problems:
            raise CommandFailed(f"strangers cannot be kept out, so nothing is opened: {report.problems[0]}")

    def sync(self, subnets: Subnets, peers: Collection[Lease]) -> Report:
        """Make the rules those of a host that holds these subnets and serves these peers. Never raises."""
        told = self._firewalld.sync(
            firewalld.desired(
                overlays=self._overlays(subnets),
                listens=self._backend.listens,
                peers=_addresses(peers),
                trusted=self._settings.trusted_networks,
            )
        )
        leased = frozenset(family_lease.subnet for peer in peers for family_lease in peer.family_leases)
        try:
            wanted = self._wanted(subnets, _addresses(peers), leased)
        except KernelRefused as error:
            # The rules stay as they are until the next look.
            return Report(backend=self._backend_name, problems=(str(error),), firewalld_problem=told.problem)
        report = self._sync(wanted)
        self._backend_name = report.backend
        self._left_open = (*firewall.left_open(wanted, report.backend), *report.limits)
        return Report(
            backend=report.backend,
            problems=report.problems,
            firewalld_problem=told.problem,
            written=report.written,
        )

    def _close_forwarding(self, daemon_json: Mapping[str, object], version: int) -> str | None:
        """None, or in words what stays open once forwarding is on."""
        if firewall.docker_uses_nftables(daemon_json):
            return (
                f"overlayd turned IPv{version} forwarding on, and Docker's nftables backend leaves FORWARD open: other "
                "networks' packets pass this host; drop them by a rule of your own"
            )
        if not firewall.docker_closes_forwarding(daemon_json, version):
            return (
                f"overlayd turned IPv{version} forwarding on, and FORWARD stays open, as daemon.json asks: other "
                "networks' packets pass this host"
            )
        return self._firewall.close_forwarding(version)

    def _sync(self, wanted: firewall.Wanted) -> firewall.Report:
        report = self._firewall.sync(wanted)
        if report.written:
            FIREWALL_WRITES.add()
            log.info("firewall rules written", backend=report.backend)
        return report

    def _wanted(
        self, subnets: Subnets, addresses: frozenset[IPAddress], leased: frozenset[IPNetwork]
    ) -> firewall.Wanted:
        bridges = interfaces.read_bridges()
        all_bridges = {*bridges.of_guests, *bridges.wired} - {self._ifname}
        by_plain_routes = self._ifname in self._backend.devices
        return firewall.desired(
            overlays=self._overlays(subnets),
            devices=self._backend.devices,
            masquerade=self._settings.ip_masq,
            forward=self._settings.iptables_forward_rules,
            daemon_json=docker_options.read_told().settings,
            bridge=next((name for name in interfaces.holding(subnets) if name in all_bridges), self._bridge),
            others=[
                firewall.OtherNetwork(network=network, bridges=self._bridges_of(other, all_bridges))
                for other in other_networks.others()
                for network in other.networks
            ],
            listens=self._backend.listens,
            peers=addresses,
            leased=leased,
            other_bridges=bridges.of_guests,
            wired_bridges=bridges.wired,
            underlay=self._ifname,
            routers=interfaces.router_macs(self._ifname, addresses) if by_plain_routes else (),
            trusted=self._settings.trusted_networks,
        )

    @property
    def _bridge(self) -> str | None:
        """The bridge while none has the subnet's address; None for the one that docker was told."""
        return ours().bridge if ours().number else None

    @staticmethod
    def _bridges_of(other: other_networks.Network, bridges: Collection[str]) -> tuple[str, ...]:
        return tuple(name for name in interfaces.holding(other.subnets) if name in bridges) if other.subnets else ()

    def _overlays(self, subnets: Subnets) -> list[firewall.Overlay]:
        return [
            firewall.Overlay(
                network=network,
                subnet=subnet,
                shared=any(overlaps(one.network, network) for one in self._here.needed),
            )
            for network, subnet in zip(self._config.networks, subnets, strict=True)
        ]


def _addresses(peers: Collection[Lease]) -> frozenset[IPAddress]:
    return frozenset(family_lease.public_ip for peer in peers for family_lease in peer.family_leases)
