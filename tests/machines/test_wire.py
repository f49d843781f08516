"""Trouble on the wire between two machines: packets lost, late, in another order, twice; and a wire with a small MTU.

netem(8) makes it, on the underlay's card of one machine or both.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from ipaddress import IPv4Network

import pytest

from tests.machines.flows import MEGABYTE, TRANSFER_S, has_reached, passes, transfer
from tests.machines.making import MakesMachines
from tests.testbed.cluster.description import Cluster
from tests.testbed.cluster.machine import Machine
from tests.testbed.cluster.measure import ping
from tests.testbed.cluster.site import ClusterSite
from tests.testbed.cluster.virtual_machine import VirtualMachine
from tests.testbed.polling import eventually
from tests.testbed.records import Fault, Recorder

pytestmark = [pytest.mark.slow, pytest.mark.setup("wire")]

NAME = "knwire"
UNDERLAY = IPv4Network("198.18.53.0/24")
OVERHEAD_BYTES = {"vxlan": 50, "wireguard": 80}
# By what the night's page calls it, what netem does to the packets that leave one machine.
TROUBLE = {
    "loss of 5 %": "loss 5%",
    "delay of 100 ms": "delay 100ms",
    "25 % in another order": "delay 20ms reorder 75% 50%",
    "10 % twice": "duplicate 10%",
}
# What may be lost of echoes by each of them: a loss of 5 % takes more than 20 % of a hundred once in 10 million runs.
LOST_AT_MOST = {"loss of 5 %": 20}
_ECHOES = 100
_FOLLOWS_S = VirtualMachine.patience_s


@pytest.fixture(scope="module")
def _cluster(base: str, machines: MakesMachines) -> Iterator[ClusterSite]:
    with machines(Cluster(name=NAME, base=base, hosts=2, underlay=UNDERLAY, machines=True)) as found:
        yield found


@pytest.fixture(scope="module", params=OVERHEAD_BYTES)
def backend(request: pytest.FixtureRequest, _cluster: ClusterSite) -> str:
    """The backend's name; the cluster is switched to it."""
    name: str = request.param
    _cluster.use(name)
    return name


@pytest.fixture
def site(_cluster: ClusterSite, backend: str) -> ClusterSite:
    """The machines on that backend, whose containers reach each other."""
    for source, target in _cluster.pairs:
        eventually("it is reached", partial(has_reached, source, target), timeout_s=_FOLLOWS_S)
    return _cluster


@contextmanager
def _on_the_wire(machine: Machine, trouble: str) -> Iterator[None]:
    """netem on the card of the underlay, for the length of the block."""
    card = str(machine.status()["ifname"])
    machine.shell(f"tc qdisc replace dev {card} root netem {trouble}")
    try:
        yield
    finally:
        machine.run("tc", "qdisc", "del", "dev", card, "root")


@pytest.mark.parametrize("what", TROUBLE)
def test_trouble_on_the_wire_ends_no_flow_and_no_peer_is_said_to_fail(
    what: str, site: ClusterSite, a: VirtualMachine, b: VirtualMachine, record_property: Recorder
) -> None:
    words: list[str] = []
    with _on_the_wire(b, TROUBLE[what]):
        with ThreadPoolExecutor(1) as background:
            pinging = background.submit(ping, a.in_probe, b.probe_address(), count=_ECHOES, interval_s=0.3)
            while not pinging.done():
                words += [f"{machine.name}: {one}" for machine in (a, b) for one in _failing(machine)]
            echoes = pinging.result()
        for source, target in ((a, b), (b, a)):
            assert transfer(source, target).received_bytes >= MEGABYTE
        # What overlayd measures itself goes over the same wire.
        told = [one["rtt_ms"] for one in a.status()["reach"]]
    over = time.monotonic()
    eventually("packets go again", lambda: ping(a.in_probe, b.probe_address()).lost == 0, timeout_s=_FOLLOWS_S)
    recovered_s = round(time.monotonic() - over, 3) if echoes.lost else 0.0
    Fault(
        fault=what,
        backend=site.cluster.backend_type,
        sent=echoes.sent,
        lost=echoes.lost,
        recovered_s=recovered_s,
    ).record(record_property)
    assert words == []
    assert echoes.lost <= LOST_AT_MOST.get(what, 0), echoes
    if what == "delay of 100 ms":
        assert echoes.average_ms is not None
        assert echoes.average_ms >= 100
        assert all(rtt_ms is not None and rtt_ms >= 100 for rtt_ms in told), told


