"""Networks of each IP version in a lab, and ranges of few subnets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network
from itertools import permutations
from typing import Any

import pytest

from tests.testbed.netns.lab import NETWORK, NETWORK6, Host, Lab
from tests.testbed.netns.traffic import pings_all

# What `laboratory` takes for each of them.
FAMILIES: Mapping[str, Mapping[str, Any]] = {"IPv4": {}, "dual": {"dual": True}, "IPv6": {"only6": True}}
# The same for a fixture's `params`. `make test` has the one with both IP versions.
BY_FAMILY = [pytest.param(name, marks=() if name == "dual" else pytest.mark.slow) for name in FAMILIES]
CONFIG = "/coreos.com/network/config"


def few_subnets(lab: Lab, backend: Mapping[str, Any], count: int) -> str:
    """Write a network config whose range has so many subnets for hosts in each IP version; the config."""
    last = 16 + count - 1
    config: dict[str, Any] = {"EnableIPv4": not lab.only6, "EnableIPv6": lab.dual or lab.only6, "Backend": backend}
    if not lab.only6:
        subnets = [IPv4Network(f"10.5.{number}.0/24") for number in (16, last)]
        config |= {"Network": str(NETWORK), "SubnetMin": str(subnets[0][0]), "SubnetMax": str(subnets[1][0])}
    if lab.dual or lab.only6:
        subnets6 = [IPv6Network(f"fd42:0:0:{number:x}::/64") for number in (16, last)]
        config |= {"IPv6Network": str(NETWORK6)}
        config |= {"IPv6SubnetMin": str(subnets6[0][0]), "IPv6SubnetMax": str(subnets6[1][0])}
    text = json.dumps(config)
    lab.etcd.ctl("put", CONFIG, text)
    return text


def prefer(host: Host, subnet: str) -> None:
    """Let a host that has not run yet take this subnet where it is free: that of its previous lease.

    A random one meets any that a test names for another host once in 254 times.
    """
    (host.run_dir / "subnet.env").write_text(f"FLANNEL_SUBNET={subnet.replace('.0/', '.1/')}\n")


def host_on(lab: Lab, name: str, subnet: str, **more: Any) -> Host:
    """A host like `Lab.host`'s, on a subnet that no test names for another host (`prefer`)."""
    host = lab.host(name, start=False, **more)
    prefer(host, subnet)
    host.start()
    host.start_container()
    return host


def all_reach(*hosts: Host) -> bool:
    """Whether the containers of all these hosts reach each other, by each IP version of the network."""
    return all(pings_all(one, other) for one, other in permutations(hosts, 2))
