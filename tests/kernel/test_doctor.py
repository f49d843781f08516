"""`overlayd doctor` on real hosts: one thing is broken at a time, doctor finds it by name, its remedy is run."""

from __future__ import annotations

import difflib
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.test_docker_rules import UNDO
from tests.testbed.netns import docker_releases, namespaces
from tests.testbed.netns.families import host_on
from tests.testbed.netns.lab import Host, Lab, environment, laboratory
from tests.testbed.netns.traffic import pings
from tests.testbed.polling import eventually

# The doctor measures for some seconds, and more on a busy machine.
MENDED_S = 90.0


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A vxlan lab of this file's own, since what is broken here would disturb other tests."""
    with laboratory(tmp_path_factory.mktemp("doctor"), {"Type": "vxlan"}) as lab:
        for name in ("a", "b"):
            host = host_on(lab, name, "10.5.20.0/24" if name == "a" else "10.5.21.0/24")
            # As with docker, both ends of a container's veth pair have the container's MTU.
            host.run("ip", "link", "set", "vethc", "mtu", str(host.mtu_bytes))
        yield lab


def doctor(host: Host, *words: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit status and findings by name of `overlayd doctor --json`."""
    argv = [*host.overlayd("doctor"), "--json", *words]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment(), timeout=60, check=False)
    assert not done.stderr, done.stderr
    return done.returncode, {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}


def problems(findings: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: finding["found"] for name, finding in findings.items() if finding["state"] == "problem"}


def run_remedy(host: Host, finding: dict[str, Any]) -> None:
    assert finding["remedy"], finding
    host.run("sh", "-c", finding["remedy"])


@contextmanager
def stopped(host: Host) -> Iterator[None]:
    """Stop the host's daemon for the block, as it would repair the damage before doctor looks."""
    host.stop()
    try:
        yield
    finally:
        host.start()


def test_a_healthy_host_has_no_problem(lab: Lab) -> None:
    a, b = lab.hosts
    eventually("a knows b", lambda: len(a.status()["peers"]) == 1)
    status, findings = doctor(a)
    assert (status, problems(findings)) == (0, {})
    warnings = {name for name, finding in findings.items() if finding["state"] == "warning"}
    # The etcd of a lab has no users.
    assert warnings == {"etcd-access"}
    # systemd does not run in a namespace; everything else can be looked at.
    unknown = {name for name, finding in findings.items() if finding["state"] == "unknown"}
    assert unknown <= {"docker-drop-in"}
    assert pings(a, b)


def test_an_open_etcd_that_containers_reach_is_reported(lab: Lab) -> None:
    a, _b = lab.hosts
    _status, findings = doctor(a)
    assert "anybody who reaches it may read and write" in findings["etcd-access"]["found"]
    with subprocess.Popen(["ip", "netns", "exec", a.container, "sleep", "60"]) as container:
        try:
            eventually("it sleeps", lambda: Path(f"/proc/{container.pid}/comm").read_text() == "sleep\n")
            # Containers reach it by masquerading, as with Docker.
            _status, findings = doctor(a)
            assert f"containers here reach it: process {container.pid} (sleep)" in findings["etcd-access"]["found"]
            shut = ["FORWARD", "-s", str(a.subnet), "-p", "tcp", "--dport", "2379", "-j", "DROP"]
            a.run("iptables", "-I", *shut)
            try:
                _status, findings = doctor(a)
                assert "1 containers here do not reach it" in findings["etcd-access"]["found"]
            finally:
                a.run("iptables", "-D", *shut)
        finally:
            container.kill()


def test_doctor_changes_nothing(lab: Lab) -> None:
    a, b = lab.hosts

    def everything() -> list[str]:
        commands = (
            "ip link",
            "ip -4 address",
            "ip -4 route show table all",
            "ip neighbour show nud permanent",
            # What belongs to no network namespace is shared by all programs of this machine, and may change.
            "sysctl -a --pattern ^net",
        )
        volatile = ("nf_conntrack_count", "random")
        said = [line for command in commands for line in a.run(*command.split()).splitlines()]
        rules = [line for line in a.run("iptables-save").splitlines() if not line.startswith(("#", ":"))]
        return [line for line in (*said, *rules) if not any(word in line for word in volatile)]

    eventually("both know each other", lambda: pings(a, b) and len(b.status()["peers"]) == 1)
    before = everything()
    doctor(a)
    assert [*difflib.unified_diff(before, everything(), n=0)] == []


BREAKS: dict[str, tuple[str, str]] = {
    # name of the finding: how to break it, and how to undo that without the remedy
    "ip-forward": ("sysctl -qw net.ipv4.ip_forward=0", "sysctl -qw net.ipv4.ip_forward=1"),
    "underlay-mtu": ("ip link set dev eth0 mtu 1400", "ip link set dev eth0 mtu 1500"),
    "backend-port": (
        "iptables -A INPUT -p udp --dport 8472 -j DROP",
        "iptables -F INPUT",
    ),
    "docker-raw": (
        "iptables -t raw -F PREROUTING; iptables -t raw -A PREROUTING -d {container} ! -i docker0 -j DROP",
        "iptables -t raw -F PREROUTING",
    ),
    "forward-in": (
        "iptables -F FORWARD; iptables -A FORWARD ! -i docker0 -o docker0 -j DROP",
        "iptables -F FORWARD",
    ),
    "forward-out": (
        "iptables -F FORWARD; iptables -A FORWARD -i docker0 -o overlay.1 -j REJECT",
        "iptables -F FORWARD",
    ),
}


@pytest.mark.parametrize("name", list(BREAKS))
def test_what_is_broken_is_found_and_its_remedy_mends_it(lab: Lab, name: str) -> None:
    a, b = lab.hosts
    breaking, undo = BREAKS[name]
    eventually("b reaches a", lambda: pings(b, a))
    with stopped(a):
        a.run("sh", "-c", breaking.format(container=a.container_address))
        try:
            if name != "underlay-mtu":
                assert not pings(b, a)
            status, findings = doctor(a, "--no-arp")
            # The check of reachability finds it too.
            assert set(problems(findings)) - {"reachability"} == {name, "daemon"}, problems(findings)
            assert status == 1
            run_remedy(a, findings[name])
            eventually("b reaches a again", lambda: pings(b, a))
            _status, mended = doctor(a, "--no-arp")
            assert mended[name]["state"] == "ok", mended[name]
        finally:
            a.run("sh", "-c", undo)


def test_a_forward_policy_of_drop_is_no_problem_behind_our_accept(lab: Lab) -> None:
    a, b = lab.hosts
    a.run("iptables", "-P", "FORWARD", "DROP")
    try:
        _status, findings = doctor(a, "--no-arp")
        assert problems(findings) == {}
        assert pings(b, a)
        with stopped(a):
            a.cleanup()
            _status, findings = doctor(a, "--no-arp")
            assert "policy DROP" in findings["forward-in"]["found"]
            assert "policy DROP" in findings["forward-out"]["found"]
    finally:
        a.run("iptables", "-P", "FORWARD", "ACCEPT")


def test_docker_28_without_our_rules_needs_both_accept_rules(lab: Lab) -> None:
    a, b = lab.hosts
    with stopped(a):
        a.run("iptables-restore", input=UNDO)
        (release,) = (found for found in docker_releases.RELEASES if found.name == "28.2")
        docker_releases.load(release, a.namespace, a.subnet, a.container_address, options={})
        try:
            assert not pings(b, a)
            _status, findings = doctor(a, "--no-arp")
            assert {"docker-raw", "forward-in"} <= set(problems(findings))
            assert "DOCKER-USER" in findings["forward-in"]["remedy"]
            for name in ("docker-raw", "forward-in", "forward-out"):
                if findings[name]["remedy"]:
                    run_remedy(a, findings[name])
            eventually("b reaches a", lambda: pings(b, a))
        finally:
            a.run("iptables-restore", input=UNDO)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        pytest.param("link set dev overlay.1 address 02:00:00:00:00:01", "02:00:00:00:00:01", marks=pytest.mark.slow),
        pytest.param("link set dev overlay.1 down", "is down", marks=pytest.mark.slow),
        ("link delete overlay.1", "not there"),
    ],
    ids=["address", "down", "deleted"],
)
def test_a_changed_overlay_device_is_mended_by_starting_the_daemon(lab: Lab, broken: str, words: str) -> None:
    a, b = lab.hosts
    with stopped(a):
        namespaces.ip(a.namespace, broken)
        assert not pings(b, a)
        _status, findings = doctor(a, "--no-arp")
        assert words in problems(findings)["overlay-device"]
        assert findings["overlay-device"]["remedy"] == "systemctl restart overlayd"
    eventually("b reaches a again", lambda: pings(b, a))
    eventually("a is well again", lambda: problems(doctor(a, "--no-arp")[1]) == {}, timeout_s=MENDED_S)


