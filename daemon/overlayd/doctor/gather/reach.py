"""Whether containers of peers answer a container of this host, by echoes sent now."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace

from overlayd.doctor.facts import NetworkFacts, PublishedLease, Reachability, UnderlayFacts
from overlayd.errors import OverlaydError
from overlayd.kernel import interfaces
from overlayd.monitoring.status_file import Status
from overlayd.probe.container_sockets import COMMAND_TIMEOUT_S, ContainerSockets
from overlayd.probe.measure import measure_once
from overlayd.probe.peers import KnownPeer, LocalHost, describe_source, known

PEERS_AT_MOST = 64


def read_reach(
    status: Status | None, network: NetworkFacts | None, leases: Sequence[PublishedLease], underlay: UnderlayFacts
) -> Reachability:
    """The peers that the daemon knows, else those in etcd, PEERS_AT_MOST of them; none where this host has no lease."""
    addresses = interfaces.own_addresses()
    if status is not None and status.subnets:
        here, peers = known(status, addresses)
    elif network is not None and network.subnets:
        here = LocalHost(subnets=network.subnets, addresses=addresses, mtu_bytes=network.mtu_bytes)
        peers = [
            KnownPeer(subnet=lease.subnet, public_ip=lease.public_ip, backend=lease.backend)
            for lease in leases
            if lease.public_ip not in underlay.public_ips
        ]
    else:
        return Reachability(problem="no lease, so nobody to ask")
    with contextlib.closing(ContainerSockets(timeout_s=COMMAND_TIMEOUT_S)) as container_sockets:
        here = replace(here, containers=container_sockets.containers(here.subnets))
        try:
            found = measure_once(peers[:PEERS_AT_MOST], here)
        except OverlaydError as error:
            return Reachability(problem=error.message)
        return Reachability(
            peers=found,
            source=describe_source(here, container_sockets.problem, container_sockets.bridge),
            daemon_problems=here.peer_problems,
        )
