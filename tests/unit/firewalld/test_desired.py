"""Subnets, ports and peers in, firewalld's rules out; and the files that the RPM puts into its folder for them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

import pytest

from overlayd.backends.listening import Listening
from overlayd.firewall.rules import Overlay
from overlayd.firewalld.desired import Runtime, desired, forward_policy, input_policy, nothing, peers_ipset
from overlayd.lib.addresses import IPAddress

V4 = Overlay(network=IPv4Network("10.5.0.0/16"), subnet=IPv4Network("10.5.52.0/24"))
V6 = Overlay(network=IPv6Network("fd42::/48"), subnet=IPv6Network("fd42:0:0:52::/64"))
FORWARD, INPUT, NOTHING = forward_policy(), input_policy(), nothing()
IPSETS = {version: peers_ipset(version) for version in (4, 6)}
SHIPPED = Path(__file__).parents[3] / "rpm/firewalld"


def made(*listens: Listening, overlays: tuple[Overlay, ...] = (V4,)) -> Runtime:
    peers: list[IPAddress] = [IPv4Address("198.18.1.2"), IPv4Address("198.18.1.3"), IPv6Address("2001:db8::2")]
    return desired(overlays=overlays, listens=listens, peers=peers)


def test_forwarded_packets_pass_between_the_network_and_this_hosts_subnet_only() -> None:
    assert made(overlays=(V4, V6)).policies[FORWARD] == {
        'rule family="ipv4" source address="10.5.0.0/16" destination address="10.5.52.0/24" accept',
        'rule family="ipv4" source address="10.5.52.0/24" destination address="10.5.0.0/16" accept',
        'rule family="ipv6" source address="fd42::/48" destination address="fd42:0:0:52::/64" accept',
        'rule family="ipv6" source address="fd42:0:0:52::/64" destination address="fd42::/48" accept',
    }


@pytest.mark.parametrize(
    ("listening", "rule"),
    [
        (
            Listening(version=4, protocol="udp", port=8472),
            'rule family="ipv4" source ipset="overlayd-peers" port port="8472" protocol="udp" accept',
        ),
        (
            Listening(version=6, protocol="udp", port=8472),
            'rule family="ipv6" source ipset="overlayd-peers6" port port="8472" protocol="udp" accept',
        ),
        (
            Listening(version=4, protocol="4"),
            'rule family="ipv4" source ipset="overlayd-peers" protocol value="4" accept',
        ),
        (
            Listening(version=4, protocol="udp", port=51820, anyone=True),
            'rule family="ipv4" port port="51820" protocol="udp" accept',
        ),
    ],
    ids=["vxlan", "vxlan over IPv6", "ipip", "wireguard"],
)
def test_the_backends_port_is_open_for_peers(listening: Listening, rule: str) -> None:
    assert made(listening).policies[INPUT] == {rule}


def test_peers_are_in_the_set_of_their_family() -> None:
    assert made().ipsets == {"overlayd-peers": {"198.18.1.2", "198.18.1.3"}, "overlayd-peers6": {"2001:db8::2"}}


def test_a_backend_without_a_port_opens_none() -> None:
    assert made().policies[INPUT] == frozenset()


def test_the_rpm_ships_what_is_filled_and_empty() -> None:
    policies = {path.stem: ET.parse(path).getroot() for path in (SHIPPED / "policies").glob("*.xml")}
    assert set(policies) == set(NOTHING.policies) == {FORWARD, INPUT}
    for name, egress in ((FORWARD, "ANY"), (INPUT, "HOST")):
        zones = {
            kind: [one.get("name") for one in policies[name].iter(f"{kind}-zone")] for kind in ("ingress", "egress")
        }
        assert zones == {"ingress": ["ANY"], "egress": [egress]}
        # Before the zones, whose own verdict would be the last; and it ends nothing that is not ours.
        assert (policies[name].get("priority"), policies[name].get("target")) == ("-1", "CONTINUE")
        assert policies[name].find("rule") is None
    ipsets = {path.stem: ET.parse(path).getroot() for path in (SHIPPED / "ipsets").glob("*.xml")}
    assert set(ipsets) == set(NOTHING.ipsets)
    families = {name: [option.get("value") for option in root.iter("option")] for name, root in ipsets.items()}
    assert families == {IPSETS[4]: [], IPSETS[6]: ["inet6"]}
    assert all(root.find("entry") is None for root in ipsets.values())


def test_names_fit_into_firewalld_s_chains() -> None:
    # Its limit for a policy: 28 characters of an iptables chain less the longest that it puts around the name.
    assert all(len(name) <= 18 for name in NOTHING.policies)
