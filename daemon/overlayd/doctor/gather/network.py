"""The overlay as this host takes part in it, from whoever knows: the daemon, etcd, the files of the last run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network
from typing import TypedDict

from overlayd.doctor.facts import Network, Published, Underlay
from overlayd.errors import OverlaydError
from overlayd.host import other_networks
from overlayd.host.backend import load_backend
from overlayd.kernel import survey
from overlayd.leases.conflicts import judge_network, without_container_bridge
from overlayd.leases.network_config import NetworkConfig
from overlayd.leases.subnets import Subnets
from overlayd.lib import marks
from overlayd.lib.addresses import IPNetwork, ip_network
from overlayd.monitoring.status_file import Status
from overlayd.probe.containers import bridge_of
from overlayd.settings import Settings
from overlayd.underlay import host_needs
from overlayd.underlay.watch import choose_underlay

_PORT_KEYS = {"wireguard": "listenport"}


def read_network(
    settings: Settings,
    status: Status | None,
    config: NetworkConfig | None,
    leases: Sequence[Published],
    underlay: Underlay,
) -> Network | None:
    """The network; None where neither etcd nor an earlier run tells.

    The MTU is the one that the daemon took when it started, as that is what containers have.
    """
    held: dict[int, IPNetwork] = {
        lease.subnet.version: lease.subnet for lease in leases if lease.public_ip in underlay.public_ips
    }
    if status is not None:
        named = [ip_network(text) for text in (status.subnet, status.subnet6) if text]
        held = {subnet.version: subnet for subnet in named} or held
    last = _last_known(status, held, underlay)
    if config is None:
        return last
    try:
        chosen = choose_underlay(settings).only(config.versions)
        backend = load_backend(config, chosen)
    except OverlaydError:
        return last
    needs = without_container_bridge(host_needs.now(settings.etcd_endpoints), chosen.ifname, held=held.values())
    judgement = judge_network(config, needs, one_route=backend.one_route)
    own = replace(other_networks.of_settings(settings), networks=config.networks, listens=backend.listens)
    same = last is not None and last.backend == config.backend_type
    networks = Subnets.of(config.networks)
    return Network(
        network=networks.v4,
        network6=networks.v6,
        backend=config.backend_type,
        mtu_bytes=last.mtu_bytes if same and last is not None else backend.mtu_bytes,
        devices=backend.devices,
        port=_port(config),
        listens=backend.listens,
        ipv6=6 in config.versions,
        refusals=(*judgement.refusals, *other_networks.conflicts(own, other_networks.others())),
        remarks=judgement.remarks,
        bridge=bridge_of(held.values()),
        **_held(held),
    )


class _Held(TypedDict):
    subnet: IPv4Network | None
    subnet6: IPv6Network | None


def _held(held: Mapping[int, IPNetwork]) -> _Held:
    subnets = Subnets.of(held.values())
    return _Held(subnet=subnets.v4, subnet6=subnets.v6)


def _last_known(status: Status | None, held: Mapping[int, IPNetwork], underlay: Underlay) -> Network | None:
    if status is None or not status.network or not status.backend or not status.mtu_bytes:
        return None
    networks = Subnets.of(ip_network(text.strip()) for text in status.network.split(","))
    own = tuple(link.name for link in survey.links() if marks.ours().names(link.name))
    return Network(
        network=networks.v4,
        network6=networks.v6,
        backend=status.backend,
        mtu_bytes=status.mtu_bytes,
        devices=own or ((underlay.ifname,) if underlay.ifname else ()),
        ipv6=networks.v6 is not None,
        bridge=bridge_of(held.values()),
        **_held(held),
    )


def _port(config: NetworkConfig) -> int | None:
    wanted = _PORT_KEYS.get(config.backend_type, "port")
    for key, value in config.backend_config.items():
        if key.lower() == wanted and isinstance(value, int) and value:
            return value
    return None
