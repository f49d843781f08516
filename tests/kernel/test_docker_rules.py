"""The rules with which stock Docker closes the way to containers, replayed; real daemons keep it open."""

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
    """Docker 29's rules on both hosts, as if it was started after the overlay daemon."""
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
    # Appended behind our jump, as anyone would: it is put before it at the next look.
    b.run("iptables", "-A", "DOCKER-USER", "-s", str(a.container_address), "-j", "DROP")
    eventually("a is dropped by b", lambda: not pings(a, b))
    b.run("iptables", "-D", "DOCKER-USER", "-s", str(a.container_address), "-j", "DROP")
    eventually("a reaches b again", lambda: pings(a, b))


def test_what_leaves_the_network_is_masqueraded_and_what_stays_is_not(lab: Lab, a: Host, b: Host) -> None:
    # The switch has no route back to any container: only a masqueraded packet can be answered.
    eventually("a reaches the switch", lambda: reaches(a, SWITCH_ADDRESS))
