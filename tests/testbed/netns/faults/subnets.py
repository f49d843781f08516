"""Who holds which subnet, as etcd says and as the kernel of each host says; no part of any may be held twice."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from itertools import combinations

from overlayd.errors import CommandFailed
from overlayd.leases.keys import parse_lease_name
from overlayd.lib import process
from overlayd.lib.addresses import IPNetwork, overlaps
from tests.testbed.etcd import Etcd
from tests.testbed.netns.lab import NETWORK, NETWORK6, Host

SUBNETS = "/coreos.com/network/subnets/"
Held = tuple[str, IPNetwork]


def in_etcd(etcd: Etcd) -> list[Held]:
    """Each subnet with the key that holds it; none where etcd does not answer now."""
    try:
        keys = etcd.ctl("get", "--prefix", "--keys-only", SUBNETS).split()
    except (AssertionError, subprocess.TimeoutExpired):
        return []
    return [(key, subnet) for key in keys for subnet in parse_lease_name(key.removeprefix(SUBNETS))]


def in_kernels(hosts: Iterable[Host]) -> list[Held]:
    """Each subnet with the host that has an address of the network in it. A host that is off has none."""
    found = []
    for host in hosts:
        try:
            links = json.loads(process.run(["ip", "-n", host.namespace, "-json", "address"]))
        except CommandFailed:
            continue
        subnets = {_leased(host, one["local"]) for link in links for one in link.get("addr_info", ())}
        found += [(host.name, subnet) for subnet in subnets if subnet is not None]
    return found


def held_twice(held: Iterable[Held]) -> list[str]:
    """A sentence for each two of them that share an address and are not the same holder's."""
    return [
        f"{one} has {subnet} and {other} has {second}"
        for (one, subnet), (other, second) in combinations(held, 2)
        if one != other and overlaps(subnet, second)
    ]


def _leased(host: Host, text: str) -> IPNetwork | None:
    """The subnet of a leased size around an address, where the address is the network's."""
    for network, bits in ((NETWORK, 24), (NETWORK6, 64)):
        subnet = type(network)(f"{text}/{bits}", strict=False) if (":" in text) == (network.version == 6) else None
        if subnet is not None and overlaps(subnet, network):
            return subnet
    return None
