"""What a network or a subnet would take from a host is named; what it takes from nobody is served."""

from __future__ import annotations

import json
from ipaddress import ip_network

import pytest

from overlayd.leases.conflicts import OWN_ADDRESS, HostNeed, Judgement, avoided, judge_network, taken_by
from overlayd.leases.network_config import NetworkConfig, parse_network_config


def network(text: str, kind: str = "vxlan") -> NetworkConfig:
    """A config of that network."""
    return parse_network_config(json.dumps({"Network": text, "Backend": {"Type": kind}}))


def address(what: str, text: str) -> HostNeed:
    """One address."""
    return HostNeed(network=ip_network(text), what=what)


MOVE_IT = "give it another subnet (docker network ls)"
ETCD = address("etcd's address", "10.9.7.5")
GATEWAY = address("the default gateway", "10.1.2.254")
OWN = HostNeed(network=ip_network("10.1.2.3"), what=OWN_ADDRESS, ifname="eth0")
LAN = HostNeed(network=ip_network("10.1.2.0/24"), what="eth0's network", ifname="eth0")
V6 = address("the resolver", "fd42::53")
ALL = (ETCD, GATEWAY, OWN, LAN, V6)


def test_a_network_that_takes_nothing_is_well() -> None:
    assert judge_network(network("10.42.0.0/16"), ALL, one_route=True) == Judgement()


@pytest.mark.parametrize("text", ["10.1.2.0/24", "10.1.2.128/25"])
@pytest.mark.parametrize("one_route", [True, False])
def test_a_network_inside_one_that_the_host_reaches_by_itself_is_refused(text: str, one_route: bool) -> None:
    found = judge_network(network(text), ALL, one_route=one_route)
    assert f"the network {text} is a part of eth0's network 10.1.2.0/24, which" in found.refusals[0]


def test_a_network_around_the_underlay_is_served_and_what_it_holds_is_said() -> None:
    found = judge_network(network("10.0.0.0/8"), ALL, one_route=False)
    assert found.refusals == ()
    said = "\n".join(found.remarks)
    for words in ("etcd's address 10.9.7.5", "the default gateway", "own address 10.1.2.3", "eth0's network"):
        assert words in said


def test_one_route_for_the_whole_would_take_what_is_behind_a_router_only() -> None:
    found = judge_network(network("10.0.0.0/8", "udp"), ALL, one_route=True)
    assert found.refusals == (
        "the network 10.0.0.0/8 holds etcd's address 10.9.7.5, and backend udp routes the whole network into the "
        "overlay",
    )
    # The gateway is in the underlay's own network, whose route is narrower.
    assert judge_network(network("10.0.0.0/8", "udp"), (GATEWAY, OWN, LAN), one_route=True).refusals == ()


def test_a_host_keeps_clear_of_what_it_needs_but_not_of_its_own_containers() -> None:
    """Whatever the bridge is called that is on the subnet that this host holds."""
    held = ip_network("10.42.7.0/24")
    bridge = HostNeed(network=held, what="cni0's network", ifname="cni0")
    first = HostNeed(network=ip_network("10.42.7.1"), what=OWN_ADDRESS, ifname="cni0")
    assert avoided((*ALL, bridge, first), "eth0", held=[held]) == [one.network for one in ALL]
    assert avoided((bridge, first), "eth0", held=[]) == [held, first.network]
    # etcd is needed wherever it is; and so is the underlay.
    assert avoided(ALL, "eth0", held=[ip_network("10.0.0.0/8")]) == [one.network for one in ALL]


def test_very_much_is_told_in_a_few_lines() -> None:
    many = [address("the public address of a host,", f"10.42.{number}.9") for number in range(200)]
    lines = list(judge_network(network("10.42.0.0/16"), many, one_route=False).lines())
    assert (len(lines), lines[-1]) == (11, "and 190 more")


@pytest.mark.parametrize(
    ("subnet", "said"),
    [
        ("10.9.7.0/24", "holds etcd's address 10.9.7.5"),
        ("10.1.0.0/16", "holds eth0's network 10.1.2.0/24: eth0 stays as it is; if it is docker's, " + MOVE_IT),
        ("10.1.2.64/28", "is a part of eth0's network 10.1.2.0/24: eth0 stays as it is; if it is docker's, " + MOVE_IT),
        ("fd42::/64", "holds the resolver fd42::53"),
        ("10.9.8.0/24", None),
    ],
)
def test_what_a_subnet_would_take_is_named(subnet: str, said: str | None) -> None:
    assert taken_by(ip_network(subnet), ALL) == said
