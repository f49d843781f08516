"""All facts of this host that the checks judge by, gathered one room after the other."""

from __future__ import annotations

from overlayd.doctor.facts import Facts
from overlayd.doctor.gather import docker, etcd, firewall, host, network, reach, underlay
from overlayd.lib import marks
from overlayd.settings import Settings


def collect(settings: Settings, *, settings_problem: str | None, arp: bool) -> Facts:
    """The facts of this host. Takes about a second, and some more for each etcd server that does not answer."""
    status, daemon = host.read_daemon(settings)
    here = underlay.read_underlay(settings)
    store, config, leases = etcd.read_etcd(settings)
    joined = network.read_network(settings, status, config, leases, here)
    return Facts(
        host=host.read_host(settings_problem, joined, here),
        daemon=daemon,
        underlay=underlay.read_surroundings(here, joined, leases, ask=arp),
        etcd=etcd.with_containers(store, settings, joined.bridge if joined else marks.ours().bridge),
        firewall=firewall.read_firewall(settings, status),
        docker=docker.read_docker(settings, joined),
        network=joined,
        reach=reach.read_reach(status, joined, leases, here),
        number=settings.network_number,
    )
