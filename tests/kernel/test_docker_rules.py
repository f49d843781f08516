"""With the replayed rules by which stock Docker blocks packets to containers, real daemons let peers' packets pass."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.testbed.netns.docker_releases import RELEASES, load
from tests.testbed.netns.lab import SWITCH_ADDRESS, Host, Lab
from tests.testbed.netns.traffic import pings, reaches, send_over_tcp
from tests.testbed.polling import eventually

UNDO = """\
*filter
:FORWARD ACCEPT [0:0]
-F
-X
COMMIT
*raw
-F
-X
COMMIT
*nat
-F
-X
COMMIT
"""


@pytest.fixture
def docker29(a: Host, b: Host) -> Iterator[None]:
    """Docker 29's rules on both hosts, as if dockerd had started after overlayd."""
    release = next(release for release in RELEASES if release.name == "29")
    for host in (a, b):
        load(release, host.namespace, host.subnet, host.container_address, options={})
    yield
    for host in (a, b):
        host.run("iptables-restore", input=UNDO)
    eventually("a reaches b again", lambda: pings(a, b))


def test_containers_reach_each_other_through_dockers_drops(a: Host, b: Host, docker29: None) -> None:
    eventually("a reaches b", lambda: pings(a, b))
    eventually("b reaches a", lambda: pings(b, a))
    assert send_over_tcp(a, b, b"x" * 100_000).peer == a.container_address


def test_others_still_do_not_get_in(lab: Lab, a: Host, b: Host, docker29: None) -> None:
    eventually("a reaches b", lambda: pings(a, b))
    lab.run(["ip", "route", "replace", str(b.subnet), "via", str(b.address)])
    try:
        said = lab.run(["sh", "-c", f"ping -n -c 1 -W 1 {b.container_address} || true"])
        assert "0 received" in said
    finally:
        lab.run(["ip", "route", "delete", str(b.subnet)])


def test_an_administrators_drop_in_docker_user_wins(a: Host, b: Host, docker29: None) -> None:
    eventually("a reaches b", lambda: pings(a, b))
    # Appended after our jump, as administrators do; at its next look the daemon moves its jump behind it.
    b.run("iptables", "-A", "DOCKER-USER", "-s", str(a.container_address), "-j", "DROP")
    eventually("a is dropped by b", lambda: not pings(a, b))
    b.run("iptables", "-D", "DOCKER-USER", "-s", str(a.container_address), "-j", "DROP")
    eventually("a reaches b again", lambda: pings(a, b))


def test_what_leaves_the_network_is_masqueraded_and_what_stays_is_not(lab: Lab, a: Host, b: Host) -> None:
    # The switch has no route to containers, so it can answer only masqueraded packets.
    eventually("a reaches the switch", lambda: reaches(a, SWITCH_ADDRESS))
