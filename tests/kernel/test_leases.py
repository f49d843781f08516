"""Leases of running daemons: they are reserved, released, revoked, stolen, and all subnets are used up."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from ipaddress import IPv4Network
from typing import Any

import pytest

from tests.testbed.netns.faults.clock import with_movable_clock
from tests.testbed.netns.lab import Host, Lab, environment, laboratory
from tests.testbed.netns.traffic import pings
from tests.testbed.polling import eventually

PREFIX = "/coreos.com/network"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A vxlan lab with hosts a and b."""
    with laboratory(tmp_path_factory.mktemp("leases"), {"Type": "vxlan"}) as lab:
        a, b = lab.host("a"), lab.host("b")
        eventually("b is reachable from a", lambda: pings(a, b))
        yield lab


def key(subnet: IPv4Network) -> str:
    return f"{PREFIX}/subnets/{subnet.network_address}-{subnet.prefixlen}"


def etcd_lease(lab: Lab, subnet: IPv4Network) -> int:
    """The id of the etcd lease to which a key is attached; 0 for none."""
    lines = lab.etcdctl("get", key(subnet), "-w", "fields").splitlines()
    return next((int(line.split()[-1]) for line in lines if line.startswith('"Lease"')), 0)


def overlayd(host: Host, *words: str) -> subprocess.CompletedProcess[str]:
    argv = host.overlayd(*words)
    return subprocess.run(argv, capture_output=True, text=True, env=environment(), timeout=30, check=False)


def listed(host: Host) -> dict[str, dict[str, Any]]:
    return {entry["key"]: entry for entry in json.loads(overlayd(host, "lease", "list", "--json").stdout)}


def test_a_running_hosts_lease_is_reserved_and_released_under_it(lab: Lab, a: Host, b: Host) -> None:
    subnet = a.subnet
    done = overlayd(b, "lease", "reserve", str(subnet), f"--host={a.address}")
    assert done.returncode == 0, done.stderr
    eventually("a knows that it is reserved", lambda: a.status()["reserved"])
    a.stop()
    a.start()
    assert (a.subnet, a.status()["reserved"], etcd_lease(lab, subnet)) == (subnet, True, 0)
    entry = listed(b)[f"{subnet.network_address}-24"]
    assert (entry["reserved"], entry["public_ips"], entry["host"]) == (True, [str(a.address)], os.uname().nodename)
    done = overlayd(b, "lease", "release", str(subnet))
    assert done.returncode == 0, done.stderr
    eventually("a holds a lease again", lambda: etcd_lease(lab, subnet) != 0 and not a.status()["reserved"])
    assert a.subnet == subnet
    eventually("b reaches a", partial(pings, b, a))


def test_a_reservation_for_a_host_that_is_not_there_is_no_problem(lab: Lab, a: Host, b: Host) -> None:
    free = next(s for s in IPv4Network("10.5.128.0/17").subnets(new_prefix=24) if s not in (a.subnet, b.subnet))
    assert overlayd(b, "lease", "reserve", str(free), "--host=198.18.1.77").returncode == 0
    eventually("a sees it", lambda: str(free) in str(a.status()["peers"]))
    (peer,) = (peer for peer in a.status()["peers"] if peer["subnet"] == str(free))
    assert (peer["path"], peer["problem"]) == ("reserved", None)
    assert a.call("status").returncode == 0
    # If a reservation has a backend but no data, flannel's vxlan logs "error decoding subnet lease JSON".
    assert json.loads(lab.etcdctl("get", "--print-value-only", key(free))) == {
        "PublicIP": "198.18.1.77",
        "PublicIPv6": None,
    }
    assert "198.18.1.77" in overlayd(a, "lease", "list").stdout
    assert overlayd(b, "lease", "release", str(free)).returncode == 0


def test_bad_arguments_change_nothing_and_the_error_says_what_is_allowed(a: Host, b: Host) -> None:
    before = listed(a)
    for words, said in (
        (("reserve", "10.5.7.1/24", "--host=198.18.1.77"), "host bits"),
        (("reserve", "10.5.7.0/25", "--host=198.18.1.77"), "/24 from"),
        (("reserve", str(a.subnet), "--host=198.18.1.77"), f"held by {a.address}"),
        (("reserve", "10.5.7.0/24", "--host=here"), "does not appear to be"),
        (("release", "10.9.7.0/24"), "nobody holds"),
        (("release", str(a.subnet)), "in use by"),
    ):
        done = overlayd(b, "lease", *words)
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert listed(a) == before or listed(a).keys() == before.keys()


