"""The daemon repairs what somebody else breaks."""

from __future__ import annotations

import pytest

from tests.kernel.test_lifecycle import entries_for, ours
from tests.testbed.netns.lab import Host
from tests.testbed.netns.traffic import pings
from tests.testbed.polling import eventually

DEVICE = {"vxlan": "overlay.1", "udp": "overlay0", "wireguard": "overlay-wg"}
# host-gw has no device, and only vxlan has neighbours and MACs: the other cases are not collected.
WITH_DEVICE = pytest.mark.parametrize("backend", list(DEVICE), indirect=True)
VXLAN = pytest.mark.parametrize("backend", ["vxlan"], indirect=True)


def test_peers_are_reached_again_after_the_underlay_interface_flapped(a: Host, b: Host) -> None:
    before = entries_for(a, b)
    a.run("ip", "link", "set", "eth0", "down")
    assert not pings(a, b)
    a.run("ip", "link", "set", "eth0", "up")
    eventually("a reaches b again", lambda: pings(a, b))
    assert entries_for(a, b) == before


def test_a_deleted_route_is_restored(a: Host, b: Host) -> None:
    before = a.run("ip", "route", "show", "proto", "157")
    a.run("ip", "route", "flush", "proto", "157")
    eventually("the route is back", lambda: a.run("ip", "route", "show", "proto", "157") == before)
    assert pings(a, b)


@WITH_DEVICE
def test_an_overlay_device_that_was_taken_down_is_up_again(a: Host, b: Host, backend: str) -> None:
    before = entries_for(a, b)
    a.run("ip", "link", "set", DEVICE[backend], "down")
    eventually("a reaches b again", lambda: pings(a, b))
    assert entries_for(a, b) == before


@WITH_DEVICE
def test_a_deleted_overlay_device_is_made_again(a: Host, b: Host, backend: str) -> None:
    before = entries_for(a, b)
    a.run("ip", "link", "delete", DEVICE[backend])
    eventually("a reaches b again", lambda: pings(a, b))
    assert entries_for(a, b) == before


@VXLAN
def test_a_changed_mac_of_the_overlay_device_is_restored(a: Host, b: Host, backend: str) -> None:
    # systemd-udevd's MACAddressPolicy does this.
    a.run("ip", "link", "set", "overlay.1", "address", "02:00:00:00:00:01")
    eventually("a reaches b again", lambda: pings(b, a) and pings(a, b))


@VXLAN
def test_flushed_neighbours_and_forwarding_entries_are_restored(a: Host, b: Host, backend: str) -> None:
    before = entries_for(a, b)
    for line in before:
        if "lladdr" in line:
            a.run("ip", "neighbour", "delete", str(b.subnet.network_address), "dev", "overlay.1")
        elif "dst" in line and "self" in line:
            a.run("bridge", "fdb", "delete", line.split()[0], "dev", "overlay.1")
    eventually("all is back", lambda: entries_for(a, b) == before)


def test_flushed_firewall_rules_are_restored(a: Host, b: Host) -> None:
    before = ours(a)
    for table in ("filter", "nat", "raw"):
        # At once: the daemon writes its rules again within milliseconds, and a chain of theirs cannot be deleted then.
        a.run("sh", "-c", f"printf '*{table}\\nCOMMIT\\n' | iptables-restore")
    eventually("the rules are back", lambda: ours(a) == before)
    assert pings(a, b)


def test_forwarding_that_was_turned_off_is_on_again(a: Host, b: Host) -> None:
    a.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=0")
    eventually("a forwards again", lambda: pings(b, a))
