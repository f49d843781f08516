"""The ipip backend: leases in, a plan out; and the device as the kernel would describe it."""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest

from overlayd.backends.backend import Backend
from overlayd.backends.ipip import Ipip
from overlayd.errors import NetworkConfigError
from overlayd.kernel import decode, links
from overlayd.kernel.diff import diff
from overlayd.kernel.state import (
    FORWARDING,
    Address,
    FdbEntry,
    IpipLink,
    KernelState,
    Link,
    Neighbour,
    Route,
    Sysctl,
    link_settings,
)
from overlayd.kernel.wireguard import devices
from tests.unit.backends.test_backends import DUAL_ENVIRONMENT, ENVIRONMENT, OWN, UNDERLAY, peer

OWN_IPIP = replace(OWN, backend_type="ipip")
LINK = IpipLink(name="overlay.ipip", local=IPv4Address("198.18.1.1"), mtu_bytes=1480)


def ipip(**config: Any) -> Ipip:
    """An ipip backend with this config."""
    return Ipip.from_config(config, ENVIRONMENT)


def test_one_device_for_all_and_a_route_for_each() -> None:
    near, far = peer(2, backend="ipip"), peer(3, backend="ipip", address="198.19.7.3")
    plan = ipip().plan(OWN_IPIP, [near, far])
    state = plan.state()
    assert state.all_of(Link) == {LINK}
    assert {str(one) for one in state.all_of(Address, Route)} == {
        "10.5.1.0/32 dev overlay.ipip",
        "10.5.2.0/24 via 198.18.1.2 dev overlay.ipip onlink",
        "10.5.3.0/24 via 198.19.7.3 dev overlay.ipip onlink",
    }
    assert not state.all_of(Neighbour, FdbEntry)
    assert state.all_of(Sysctl) == {FORWARDING, *link_settings("overlay.ipip", ipv6=False)}
    assert dict(plan.paths) == {near.key_name: "ipip", far.key_name: "ipip"}
    assert ipip().devices == ("overlay.ipip",)


def test_direct_routing_where_the_peer_is_on_link() -> None:
    near, far = peer(2, backend="ipip"), peer(3, backend="ipip", address="198.19.7.3")
    plan = ipip(directRouting=True).plan(OWN_IPIP, [near, far])
    assert {str(route) for route in plan.state().all_of(Route)} == {
        "10.5.2.0/24 via 198.18.1.2 dev eth0",
        "10.5.3.0/24 via 198.19.7.3 dev overlay.ipip onlink",
    }
    assert dict(plan.paths) == {near.key_name: "direct", far.key_name: "ipip"}
    assert ipip(DirectRouting=True).devices == ("overlay.ipip", "eth0")


def test_behind_an_address_translation_the_outer_source_is_the_interfaces_own() -> None:
    assert UNDERLAY.v4 is not None
    endpoint = replace(UNDERLAY.v4, public_ip=IPv4Address("198.19.0.9"))
    backend = Ipip.from_config({}, replace(ENVIRONMENT, underlay=replace(UNDERLAY, v4=endpoint)))
    assert backend.plan(OWN_IPIP, []).state().all_of(Link) == {LINK}


def test_nothing_is_published_and_only_ipip_hosts_are_served() -> None:
    backend: Backend = ipip()
    assert backend.lease_data(4) is None
    plan = ipip().plan(OWN_IPIP, [peer(2)])
    assert "vxlan" in plan.problems[peer(2).key_name]
    assert plan.state().all_of(Route) == frozenset()


@pytest.mark.parametrize(
    ("config", "environment", "said"),
    [
        ({"DirectRouting": 1}, ENVIRONMENT, "DirectRouting"),
        ({}, DUAL_ENVIRONMENT, "IPv4 only"),
        ({}, replace(ENVIRONMENT, underlay=replace(UNDERLAY, mtu_bytes=80)), "MTU"),
    ],
)
def test_what_cannot_be_is_a_config_error(config: dict[str, Any], environment: Any, said: str) -> None:
    with pytest.raises(NetworkConfigError, match=said):
        Ipip.from_config(config, environment)


def test_another_local_address_makes_the_device_anew_and_another_mtu_does_not() -> None:
    there = KernelState(frozenset({LINK}))
    moved = KernelState(frozenset({replace(LINK, local=IPv4Address("198.18.1.7"))}))
    smaller = KernelState(frozenset({replace(LINK, mtu_bytes=1400)}))
    assert [operation.name for operation in diff(moved, there)] == ["link delete", "link add"]
    assert [operation.name for operation in diff(smaller, there)] == ["link change"]


def test_the_kernels_own_description_is_read_as_what_was_written() -> None:
    # As net/ipv4/ipip.c, ipip_fill_info(), writes it.
    data = (
        _attribute(1, struct.pack("=I", 0))  # link
        + _attribute(2, IPv4Address("198.18.1.1").packed)  # local
        + _attribute(3, bytes(4))  # remote
        + _attribute(4, b"\0")  # time to live
        + _attribute(5, b"\0")  # type of service
        + _attribute(9, b"\4")  # protocol
        + _attribute(10, b"\0")  # path MTU discovery
        + _attribute(20, bytes(4))  # firewall mark
    )
    info = _attribute(1, b"ipip\0") + _attribute(2, data)
    body = struct.pack("=BxHiII", 0, 768, 7, 0x91, 0)  # ARPHRD_TUNNEL; UP, RUNNING, NOARP among the flags
    attributes = _attribute(3, b"overlay.ipip\0") + _attribute(4, struct.pack("=I", 1480))
    attributes += _attribute(20, b"overlayd\0") + _attribute(18, info)
    with devices() as wireguard:
        assert decode.link(links.parse(body + attributes), {}, wireguard, []) == LINK


def _attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)