def test_doctor_finds_that_etcd_is_down(lab: Lab) -> None:
    a, _b = lab.hosts
    lab.stop_etcd()
    try:
        status, findings = doctor(a, "--no-arp")
        assert status == 1
        assert {"etcd-endpoints", "etcd"} <= set(problems(findings))
        # The daemon's status still says enough to judge the rest.
        assert findings["forward-in"]["state"] == findings["underlay-mtu"]["state"] == "ok"
    finally:
        lab.start_etcd()
    eventually("a is connected again", lambda: a.status()["etcd_connected"], timeout_s=60)


def test_doctor_finds_that_a_host_was_never_set_up(lab: Lab) -> None:
    fresh = lab.host("c", start=False)
    try:
        fresh.run("sysctl", "-qw", "net.ipv4.ip_forward=0")
        status, findings = doctor(fresh)
        assert status == 1
        assert set(problems(findings)) == {"daemon", "ip-forward", "lease", "overlay-device"}
        assert findings["network-config"]["state"] == "ok"
        assert findings["docker-bridge"]["state"] == "warning"
    finally:
        lab.remove_host(fresh)


def test_doctor_finds_another_host_with_the_same_address(lab: Lab) -> None:
    a, b = lab.hosts
    twin = lab.host("twin", start=False)
    try:
        twin.run("ip", "address", "add", f"{a.address}/24", "dev", "eth0")
        mac = twin.run("cat", "/sys/class/net/eth0/address").strip()
        status, findings = doctor(a)
        assert status == 1
        assert mac in findings["duplicate-address"]["found"]
    finally:
        lab.remove_host(twin)
        # Neighbours that learnt the second host's MAC still send to it.
        lab.run(["ip", "neighbour", "flush", "dev", "br0"])
        b.run("ip", "neighbour", "flush", "dev", "eth0")
    eventually("a is well again", lambda: doctor(a)[0] == 0, timeout_s=MENDED_S)


