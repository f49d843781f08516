"""What is wanted, and what dockerd has to be told for it."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

import pytest

from overlayd.firewall.rules import (
    DOCKER_MARK,
    Mark,
    Overlay,
    container_bridge,
    desired,
    docker_mark,
    docker_options_needed,
)

V4 = Overlay(network=IPv4Network("10.5.0.0/16"), subnet=IPv4Network("10.5.52.0/24"))
V6 = Overlay(network=IPv6Network("fd00:5::/48"), subnet=IPv6Network("fd00:5:0:52::/64"))
NFTABLES = {"firewall-backend": "nftables"}


def test_two_networks_of_one_ip_version_are_refused() -> None:
    mixed = Overlay(network=V4.network, subnet=V6.subnet)
    for overlays in ([V4, V4], [mixed]):
        with pytest.raises(ValueError, match="one network of each IP version"):
            desired(overlays=overlays, devices=(), masquerade=True)


def test_docker_on_iptables_needs_no_option_and_gets_no_mark() -> None:
    for told in ({}, {"firewall-backend": "iptables"}):
        assert docker_options_needed(told) == {}
        wanted = desired(overlays=[V4], devices=(), masquerade=True, daemon_json=told)
        assert (wanted.mark, wanted.direct_routing) == (None, False)


def test_docker_on_nftables_needs_both_options_and_opens_nothing_to_strangers() -> None:
    assert docker_options_needed(NFTABLES) == {
        "allow-direct-routing": "true",
        "bridge-accept-fwmark": "0x1000/0x1000",
    }
    wanted = desired(overlays=[V4, V6], devices=(), masquerade=True, daemon_json=NFTABLES)
    assert (wanted.mark, wanted.direct_routing) == (DOCKER_MARK, False)


def test_an_administrators_mark_is_used_and_whoever_opens_direct_routing_has_it() -> None:
    told = {**NFTABLES, "bridge-accept-fwmark": "0x1/0x3", "allow-direct-routing": True}
    assert docker_options_needed(told)["bridge-accept-fwmark"] == "0x1/0x3"
    wanted = desired(overlays=[V4], devices=(), masquerade=True, daemon_json=told)
    assert (wanted.mark, wanted.direct_routing) == (Mark(value=1, mask=3), True)


@pytest.mark.parametrize(
    ("told", "mark"),
    [
        ("1", Mark(value=1, mask=0xFFFFFFFF)),
        (7, Mark(value=7, mask=0xFFFFFFFF)),
        ("010/0b11", Mark(value=8, mask=3)),
        ("0x1/0x1ffffffff", DOCKER_MARK),
        ("-1", DOCKER_MARK),
        ("nonsense", DOCKER_MARK),
        ("089", DOCKER_MARK),
    ],
)
def test_marks_are_read_as_dockerd_reads_them(told: object, mark: Mark) -> None:
    assert docker_mark({"bridge-accept-fwmark": told}) == mark


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ({}, "docker0"),
        ({"bridge": "br0"}, "br0"),
        ({"bridge": "my-lan"}, "my-lan"),
        ({"bridge": "none"}, "docker0"),
        ({"bridge": ""}, "docker0"),
        ({"bridge": ["br0"]}, "docker0"),
        ({"bridge": "a name of more than 15"}, "docker0"),
        ({"bridge": "x -j ACCEPT"}, "docker0"),
        ({"bridge": 'x" accept'}, "docker0"),
    ],
)
def test_the_bridge_of_containers_is_what_daemon_json_names_if_it_is_a_name(told: dict[str, object], name: str) -> None:
    assert container_bridge(told) == name
    assert desired(overlays=[V4], devices=(), masquerade=True, daemon_json=told).bridge == name


def test_devices_of_ours_carry_nothing_else_and_others_do() -> None:
    wanted = desired(overlays=[V4], devices=("overlay.1", "overlay-wg", "eth0"), masquerade=True)
    assert (wanted.tunnels, wanted.underlays) == (("overlay.1", "overlay-wg"), ("eth0",))
