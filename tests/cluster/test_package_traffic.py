"""Packets of containers while the package on their host is installed, upgraded and erased."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from tests.testbed.cluster.flow import Flow, flowing
from tests.testbed.cluster.machine import PROBE, Machine
from tests.testbed.cluster.measure import ping
from tests.testbed.cluster.packaged import NEWER_RPM, RPM, SYSCONFIG, YUM, Packages, installed_releases, ours
from tests.testbed.cluster.site import ClusterSite
from tests.testbed.polling import eventually
from tests.testbed.records import Recorder

WAIT_S = 60.0
# The backends whose packets the kernel carries, not a process of ours.
KERNEL_PATHS = ("vxlan", "host-gw")


@dataclass(frozen=True)
class Held:
    """What an upgrade must not change."""

    subnet: str
    lease: dict[str, int]
    docker: str
    container: str
    settings: str


def held(site: ClusterSite, host: Machine) -> Held:
    """The host's subnet, its key's revision in etcd, the processes of docker and the container, and the settings."""
    subnet = str(host.bip().network)
    key = f"{site.cluster.prefix}/subnets/{subnet.replace('/', '-')}"
    (record,) = json.loads(site.etcdctl("get", key, "--write-out=json"))["kvs"]
    return Held(
        subnet=subnet,
        # If the key had been away for a moment, this would be another revision.
        lease={"created": int(record["create_revision"]), "etcd-lease": int(record["lease"])},
        docker=host.run("sh", "-c", "systemctl show docker --property=MainPID"),
        container=host.run(
            "sh", "-c", f"docker inspect --format='{{{{.State.Pid}}}} {{{{.State.StartedAt}}}}' {PROBE}"
        ),
        settings=host.run("sh", "-c", f"cat {SYSCONFIG} && stat --format='%a %U %G' {SYSCONFIG}"),
    )


@pytest.fixture
def changing(backend: str, a: Machine, packages: Packages) -> Iterator[Machine]:
    """Host a with both packages available and edited settings; at the end it has its first package again."""
    packages.give(a)
    a.shell(f"grep -q '^# edited' {SYSCONFIG} || echo '# edited by hand' >>{SYSCONFIG}")
    yield a
    if installed_releases(a) != [packages.release]:
        a.run("rpm", "--upgrade", "--oldpackage", "--replacepkgs", RPM)
    a.run("systemctl", "enable", "--now", "overlayd")


@contextmanager
def restarted(host: Machine) -> Iterator[None]:
    """Assert that the block restarts the daemon, and wait until it is ready."""
    before = host.run("sh", "-c", "systemctl show overlayd --property=MainPID --value").strip()
    yield

    def another() -> bool:
        found = host.unit("overlayd", "MainPID", "ActiveState")
        return found.get("MainPID", "0") not in ("0", before) and found.get("ActiveState") == "active"

    eventually("the daemon is another one, and ready", another, timeout_s=WAIT_S)


@pytest.mark.parametrize("backend", KERNEL_PATHS, indirect=True)
def test_upgrade_downgrade_and_reinstall_lose_no_packet(
    site: ClusterSite, changing: Machine, b: Machine, packages: Packages, record_property: Recorder
) -> None:
    before = held(site, changing)
    with flowing(changing, b) as flow:
        for verb, rpm, release in (
            ("install", NEWER_RPM, packages.newer_release),
            ("downgrade", RPM, packages.release),
            ("reinstall", RPM, packages.release),
        ):
            with restarted(changing):
                changing.run(*YUM, verb, rpm)
            assert installed_releases(changing) == [release]
            assert held(site, changing) == before
    assert_verified(changing)
    assert not changing.shell(f"ls {SYSCONFIG}.rpm* 2>/dev/null || true")
    flow.fault("package upgraded, downgraded and reinstalled", site.cluster.backend_type).record(record_property)
    record_property("tcp_retransmits", flow.tcp_retransmits)
    assert_whole(flow)
    assert ping(changing.in_probe, b.probe_address()).lost == 0


def assert_whole(flow: Flow) -> None:
    """Assert that no packet is missing, and that the TCP connection carried data in every second."""
    assert min(one.sent for one in flow.pings.values()) > 100
    assert flow.lost == 0, flow
    assert all(flow.tcp_bytes), flow


def assert_verified(host: Machine) -> None:
    """Assert that all files except the settings are as they were packed."""
    assert host.run("sh", "-c", "rpm --verify overlayd || true").split() == ["S.5....T.", "c", SYSCONFIG]


KILLED_WHEN = {
    "while it unpacks": "find /usr/lib/overlayd -name '*;*' | grep -q .",
    "when both are in its database": "test $(rpm --query overlayd | wc -l) = 2",
}


@pytest.mark.parametrize("backend", ["vxlan"], indirect=True)
@pytest.mark.parametrize("when", list(KILLED_WHEN))
def test_an_upgrade_that_was_killed_can_be_repeated(
    site: ClusterSite, changing: Machine, b: Machine, packages: Packages, when: str
) -> None:
    before = held(site, changing)
    with flowing(changing, b) as flow:
        moment = f"until {KILLED_WHEN[when]}; do kill -0 $rpm && sleep 0.01 || exit 9; done"
        changing.shell(f"rpm --upgrade {NEWER_RPM} >/dev/null 2>&1 & rpm=$!; {moment}; kill -KILL $rpm")
        # rpm names temporary files after the second in which its transaction began; another transaction in the same
        # second would find these files.
        second = changing.run("sh", "-c", "date +%s")
        eventually("the second is over", lambda: changing.run("sh", "-c", "date +%s") > second)
        assert packages.release in installed_releases(changing)
        # The old daemon may still run, or systemd may start the new one; the kernel carries the packets either way.
        both = packages.newer_release in installed_releases(changing)
        changing.run(*YUM, "reinstall" if both else "install", NEWER_RPM)
        eventually(
            "ready", lambda: changing.unit("overlayd", "ActiveState")["ActiveState"] == "active", timeout_s=WAIT_S
        )
    assert installed_releases(changing) == [packages.newer_release]
    assert_verified(changing)
    assert not changing.shell("find /usr/lib/overlayd -name '*;*'")
    assert held(site, changing) == before
    assert_whole(flow)


@pytest.mark.parametrize("backend", ["vxlan"], indirect=True)
def test_containers_run_on_while_the_package_is_erased_and_installed_again(
    site: ClusterSite, changing: Machine, a: Machine, b: Machine
) -> None:
    before = held(site, a)
    gateway, target = a.bip().ip, b.probe_address()
    with flowing(a, b) as flow:
        a.run(*YUM, "remove", "overlayd")
        assert ours(a) == {}
        assert not b_reaches_a(a, b)
        # docker and its containers run on; only peers are not reached.
        assert ping(a.in_probe, gateway).lost == 0
        assert a.run("systemctl", "is-active", "docker").strip() == "active"
        assert a.shell("ls -A /run/overlayd /var/lib/overlayd 2>/dev/null || true") == ""
        assert before.settings.startswith(a.run("sh", "-c", f"cat {SYSCONFIG}.rpmsave"))

        a.run(*YUM, "install", RPM)
        a.run("mv", f"{SYSCONFIG}.rpmsave", SYSCONFIG)
        a.run("systemctl", "enable", "--now", "overlayd")
        eventually("b is reached again", lambda: ping(a.in_probe, target).lost == 0, timeout_s=WAIT_S)
    assert flow.lost > 0
    after = held(site, a)
    assert (after.subnet, after.docker, after.container, after.settings) == (
        before.subnet,
        before.docker,
        before.container,
        before.settings,
    )


def b_reaches_a(a: Machine, b: Machine) -> bool:
    """Whether a's container answers any of a few pings from b's."""
    return ping(b.in_probe, a.probe_address(), count=2).received > 0
