"""Who on this machine uses the underlay's subnet already, and which other subnet is free."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from overlayd.errors import OverlaydError
from tests.testbed.cluster.description import CLUSTER_LABEL, Cluster
from tests.testbed.cluster.docker_engine import client

# For tests of networks (RFC 2544). The tests, the bench and compose/ have theirs in the lower half.
_SPACES = (IPv4Network("198.19.0.0/16"), IPv4Network("198.18.0.0/16"))
_ROUTES = Path("/proc/net/route")
_NETWORK_LENGTH = 8
_COMPOSE_LABEL = "com.docker.compose.project"


@dataclass(frozen=True)
class Holder:
    """A subnet, and who has it, in words."""

    subnet: IPv4Network
    who: str
    # A route by a gateway: a more specific subnet inside it takes no address of this machine from it.
    remote: bool = False

    def holds(self, subnet: IPv4Network) -> bool:
        """Whether nobody else can have that subnet."""
        return self.subnet.subnet_of(subnet) if self.remote else self.subnet.overlaps(subnet)


def require_free(cluster: Cluster) -> None:
    """Raise OverlaydError where somebody else uses the cluster's underlay; it names who, and a free subnet."""
    found = holders(cluster)
    taken = [holder for holder in found if holder.holds(cluster.underlay)]
    if taken:
        who = "; ".join(f"{holder.who} has {holder.subnet}" for holder in taken)
        raise OverlaydError(f"underlay {cluster.underlay} is taken: {who}", hint=suggestion(cluster, found))


def suggestion(cluster: Cluster, found: Iterable[Holder]) -> str:
    """What to give instead."""
    other = free(cluster.underlay.prefixlen, list(found))
    return f"a free one: --underlay {other}" if other else "give another one that is free: --underlay SUBNET"


def free(length: int, found: Sequence[Holder]) -> IPv4Network | None:
    """A subnet of that length that nobody holds; None where there is none. Pure."""
    for space in _SPACES:
        for subnet in space.subnets(new_prefix=max(length, space.prefixlen)):
            if not any(holder.holds(subnet) for holder in found):
                return subnet
    return None


def holders(cluster: Cluster) -> list[Holder]:
    """Who has which subnet on dockerd's machine: Docker's networks but the cluster's own, and the machine's routes."""
    networks = [network.attrs for network in client().networks.list()]
    found = [
        Holder(subnet, _name(network))
        for network in networks
        if network["Name"] != cluster.docker_network
        for subnet in _subnets(network)
    ]
    if not is_dockerd_beside_us():
        return found
    bridges = {_bridge(network) for network in networks}
    return found + [holder for device, holder in routes(_ROUTES.read_text()) if device not in bridges]


def routes(text: str) -> list[tuple[str, Holder]]:
    """The device and the holder of each route in /proc/net/route (proc_net(5)), but the default ones. Pure."""
    found: list[tuple[str, Holder]] = []
    for line in text.splitlines()[1:]:
        device, destination, gateway, *_, mask = line.split()[:8]
        subnet = IPv4Network((_address(destination), str(_address(mask))))
        # A device `*` is none: the route refuses packets. As 0.0.0.0/1 a VPN writes the default route.
        if subnet.prefixlen >= _NETWORK_LENGTH and device != "*":
            remote = bool(int(gateway, 16))
            via = f" via {_address(gateway)}" if remote else ""
            found.append((device, Holder(subnet, f"this machine's route{via} on {device}", remote=remote)))
    return found


def _address(word: str) -> IPv4Address:
    """Eight hexadecimal digits, in the machine's order of bytes."""
    return IPv4Address(struct.pack("=I", int(word, 16)))


def _subnets(network: dict[str, Any]) -> list[IPv4Network]:
    pools = (network.get("IPAM") or {}).get("Config") or []
    return [IPv4Network(pool["Subnet"]) for pool in pools if pool.get("Subnet") and ":" not in pool["Subnet"]]


def _name(network: dict[str, Any]) -> str:
    labels = network.get("Labels") or {}
    if CLUSTER_LABEL in labels:
        return f"Docker network {network['Name']} of the cluster {labels[CLUSTER_LABEL]}"
    if _COMPOSE_LABEL in labels:
        return f"Docker network {network['Name']} of the Compose project {labels[_COMPOSE_LABEL]}"
    return f"Docker network {network['Name']}"


def _bridge(network: dict[str, Any]) -> str:
    named = (network.get("Options") or {}).get("com.docker.network.bridge.name")
    return str(named or f"br-{network['Id'][:12]}")


def is_dockerd_beside_us() -> bool:
    """Whether dockerd makes its bridges in our network namespace: else our routes say nothing of its machine's."""
    where = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    if not where.startswith("unix://"):
        return False
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(where.removeprefix("unix://"))
            # unix(7): the process that listens, which may be systemd; 0 where it is in no namespace that we see.
            seen = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        number = struct.unpack("3i", seen)[0]
        return number > 0 and Path(f"/proc/{number}/ns/net").readlink() == Path("/proc/self/ns/net").readlink()
    except OSError:
        return False
