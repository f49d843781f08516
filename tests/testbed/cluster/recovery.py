"""What a fault on one host costs the containers of another, and what it must leave as it was."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address

from tests.testbed.cluster.flow import pinging
from tests.testbed.cluster.machine import PROBE, Machine
from tests.testbed.cluster.site import ClusterSite
from tests.testbed.cluster.steps import virtual_hosts
from tests.testbed.cluster.virtual_machine import VirtualMachine
from tests.testbed.polling import eventually
from tests.testbed.records import Fault, Recorder

# As long as an emulated machine of a busy computer may take (VirtualMachine.patience_s). On one of metal it is a second
# or two; what it was is recorded.
BACK_WITHIN_S = VirtualMachine.patience_s


@dataclass(frozen=True, kw_only=True)
class Untouched:
    """What no fault may change: the subnet, docker's process, and the container's."""

    subnet: str
    docker: str
    container: str


def untouched(machine: Machine) -> Untouched:
    """What there is now."""
    return Untouched(
        subnet=str(machine.bip()),
        docker=machine.unit("docker", "MainPID")["MainPID"],
        container=machine.run("docker", "inspect", "--format={{.State.Pid}} {{.State.StartedAt}}", PROBE),
    )


def machines_of(site: ClusterSite) -> tuple[VirtualMachine, VirtualMachine]:
    """The host to which things happen, and the one that counts."""
    return virtual_hosts.of(site, "host1"), virtual_hosts.of(site, "host2")


def answers(source: Machine, address: IPv4Address) -> bool:
    """Whether one ping from a container on a host is answered."""
    return source.succeeds("docker", "exec", PROBE, "ping", "-n", "-q", "-c", "1", "-W", "5", str(address))


@contextmanager
def recovers(fault: str, site: ClusterSite, record: Recorder, *, at: IPv4Address | None = None) -> Iterator[None]:
    """Assert that after the block a's container answers again within the bound, and is the same one as before.

    `at` is the address that a has then, if it is another. What it cost is recorded.
    """
    a, b = machines_of(site)
    before, address = untouched(a), a.probe_address()
    with pinging(b, a) as flow:
        yield
        ended = time.monotonic()
        eventually(f"{address} answers after: {fault}", lambda: answers(b, address), timeout_s=BACK_WITHIN_S)
        back_s = time.monotonic() - ended
    sent = sum(ping.sent for ping in flow.pings.values())
    recovered_s = back_s if flow.lost else 0.0
    backend = site.cluster.backend_type
    Fault(fault=fault, backend=backend, sent=sent, lost=flow.lost, recovered_s=recovered_s).record(record)
    there = a if at is None else a.at(at)
    eventually(f"{a.name} is ready", lambda: there.status()["state"] == "ready", timeout_s=there.patience_s)
    assert there.status()["problem"] is None
    assert untouched(there) == before
