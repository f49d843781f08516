"""The RPM on a booted host that has docker and never had overlayd: yum install, enable, upgrade, remove.

The tests run in file order, and each leaves the host as the next one expects it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from ipaddress import IPv4Interface

import pytest

from overlayd.errors import CommandFailed
from tests.testbed.cluster.machine import Machine
from tests.testbed.cluster.packaged import NEWER_RPM, PEER_SUBNET, RPM, SYSCONFIG, YUM, Packages, bare_host, ours
from tests.testbed.cluster.site import ClusterSite
from tests.testbed.polling import eventually

WAIT_S = 60.0
# The ends of ExecStart of docker-ce, of Debian's docker.io and of CentOS 7's docker.
EXEC_STARTS = {"docker-ce": "", "docker.io": "$DOCKER_OPTS", "centos-7": "$DOCKER_NETWORK_OPTIONS"}


@pytest.fixture(scope="module")
def _site(base: str, packages: Packages) -> Iterator[ClusterSite]:
    with bare_host(base, packages) as site:
        yield site


@pytest.fixture
def site(_site: ClusterSite) -> ClusterSite:
    """A host with a name by which conftest collects its journals when a test fails."""
    return _site


@pytest.fixture
def host(site: ClusterSite) -> Machine:
    return site.hosts[0]


def dockerd(host: Machine) -> list[str]:
    """The command line of the running dockerd."""
    pid = host.unit("docker", "MainPID")["MainPID"]
    return host.run("cat", f"/proc/{pid}/cmdline").rstrip("\0").split("\0")


def main_pid(host: Machine, unit: str) -> str:
    return host.unit(unit, "MainPID")["MainPID"]


def is_active(host: Machine, unit: str) -> bool:
    return host.unit(unit, "ActiveState")["ActiveState"] == "active"


def bridge_addresses(host: Machine) -> list[IPv4Interface]:
    lines = host.run("ip", "-4", "-oneline", "address", "show", "dev", "docker0").splitlines()
    return [IPv4Interface(line.split()[3]) for line in lines]


def on_its_subnet(host: Machine) -> bool:
    """Whether docker runs on the leased subnet, with --bip on its command line."""
    try:
        variables, words = host.variables(), dockerd(host)
    except CommandFailed:
        return False
    told = {f"--bip={variables['FLANNEL_SUBNET']}", f"--mtu={variables['FLANNEL_MTU']}"}
    return told <= set(words) and host.bip() in bridge_addresses(host)


def test_installing_it_starts_enables_and_changes_nothing(host: Machine) -> None:
    before = main_pid(host, "docker"), dockerd(host), bridge_addresses(host)
    host.run(*YUM, "install", RPM)
    assert host.unit("overlayd", "UnitFileState", "ActiveState") == {
        "UnitFileState": "disabled",
        "ActiveState": "inactive",
    }
    assert (main_pid(host, "docker"), dockerd(host), bridge_addresses(host)) == before
    host.run("systemctl", "restart", "docker")
    assert dockerd(host) == before[1]
    assert host.run("overlayd", "--version").startswith("overlayd ")
    assert host.run("rpm", "--verify", "overlayd") == ""


def test_without_an_etcd_the_daemon_waits_and_docker_runs_on(host: Machine) -> None:
    before = main_pid(host, "docker")
    host.shell(f"echo OVERLAYD_ETCD_ENDPOINTS=http://{host.address}:1 >>{SYSCONFIG}")
    host.run("systemctl", "enable", "--now", "--no-block", "overlayd")
    eventually(
        "the daemon says what it waits for",
        lambda: host.unit("overlayd", "StatusText")["StatusText"].startswith("waiting: "),
        timeout_s=WAIT_S,
    )
    assert host.unit("overlayd", "ActiveState")["ActiveState"] == "activating"
    assert main_pid(host, "docker") == before
    host.run("systemctl", "disable", "--now", "overlayd")


def test_the_enabled_daemon_brings_docker_up_on_the_leased_subnet(site: ClusterSite, host: Machine) -> None:
    host.shell(f"sed -i '/ETCD_ENDPOINTS=.*:1$/d' {SYSCONFIG}")
    host.shell(f"echo OVERLAYD_ETCD_ENDPOINTS={site.cluster.etcd_endpoint} >>{SYSCONFIG}")
    host.run("systemctl", "enable", "--now", "overlayd")
    eventually("docker is on its subnet", lambda: on_its_subnet(host), timeout_s=WAIT_S)
    stamps = [int(host.unit(unit, name)[name]) for unit, name in (
        ("overlayd", "ActiveEnterTimestampMonotonic"),
        ("docker", "ExecMainStartTimestampMonotonic"),
    )]  # fmt: skip
    assert stamps == sorted(stamps)
    assert bridge_addresses(host) == [host.bip()]
    # With dockerd before 25 the bridge takes its MTU from its containers, so the test looks at those.
    assert host.variables()["FLANNEL_MTU"] == "1450"
    eventually("the route to the peer", lambda: str(PEER_SUBNET) in ours(host).get("routes", ""), timeout_s=WAIT_S)


def test_children_get_the_users_libraries_not_those_of_the_package(host: Machine) -> None:
    # A wrapper before the real program in systemd's PATH; it records its environment, then executes the real one.
    wrapper = "/usr/local/sbin/iptables-save"
    script = "#!/bin/sh\\nenv >/run/child-environment\\nexec /usr/sbin/iptables-save\\n"
    host.shell(f"printf '{script}' >{wrapper} && chmod 755 {wrapper}")
    try:
        host.run("systemctl", "restart", "overlayd")
        found = eventually(
            "a child of the daemon told its environment",
            lambda: host.shell("cat /run/child-environment 2>/dev/null || true"),
            timeout_s=WAIT_S,
        )
    finally:
        host.run("rm", "-f", wrapper, "/run/child-environment")
    assert "LC_ALL=C" in found.split()
    assert "LD_LIBRARY_PATH" not in found


def test_restarting_the_daemon_leaves_docker_and_the_data_path_alone(host: Machine) -> None:
    everything = {"links", "routes", "rules"}
    eventually("the data path stands", lambda: set(ours(host)) == everything, timeout_s=WAIT_S)
    before, daemon, kernel = main_pid(host, "docker"), main_pid(host, "overlayd"), ours(host)
    host.run("systemctl", "stop", "overlayd")
    assert not is_active(host, "overlayd")
    eventually("stopped, all is as it was", lambda: ours(host) == kernel, timeout_s=WAIT_S)
    host.run("systemctl", "start", "overlayd")
    assert main_pid(host, "overlayd") != daemon
    assert main_pid(host, "docker") == before
    eventually("started, all is as it was", lambda: ours(host) == kernel, timeout_s=WAIT_S)


def test_a_killed_daemon_comes_back_and_docker_runs_on(host: Machine) -> None:
    before, daemon = main_pid(host, "docker"), main_pid(host, "overlayd")
    host.run("systemctl", "kill", "--signal=KILL", "overlayd")
    eventually(
        "it runs again",
        lambda: main_pid(host, "overlayd") not in ("0", daemon) and is_active(host, "overlayd"),
        timeout_s=WAIT_S,
    )
    assert main_pid(host, "docker") == before


def test_the_unit_is_confined_on_a_running_systemd_too(host: Machine) -> None:
    said = host.run("systemd-analyze", "security", "--no-pager", "overlayd.service").splitlines()
    (line,) = (line for line in said if "Overall exposure level" in line)
    assert float(line.partition("overlayd.service:")[2].split()[0]) <= 4.0
    assert host.run("stat", "--format=%a", "/var/lib/overlayd").strip() == "700"


def test_everybody_may_read_the_status_and_the_pages(host: Machine) -> None:
    assert "is ready" in host.run("setpriv", "--reuid=65534", "--clear-groups", "overlayd", "status")
    listed = host.run("rpm", "--query", "--list", "overlayd").split()
    for name in ("man8/overlayd.8.gz", "man5/overlayd.conf.5.gz", "completions/overlayd", "network/05-overlayd.link"):
        assert any(path.endswith(name) for path in listed), name


def test_all_rules_are_in_order_after_a_restart_of_docker_and_after_a_flush(host: Machine) -> None:
    eventually("the data path stands", lambda: len(ours(host)) == 3, timeout_s=WAIT_S)
    before, rules = main_pid(host, "docker"), ours(host)["rules"]
    host.run("systemctl", "restart", "docker")
    assert main_pid(host, "docker") != before
    assert on_its_subnet(host)
    eventually("all rules are there, in their order", lambda: ours(host)["rules"] == rules, timeout_s=WAIT_S)
    host.shell("iptables --flush && iptables --table raw --flush && iptables --table nat --flush")
    eventually("flushed, they come back", lambda: ours(host)["rules"] == rules, timeout_s=WAIT_S)


def test_a_docker_off_its_lease_is_mended_on_request(host: Machine) -> None:
    before, bip = main_pid(host, "docker"), host.bip()
    host.shell(f"ip address add 172.30.0.1/16 dev docker0 && ip address delete {bip} dev docker0")
    said = host.run("overlayd", "docker", "settle")
    assert "172.30.0.1/16" in said
    assert main_pid(host, "docker") != before
    eventually("docker is on its subnet", lambda: on_its_subnet(host), timeout_s=WAIT_S)
    assert host.run("overlayd", "docker", "settle").startswith("nothing to do")


def test_doctor_finds_no_problem_on_a_healthy_host(host: Machine) -> None:
    found = json.loads(host.shell("overlayd doctor --json || true"))
    problems = [entry for entry in found["findings"] if entry["state"] == "problem"]
    # The only peer is a lease without a host.
    assert not problems, problems


# How to break it, and the check that finds it and names the remedy; tests/kernel runs the other remedies.
BREAKS = {
    "daemon stopped": ("systemctl stop overlayd", "daemon"),
    "daemon disabled": ("systemctl disable --now overlayd", "daemon"),
    "generator off": ("systemctl disable overlayd && systemctl daemon-reload", "docker-drop-in"),
    "docker stopped": ("systemctl stop docker.socket docker 2>/dev/null || systemctl stop docker", "docker-service"),
    "docker0 elsewhere": (
        "bip=$(ip -4 -o addr show docker0 | awk '{print $4}') && ip address add 172.30.0.1/16 dev docker0 && "
        "ip address delete $bip dev docker0",
        "docker-bridge",
    ),
    "device gone, daemon stopped": ("systemctl stop overlayd && ip link delete overlay.1", "overlay-device"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_remedy_mends_under_a_real_systemd(host: Machine, name: str) -> None:
    broken, check = BREAKS[name]

    def problems() -> dict[str, str | None]:
        found = json.loads(host.shell("overlayd doctor --json || true"))
        return {one["name"]: one["remedy"] for one in found["findings"] if one["state"] == "problem"}

    eventually("all is well before", lambda: not problems(), timeout_s=WAIT_S)
    try:
        host.shell(broken)
        remedy = problems()[check]
        assert remedy is not None
        # Run as printed, word for word.
        host.shell(remedy)
        eventually("all is well again", lambda: not problems(), timeout_s=WAIT_S)
        assert on_its_subnet(host), (dockerd(host), bridge_addresses(host))
    finally:
        host.shell("systemctl enable overlayd; systemctl daemon-reload; systemctl start overlayd docker")


@pytest.mark.parametrize("kind", EXEC_STARTS)
def test_docker_gets_its_options_whichever_exec_start_it_has(host: Machine, kind: str) -> None:
    unit = "/etc/systemd/system/docker.service"
    host.shell(
        "sed 's|^ExecStart=.*|ExecStart=/usr/sbin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock "
        f"{EXEC_STARTS[kind]}|' /usr/lib/systemd/system/docker.service >{unit}"
    )
    try:
        host.run("systemctl", "daemon-reload")
        host.run("systemctl", "restart", "docker")
        assert on_its_subnet(host), dockerd(host)
        assert "fd://" in dockerd(host)
    finally:
        host.run("rm", unit)
        host.run("systemctl", "daemon-reload")


def test_docker_waits_for_a_subnet_and_starts_when_there_is_one(host: Machine) -> None:
    host.run("systemctl", "stop", "docker.socket", "docker", "overlayd")
    host.run("rm", "/run/overlayd/docker.env")
    host.shell("systemctl mask --runtime overlayd && ! systemctl start docker")
    said = host.run("journalctl", "--unit=docker", "--no-pager", "--output=cat")
    assert "overlayd has no subnet for this host yet" in said
    host.shell("systemctl unmask --runtime overlayd && systemctl start overlayd")
    eventually("docker follows", lambda: on_its_subnet(host), timeout_s=WAIT_S)


def test_generator_is_quick(host: Machine) -> None:
    # It runs at every daemon-reload. The limit is generous, as this machine does other work too.
    program = "/usr/lib/systemd/system-generators/overlayd-docker-generator"
    took = []
    for _ in range(3):
        began = time.monotonic()
        host.run(program, "/tmp", "/tmp", "/tmp")
        took.append(time.monotonic() - began)
    host.run("rm", "-r", "/tmp/docker.service.d")
    assert min(took) < 1.0


def test_upgrade_keeps_the_settings_and_restarts_only_what_runs(host: Machine) -> None:
    mine, docker, daemon = host.run("cat", SYSCONFIG), main_pid(host, "docker"), main_pid(host, "overlayd")
    host.run(*YUM, "install", NEWER_RPM)
    eventually(
        "the newer daemon is ready",
        lambda: main_pid(host, "overlayd") not in ("0", daemon) and is_active(host, "overlayd"),
        timeout_s=WAIT_S,
    )
    assert host.run("cat", SYSCONFIG) == mine
    assert host.unit("overlayd", "UnitFileState")["UnitFileState"] == "enabled"
    assert main_pid(host, "docker") == docker
    assert on_its_subnet(host)

    host.run("systemctl", "stop", "overlayd")
    host.run(*YUM, "downgrade", RPM)
    assert not is_active(host, "overlayd")
    assert host.run("cat", SYSCONFIG) == mine
    assert main_pid(host, "docker") == docker
    host.run("systemctl", "start", "overlayd")


def test_removing_it_leaves_nothing_behind_and_docker_starts_with_its_defaults(host: Machine) -> None:
    docker = main_pid(host, "docker")
    host.run(*YUM, "remove", "overlayd")
    assert main_pid(host, "docker") == docker
    assert ours(host) == {}
    left = host.shell(
        "find / -xdev \\( -path /proc -o -path /sys -o -path /root \\) -prune -o -name '*overlayd*' -print"
    )
    # rpm keeps files that an administrator changed.
    assert left.split() == [f"{SYSCONFIG}.rpmsave"]
    assert host.shell("find /run -path '*docker.service.d*' -o -name '*overlayd*'") == ""

    host.run("systemctl", "restart", "docker")
    assert not [word for word in dockerd(host) if word.startswith(("--bip", "--mtu", "--ip-masq"))]
    # Docker remembers its bridge's address; for another one, --bip is needed.
    host.shell("""echo '{"bip": "172.17.0.1/16"}' >/etc/docker/daemon.json && systemctl restart docker""")
    assert bridge_addresses(host) == [IPv4Interface("172.17.0.1/16")]
    assert host.run("systemctl", "--failed", "--no-legend", "--plain") == ""
