"""The part of the host that keeps its firewall rules under one network config."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar

from overlayd import firewall
from overlayd.errors import CommandFailed, KernelRefused
from overlayd.host import other_networks
from overlayd.host.data_path import DataPath, public_addresses, subnets_of
from overlayd.host.parts import DesiredHost, HostContext, PartReport
from overlayd.kernel import interfaces, netlink
from overlayd.leases.conflicts import CurrentNeeds
from overlayd.leases.lease import Lease
from overlayd.leases.network_config import NetworkConfig
from overlayd.leases.subnets import Subnets
from overlayd.lib.addresses import IPAddress, IPNetwork, overlaps
from overlayd.lib.counters import counter
from overlayd.lib.log import logger
from overlayd.lib.marks import ours

log = logger("host")

FIREWALL_WRITES = counter("overlayd_firewall_writes_total", "Times that firewall rules were not as they should be.")


class FirewallPart:
    """Keeps the rules for one backend on one underlay interface. Called in one thread."""

    name: ClassVar[str] = "firewall"

    def __init__(self, context: HostContext, data_path: DataPath) -> None:
        """Changes nothing yet."""
        self._context = context
        self._data_path = data_path
        self._firewall = firewall.Firewall(context.settings.firewall, prefer_nftables=context.config.nftables)
        self._forwards_for_all: set[str] = set()
        self._left_open: tuple[str, ...] = ()
        self._backend_name: str | None = None

    def close(self) -> None:
        """The rules stay."""

    def keep_strangers_out(self, subnets: Subnets, peers: Collection[Lease]) -> None:
        """Write the rules against strangers before the backend opens its port and turns on forwarding.

        Where forwarding is off, FORWARD's policy becomes DROP, as Docker sets it when it turns forwarding on. Until the
        first `sync`, the peers of the last run are accepted, and `peers` too: a host that is moved from flannel loses
        no packet. Raises CommandFailed, KernelRefused.
        """
        daemon_json = self._context.dockerd_config.read().settings
        for version in sorted({4, *self._context.config.versions}):
            if not netlink.forwards(version):
                reason = self._close_forwarding(daemon_json, version)
                if reason is not None:
                    log.warning("this host forwards packets of other networks", reason=reason)
                    self._forwards_for_all.add(reason)
        addresses, leased = self._firewall.members()
        report = self._write(self._desired(subnets, addresses | public_addresses(peers), leased | subnets_of(peers)))
        if report.problems:
            raise CommandFailed(f"strangers cannot be kept out, so the backend is not opened: {report.problems[0]}")

    def sync(self, desired: DesiredHost) -> PartReport:
        """Write the rules for this lease and for the peers that the data path serves."""
        try:
            rules = self._desired(desired.lease.subnets, self._data_path.served_from, self._data_path.served_subnets)
        except KernelRefused as error:
            # The rules stay as they are until the next reconciliation.
            return self._report(problems=(str(error),))
        report = self._write(rules)
        self._backend_name = report.backend
        self._left_open = (*firewall.left_open(rules, report.backend), *report.limits)
        return self._report(problems=report.problems, changed=report.written)

    def _report(self, *, problems: tuple[str, ...], changed: bool = False) -> PartReport:
        """The report; its warnings name what strangers can reach on this host, which keeps no packet from its way."""
        return PartReport(
            problems=problems,
            warnings=(*sorted(self._forwards_for_all), *self._left_open),
            changed=changed,
            status={"firewall": self._backend_name},
        )

    def _close_forwarding(self, daemon_json: Mapping[str, object], version: int) -> str | None:
        """Close forwarding. Returns a sentence about what stays open once forwarding is on, or None."""
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

    def _write(self, rules: firewall.DesiredRules) -> firewall.FirewallReport:
        report = self._firewall.sync(rules)
        if report.written:
            FIREWALL_WRITES.add()
            log.info("firewall rules written", backend=report.backend)
        return report

    def _desired(
        self, subnets: Subnets, addresses: frozenset[IPAddress], leased: frozenset[IPNetwork]
    ) -> firewall.DesiredRules:
        there = self._context.watch.interfaces()
        bridges = there.bridges
        all_bridges = {*bridges.of_guests, *bridges.wired} - {self._context.underlay.ifname}
        by_plain_routes = self._context.underlay.ifname in self._context.backend.devices
        return firewall.desired(
            overlays=overlays(self._context.config, subnets, self._context.here),
            devices=self._context.backend.devices,
            masquerade=self._context.settings.ip_masq,
            forward=self._context.settings.iptables_forward_rules,
            daemon_json=self._context.dockerd_config.read().settings,
            bridge=next((name for name in there.with_address_in(subnets) if name in all_bridges), self._bridge),
            others=[
                firewall.OtherNetwork(network=network, bridges=_bridges_of(other, there, all_bridges))
                for other in other_networks.others()
                for network in other.networks
            ],
            listens=self._context.backend.listens,
            peers=addresses,
            leased=leased,
            other_bridges=bridges.of_guests,
            wired_bridges=bridges.wired,
            underlay=self._context.underlay.ifname,
            routers=interfaces.router_macs(self._context.underlay.ifname, addresses) if by_plain_routes else (),
            trusted=self._context.settings.trusted_networks,
        )

    @property
    def _bridge(self) -> str | None:
        """The containers' bridge while none has the subnet's address; None for the one that daemon.json names."""
        return ours().bridge if ours().number else None


def _bridges_of(
    other: other_networks.HostNetwork, there: interfaces.InterfaceList, bridges: Collection[str]
) -> tuple[str, ...]:
    return tuple(name for name in there.with_address_in(other.subnets) if name in bridges)


def overlays(config: NetworkConfig, subnets: Subnets, here: CurrentNeeds) -> list[firewall.Overlay]:
    """The network and this host's subnet, by family; `shared` where the network holds what this host needs."""
    return [
        firewall.Overlay(
            network=network,
            subnet=subnet,
            shared=any(overlaps(need.network, network) for need in here.needed),
        )
        for network, subnet in zip(config.networks, subnets, strict=True)
    ]