def test_a_revoked_lease_is_written_again_on_the_same_subnet(lab: Lab, a: Host, b: Host) -> None:
    subnet, before = a.subnet, etcd_lease(lab, a.subnet)
    lab.etcdctl("lease", "revoke", f"{before:x}")
    eventually("it is there again", lambda: etcd_lease(lab, subnet) not in (0, before))
    assert "written again" in a.log.read_text()
    eventually("b reaches a", partial(pings, b, a))
    # The new lease is renewed like the first one, and known after a restart.
    a.stop()
    a.start()
    assert a.subnet == subnet


def test_a_host_that_was_away_longer_than_its_lease_gets_its_subnet_again(lab: Lab, a: Host) -> None:
    host = lab.host("away", lease_ttl_s=5)
    try:
        subnet = host.subnet
        host.stop()
        # As after a reboot: the run directory is empty.
        host.cleanup()
        eventually("its lease ends", lambda: str(subnet) not in str(listed(a)), timeout_s=30)
        host.start()
        assert host.subnet == subnet
    finally:
        lab.remove_host(host)


def test_a_clock_that_is_wrong_by_a_month_is_harmless(lab: Lab, a: Host) -> None:
    host = lab.host("late", lease_ttl_s=6, start=False)
    with_movable_clock(host)("+30d")
    try:
        host.start()
        host.start_container()
        eventually("a reaches it", lambda: pings(a, host))
        assert host.status()["started_at_s"] > time.time() + 29 * 86400
        held = etcd_lease(lab, host.subnet)
        # It is renewed in time by etcd's clock: it lives three times as long as its TTL.
        pause, deadline = threading.Event(), time.monotonic() + 3 * 6
        while time.monotonic() < deadline:
            assert etcd_lease(lab, host.subnet) == held
            assert host.status()["lease_problem"] is None
            pause.wait(1)
        assert pings(host, a)
    finally:
        lab.remove_host(host)


def test_a_stolen_lease_is_reported_and_another_subnet_taken(lab: Lab, a: Host, b: Host) -> None:
    stolen, before = a.subnet, etcd_lease(lab, a.subnet)
    thief = '{"PublicIP":"198.18.1.66","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:66"}}'
    lab.etcdctl("put", key(stolen), thief)
    eventually("a has another subnet", lambda: a.subnet != stolen and a.status()["state"] == "ready")
    assert etcd_lease(lab, a.subnet) not in (0, before)
    log = a.log.read_text()
    assert "LEASE LOST" in log
    assert "198.18.1.66" in log
    assert "restart docker" in log
    # The containers' bridge is still on the old subnet, and the status says so until it is not.
    assert "docker0 has" in str(a.status()["docker_problems"])
    # The kernel refuses a route to a subnet that the bridge still has; after a restart of docker the route is there.
    a.run("ip", "address", "flush", "dev", "docker0", "scope", "global")
    a.run("ip", "address", "add", f"{a.subnet[1]}/24", "dev", "docker0")
    eventually("a routes to the new holder", lambda: str(stolen) in a.run("ip", "route", "show", "proto", "157"))
    eventually("a is content with docker", lambda: a.status()["docker_problems"] == [])


def test_a_host_without_a_free_subnet_waits_and_reports_it(tmp_path: Any) -> None:
    with laboratory(tmp_path, {"Type": "alloc"}) as lab:
        config = '{"Network": "10.5.0.0/28", "SubnetLen": 30, "Backend": {"Type": "alloc"}}'
        lab.etcdctl("put", f"{PREFIX}/config", config)
        hosts = [lab.host(name, start=False) for name in "abcd"]
        for host in hosts[:3]:
            host.start()
        last = hosts[3]
        last.start(ready=False)
        eventually("the last one waits", lambda: last.status().get("state") == "waiting")
        assert "all 3 subnets of 10.5.0.0/28 are taken" in last.status()["problem"]
        assert overlayd(hosts[0], "lease", "release", str(hosts[0].subnet), "--force").returncode == 0
        hosts[1].stop()
        # Another host cannot distinguish this lease from a flannel's; the host itself knows its lease.
        refused = overlayd(hosts[0], "lease", "release", str(hosts[1].subnet))
        assert (refused.returncode, "a flanneld there would end" in refused.stderr) == (2, True)
        assert overlayd(hosts[1], "lease", "release", str(hosts[1].subnet)).returncode == 0
        eventually("and goes on when one is free", lambda: last.status()["state"] == "ready", timeout_s=30)
