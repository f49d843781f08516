"""Docker's own overlay network: swarm on two hosts of a cluster, and an attachable network. Kernel VXLAN, port 4789."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address

from overlayd.errors import CommandFailed
from tests.perf.place import Pair, Place
from tests.perf.topology_cluster import namespace_in
from tests.testbed.cluster.machine import Machine
from tests.testbed.polling import eventually

NAME = "docker overlay"
# Docker's own default for an underlay of 1500.
MTU_BYTES = 1450
_NETWORK, _CONTAINER = "bench-overlay", "bench-overlay"
_SUBNET = "198.19.251.0/24"
_JOINED_S = 30.0


@contextmanager
def joined(first: Machine, second: Machine, image: str) -> Iterator[Pair]:
    """A swarm of two, and a container on each on one overlay network. The swarm is left at the end."""
    try:
        first.run("docker", "swarm", "init", f"--advertise-addr={first.address}")
        token = first.run("docker", "swarm", "join-token", "--quiet", "worker").strip()
        second.run("docker", "swarm", "join", "--token", token, f"{first.address}:2377")
        first.run("docker", "network", "create", "--driver=overlay", "--attachable", f"--subnet={_SUBNET}", _NETWORK)
        places = [_container(machine, image) for machine in (first, second)]
        eventually("swarm", lambda: places[0].reaches(places[1].address), timeout_s=_JOINED_S)
        yield Pair(*places)
    finally:
        for machine in (first, second):
            for words in (("rm", "--force", _CONTAINER), ("swarm", "leave", "--force")):
                with contextlib.suppress(CommandFailed):
                    machine.run("docker", *words)


def _container(machine: Machine, image: str) -> Place:
    def started() -> bool:
        # The worker learns of the network when it is asked for it, and refuses in its first second.
        words = ["docker", "run", "--detach", "--init", f"--name={_CONTAINER}", f"--network={_NETWORK}"]
        if machine.succeeds(*words, image, "sleep", "infinity"):
            return True
        machine.succeeds("docker", "rm", "--force", _CONTAINER)
        return False

    eventually(f"a container of swarm's on {machine.name}", started, timeout_s=_JOINED_S)
    template = f'{{{{(index .NetworkSettings.Networks "{_NETWORK}").IPAddress}}}}'
    address = machine.run("docker", "inspect", f"--format={template}", _CONTAINER)
    return Place(namespace_in(machine, _CONTAINER), IPv4Address(address.strip()))
