"""Leases: flannel's keys and values in, the same out, and garbage told from leases."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlayd.leases.keys import MalformedLease, lease_name, parse_lease_name
from overlayd.leases.lease import DATA_PARTS, FamilyLease, Lease, parse_lease
from overlayd.leases.subnets import Subnets

VXLAN = (
    b"""{"PublicIP":"198.18.0.7","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"ee:2c"}}"""
)


def test_a_flannel_vxlan_lease_is_read_and_written_back_byte_for_byte() -> None:
    lease = parse_lease("10.5.52.0-24", VXLAN)
    assert lease.subnets == Subnets(v4=IPv4Network("10.5.52.0/24"))
    assert lease.v4 is not None
    assert lease.v4.data == {"VNI": 1, "VtepMAC": "ee:2c"}
    assert lease.value() == VXLAN


def test_a_udp_lease_may_omit_type_and_data() -> None:
    lease = parse_lease("10.5.52.0-24", b'{"PublicIP":"198.18.0.7"}')
    assert lease.backend_type == "udp"
    assert lease.family_leases == (
        FamilyLease(subnet=IPv4Network("10.5.52.0/24"), public_ip=IPv4Address("198.18.0.7")),
    )


def test_a_dual_stack_key_keeps_both_subnets() -> None:
    both = Subnets(v4=IPv4Network("10.5.52.0/24"), v6=IPv6Network("fc00:0:0:34::/64"))
    assert lease_name(both) == "10.5.52.0-24&fc00:0:0:34::-64"
    assert parse_lease_name(lease_name(both)) == both
    # As some tools write it.
    assert parse_lease_name("10.5.52.0-24&fc00-0-0-34---64") == both


def test_a_lease_without_ipv4_has_flannels_key() -> None:
    only = Subnets(v6=IPv6Network("fc00:0:0:34::/64"))
    assert lease_name(only) == "0.0.0.0-0&fc00:0:0:34::-64"
    assert parse_lease_name(lease_name(only)) == only


def test_a_dual_stack_lease_is_read_and_written_back_byte_for_byte() -> None:
    value = (
        b'{"PublicIP":"198.18.0.7","PublicIPv6":"2001:db8::7","BackendType":"vxlan",'
        b'"BackendData":{"VNI":1,"VtepMAC":"ee:2c"},"BackendV6Data":{"VNI":1,"VtepMAC":"ee:2d"}}'
    )
    lease = parse_lease("10.5.52.0-24&fc00:0:0:34::-64", value)
    assert [family_lease.public_ip for family_lease in lease.family_leases] == [
        IPv4Address("198.18.0.7"),
        IPv6Address("2001:db8::7"),
    ]
    assert lease.value() == value


def test_a_family_without_a_public_address_has_no_leg() -> None:
    lease = parse_lease("10.5.52.0-24&fc00:0:0:34::-64", VXLAN)
    assert (lease.v6, lease.subnets.v6) == (None, None)


@pytest.mark.parametrize("name", ["10.5.52.0-24", "0.0.0.0-0&fc00:0:0:34::-64", "10.5.52.0-24&fc00:0:0:34::-64"])
def test_the_extension_backends_text_is_one_for_all_legs(name: str) -> None:
    value = (
        b'{"PublicIP":"198.18.0.7","PublicIPv6":"2001:db8::7","BackendType":"extension",'
        b'"BackendData":"ee:2c; $(reboot) \\"\\u00e9\\""}'
    )
    lease = parse_lease(name, value)
    assert {family_lease.data for family_lease in lease.family_leases} == {'ee:2c; $(reboot) "\u00e9"'}
    assert json.loads(lease.value())["BackendData"] == 'ee:2c; $(reboot) "\u00e9"'
    assert "BackendV6Data" not in json.loads(lease.value())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("10.5.52.0", VXLAN),
        ("10.5.52.1-24", VXLAN),
        ("10.5.52.0-24-1", VXLAN),
        ("10.5.52.0-+24", VXLAN),
        ("10.5.52.0-2_4", VXLAN),
        ("10.5.52.0-24&fc00::1-64", VXLAN),
        ("0.0.0.0-0&fc00::-64", VXLAN),
        ("", VXLAN),
        ("10.5.52.0-24", b""),
        ("10.5.52.0-24", b"[]"),
        ("10.5.52.0-24", b"{}"),
        ("10.5.52.0-24", b'{"PublicIP":"::1"}'),
        ("10.5.52.0-24", b'{"PublicIP":7}'),
        ("10.5.52.0-24", b'{"PublicIP":"198.18.0.7","BackendType":[]}'),
        ("10.5.52.0-24", b'{"PublicIP":"198.18.0.7","BackendType":5}'),
        ("10.5.52.0-24", b'{"PublicIP":"198.18.0.7","BackendData":7}'),
        ("10.5.52.0-24", b"[" * 100_000),
    ],
)
def test_what_is_no_lease_is_malformed(name: str, value: bytes) -> None:
    with pytest.raises(MalformedLease):
        # An empty list is Go's zero value for nothing here.
        parse_lease(name, value.replace(b"[]}", b"[1]}"))


@given(st.text(), st.binary() | st.recursive(st.none() | st.text(), st.lists).map(lambda v: json.dumps(v).encode()))
def test_garbage_never_raises_anything_else(name: str, value: bytes) -> None:
    with pytest.raises(MalformedLease):
        parse_lease(name, value)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(8, 30),
    st.ip_addresses(v=4),
    st.sampled_from(["udp", "vxlan", "host-gw"]),
    st.none() | st.text() | st.dictionaries(st.text(), st.integers() | st.text(), max_size=DATA_PARTS),
)
def test_a_lease_survives_the_way_through_etcd(
    base: int, length: int, public_ip: IPv4Address, kind: str, data: dict[str, object] | str | None
) -> None:
    v4 = FamilyLease(subnet=IPv4Network((base, length), strict=False), public_ip=public_ip, data=data)
    v6 = FamilyLease(
        subnet=IPv6Network((base << 96, 32 + length), strict=False),
        public_ip=IPv6Address(int(public_ip) << 64),
        data=data,
    )
    for lease in (Lease(v4=v4, backend_type=kind), Lease(v6=v6), Lease(v4=v4, v6=v6, backend_type=kind)):
        assert parse_lease(lease.key_name, lease.value()) == lease