def test_doctor_finds_two_leases_with_one_address(lab: Lab) -> None:
    a, _b = lab.hosts
    key = "/coreos.com/network/subnets/10.5.7.0-24"
    value = json.dumps({"PublicIP": str(a.address), "BackendType": "vxlan"})
    etcdctl = ["env", "ETCDCTL_API=3", "etcdctl", "--endpoints=http://198.18.1.254:2379"]
    lab.run([*etcdctl, "put", key, value])
    try:
        _status, findings = doctor(a, "--no-arp")
        assert findings["duplicate-lease"]["state"] == "problem"
        assert "10.5.7.0/24" in findings["duplicate-lease"]["found"]
    finally:
        lab.run([*etcdctl, "del", key])


def test_doctor_finds_docker_on_another_subnet_and_a_container_mtu_that_is_too_large(lab: Lab) -> None:
    a, _b = lab.hosts
    own = f"{a.subnet[1]}/24"
    namespaces.ip(a.namespace, f"address del {own} dev docker0", "address add 172.17.0.1/16 dev docker0")
    a.run("ip", "link", "set", "vethc", "mtu", "9000")
    try:
        _status, findings = doctor(a, "--no-arp")
        assert problems(findings).keys() == {"docker-bridge"}
        assert "172.17.0.1/16" in findings["docker-bridge"]["found"]
        assert findings["docker-bridge"]["remedy"] == "overlayd docker settle"
        assert "vethc" in findings["container-mtu"]["found"]
    finally:
        namespaces.ip(a.namespace, "address del 172.17.0.1/16 dev docker0", f"address add {own} dev docker0")
        a.run("ip", "link", "set", "vethc", "mtu", str(a.mtu_bytes))


def test_doctor_finds_a_strict_reverse_path_filter_with_an_asymmetric_route(lab: Lab) -> None:
    a, b = lab.hosts
    namespaces.ip(
        a.namespace,
        "link add astray type bridge",
        "link set astray up",
        f"route add {b.address}/32 dev astray",
    )
    try:
        a.run("sysctl", "-qw", "net/ipv4/conf/eth0/rp_filter=1")
        _status, findings = doctor(a, "--no-arp")
        assert "astray" in problems(findings)["rp-filter"]
        run_remedy(a, findings["rp-filter"])
        assert doctor(a, "--no-arp")[1]["rp-filter"]["state"] == "ok"
    finally:
        a.run("ip", "link", "delete", "astray")
        a.run("sysctl", "-qw", "net/ipv4/conf/eth0/rp_filter=0")


def test_without_root_it_says_what_it_could_not_see(lab: Lab) -> None:
    a, _b = lab.hosts
    argv = a.overlayd("doctor")
    user = [*argv[:4], "setpriv", "--reuid=65534", "--clear-groups", *argv[4:], "--json"]
    done = subprocess.run(user, capture_output=True, text=True, env=environment(), timeout=60, check=False)
    findings = {finding["name"]: finding["state"] for finding in json.loads(done.stdout)["findings"]}
    assert done.returncode == 0, done.stdout
    # The run directory is inside pytest's folder, which only root can read.
    assert findings["daemon"] == findings["root"] == findings["iptables"] == findings["duplicate-address"] == "unknown"
    assert findings["etcd"] == findings["underlay-mtu"] == findings["docker-bridge"] == "ok"
