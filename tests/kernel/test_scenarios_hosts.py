"""Clocks that are wrong, ranges without a free subnet, disks without room, and many hosts at once."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.testbed.netns.families import BY_FAMILY, FAMILIES, all_reach, few_subnets
from tests.testbed.netns.faults import kinds, power, subnets
from tests.testbed.netns.faults.clock import with_movable_clock
from tests.testbed.netns.faults.cost import cost_of
from tests.testbed.netns.lab import Host, Lab, laboratory
from tests.testbed.netns.traffic import pings_all
from tests.testbed.polling import eventually
from tests.testbed.records import Connection, Recorder

BACKEND = {"Type": "vxlan"}
HEALED_S = 30.0
MANY = 30
# Seen: 100 s on two busy cores.
MANY_READY_S = 300.0


@pytest.fixture(params=BY_FAMILY)
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    """A lab without hosts, of each IP version."""
    with laboratory(tmp_path, BACKEND, **FAMILIES[request.param]) as lab:
        yield lab


def lease_ids(lab: Lab) -> list[str]:
    """The etcd leases of all keys, which change where a host loses its lease or takes another."""
    lines = lab.etcdctl("get", "--prefix", subnets.SUBNETS, "-w", "fields").splitlines()
    return [line for line in lines if line.startswith(('"Key"', '"Lease"'))]


@pytest.mark.slow
def test_hosts_whose_clocks_are_two_days_apart_and_jump_lose_no_lease_and_no_packet(
    lab: Lab, record_property: Recorder
) -> None:
    ttl_s = 6
    hosts = [lab.host(name, lease_ttl_s=ttl_s, start=False) for name in "ab"]
    moves = [with_movable_clock(host) for host in hosts]
    for host, move, offset in zip(hosts, moves, ("+1d", "-1d"), strict=True):
        move(offset)
        host.start()
        host.start_container()
    eventually("they reach each other", partial(all_reach, *hosts), timeout_s=HEALED_S)
    a, b = hosts
    assert a.status()["started_at_s"] - b.status()["started_at_s"] > 86400
    before = lease_ids(lab)
    with cost_of("clocks two days apart, which jump", "vxlan", hosts, record_property) as cost:
        for offsets in (("-1d", "+1d"), ("+0", "+400d"), ("+1d", "+0")):
            for move, offset in zip(moves, offsets, strict=True):
                move(offset)
            # Renewed in time by etcd's clock: each jump is followed by more than one TTL.
            deadline = time.monotonic() + 1.5 * ttl_s
            while time.monotonic() < deadline:
                assert lease_ids(lab) == before
                time.sleep(0.5)
            assert [host.status()["lease_problem"] for host in hosts] == [None, None]
        cost.over()
    assert cost.lost == []
    assert all(map(power.is_ready, hosts))


def test_a_host_that_waits_for_a_subnet_takes_that_of_a_host_that_died_and_is_reached(lab: Lab) -> None:
    few_subnets(lab, BACKEND, 3)
    a, b, dies = lab.host("a"), lab.host("b"), lab.host("dies", lease_ttl_s=5)
    waits = lab.host("waits", start=False)
    waits.start(ready=False)
    eventually("it waits", lambda: "are taken" in str(waits.status().get("problem")))
    assert not (waits.run_dir / "docker.env").exists()
    freed = dies.subnets
    lab.remove_host(dies)
    eventually("it is ready by itself", partial(power.is_ready, waits), timeout_s=HEALED_S)
    assert waits.subnets == freed
    waits.start_container()
    eventually("all reach it", partial(all_reach, a, b, waits), timeout_s=HEALED_S)
    assert subnets.held_twice(subnets.in_etcd(lab.etcd)) == []


@pytest.fixture
def small_disks(lab: Lab) -> Iterator[Host]:
    """Host a, whose /run and /var are soon full."""
    host = lab.host("a", start=False)
    with kinds.with_small_disks(host):
        host.start()
        host.start_container()
        yield host
        host.remove()


def test_full_disks_stop_no_packet_and_the_file_is_named_and_all_is_well_when_there_is_room(
    lab: Lab, small_disks: Host, record_property: Recorder
) -> None:
    a, b = small_disks, lab.host("b")
    eventually("they reach each other", partial(all_reach, a, b), timeout_s=HEALED_S)
    held = a.subnets
    full = kinds.of_disk(a)
    with cost_of("disks full under /run and /var", "vxlan", (a, b), record_property) as cost:
        full.start()
        # A peer that joins now is in the kernel all the same.
        joined = lab.host("c")
        eventually("a reaches it", partial(all_reach, a, joined), timeout_s=HEALED_S)
        eventually("the status is named", lambda: _says(a, "status.json") and _says(a, "No space left on device"))
        # Another file that is kept as it should be, and cannot be written.
        (a.run_dir / "subnet.env").rename(a.run_dir / "aside")
        kinds.fill(a.run_dir)
        eventually("subnet.env is named", lambda: _says(a, "subnet.env"), timeout_s=HEALED_S)
        (a.run_dir / "aside").unlink()
        full.stop()
        cost.over()
        eventually("a is ready", partial(power.is_ready, a), timeout_s=HEALED_S)
        eventually("subnet.env is there again", (a.run_dir / "subnet.env").exists)
    assert a.subnets == held
    assert cost.lost == []
    assert _says(a, "can be written again")


def test_a_daemon_that_starts_on_full_disks_names_the_file_and_is_ready_when_there_is_room(
    lab: Lab, small_disks: Host, record_property: Recorder
) -> None:
    a, b = small_disks, lab.host("b")
    eventually("they reach each other", partial(all_reach, a, b), timeout_s=HEALED_S)
    held, full = a.subnets, kinds.of_disk(a)
    with cost_of("a daemon started on full disks", "vxlan", (a, b), record_property) as cost:
        a.stop()
        # As after an update that changes the files.
        for name in ("docker.env", "docker.json"):
            (a.run_dir / name).unlink()
        full.start()
        # systemd starts a daemon again that ends with this status.
        done = subprocess.run(
            a.overlayd("run"), env=a.environment(), capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 1, done.stderr
        assert "No space left on device: '" in done.stderr.splitlines()[-1], done.stderr
        full.stop()
        a.start()
        cost.over()
        eventually("a is ready", partial(power.is_ready, a), timeout_s=HEALED_S)
    assert a.subnets == held
    assert cost.lost == []


def _says(host: Host, text: str) -> bool:
    return text in host.log.read_text()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_thirty_hosts_that_start_at_once_reach_each_other(lab: Lab, record_property: Recorder) -> None:
    hosts = [lab.host(f"h{number}", start=False) for number in range(MANY)]
    began = time.monotonic()
    for host in hosts:
        host.start(ready=False)
    eventually("all are ready", lambda: all(map(power.is_ready, hosts)), timeout_s=MANY_READY_S)
    record_property(f"{MANY} hosts, ready after", f"{time.monotonic() - began:.1f} s")
    assert subnets.held_twice(subnets.in_etcd(lab.etcd)) == []
    for host in hosts:
        host.start_container()
    # Each to the next and to the one across: all have all routes, or these would fail at the latest.
    eventually("each knows all", lambda: all(len(host.status()["peers"]) == MANY - 1 for host in hosts))
    for at, host in enumerate(hosts):
        for distance in (1, MANY // 2):
            other = hosts[(at + distance) % MANY]
            eventually(f"{host.name} reaches {other.name}", partial(pings_all, host, other), timeout_s=HEALED_S)
            Connection(
                source=host.name,
                target=other.name,
                backend="vxlan",
                docker="none",
                kernel=os.uname().release,
                sent=len(other.subnets),
                lost=0,
            ).record(record_property)
    record_property(f"{MANY} hosts, reached after", f"{time.monotonic() - began:.1f} s")