def _failing(machine: Machine) -> list[str]:
    """What the daemon says of peers that are not reached, and whether it is itself not ready."""
    status = machine.status()
    found = [f"{one['subnet']} is {one['state']}: {one['problem']}" for one in status["reach"]]
    return [words for words in found if " is reached: None" not in words] + (
        [] if status["state"] == "ready" else [f"the daemon is {status['state']}: {status['problem']}"]
    )


def test_a_card_with_a_small_mtu_is_followed_both_ways_and_makes_no_black_hole(
    backend: str, site: ClusterSite, a: VirtualMachine, b: VirtualMachine
) -> None:
    whole, small = 1500 - OVERHEAD_BYTES[backend], 1400 - OVERHEAD_BYTES[backend]
    card = str(b.status()["ifname"])
    flows = ((a, b), (b, a))
    with ThreadPoolExecutor(1) as background:
        # It is changed while a flow of half a minute is under way.
        flow = background.submit(transfer, b, a, count_bytes=8 * MEGABYTE, at_most_mbit_s=2)
        eventually("the flow began", lambda: b.in_probe("ss", "-Htn", "dport = :5311").strip(), timeout_s=TRANSFER_S)
        b.run("ip", "link", "set", card, "mtu", "1400")
        try:
            eventually("its MTU is followed", lambda: b.status()["mtu_bytes"] == small, timeout_s=_FOLLOWS_S)
            assert flow.result().received_bytes >= 8 * MEGABYTE
            # Containers of before have the large MTU; the kernel tells them what the path takes.
            for source, target in flows:
                assert transfer(source, target).received_bytes >= MEGABYTE
            eventually("the smaller passes", partial(passes, b, a, small), timeout_s=30)
            assert not passes(b, a, small + 1)
            assert f"mtu {small} " in b.run("ip", "link", "show", _device(b))
            # docker takes the MTU when it starts.
            b.run("systemctl", "restart", "docker")
            eventually("its containers run", b.probes_run, timeout_s=b.patience_s)
            assert f"mtu {small} " in b.in_probe("ip", "link", "show", "eth0")
            for source, target in flows:
                done = transfer(source, target)
                # The two ends agree on the smaller one (RFC 9293, 3.7.1).
                assert (done.received_bytes >= MEGABYTE, done.packet_bytes) == (True, small)
            assert _path_bytes(b, a) == small
        finally:
            b.run("ip", "link", "set", card, "mtu", "1500")
    eventually("its MTU is followed back", lambda: b.status()["mtu_bytes"] == whole, timeout_s=_FOLLOWS_S)
    b.run("systemctl", "restart", "docker")
    eventually("its containers run", b.probes_run, timeout_s=b.patience_s)
    for source, target in flows:
        assert passes(source, target, whole)


def _device(machine: Machine) -> str:
    """The overlay's device, by which the kernel sends to a peer's container."""
    (link,) = (one for one in json.loads(machine.run("ip", "-json", "link")) if one["ifname"].startswith("overlay"))
    return str(link["ifname"])


def _path_bytes(source: Machine, target: Machine) -> int | None:
    """The largest packet that comes through from container to container, as `overlayd ping` found it."""
    found = json.loads(source.shell("overlayd ping --json || true"))
    (peer,) = (one for one in found["peers"] if one["public_ip"] == str(target.address))
    size: int | None = peer["containers"]["path_bytes"]
    return size
