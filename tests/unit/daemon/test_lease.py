"""Leases: flannel's keys and values in, the same out, and garbage told from leases."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlayd.lease import Lease, MalformedLease, format_key, parse_key, parse_lease

VXLAN = (
    b"""{"PublicIP":"198.18.0.7","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"ee:2c"}}"""
)


def test_a_flannel_vxlan_lease_is_read_and_written_back_byte_for_byte() -> None:
    lease = parse_lease("10.5.52.0-24", VXLAN)
    assert lease.subnet == IPv4Network("10.5.52.0/24")
    assert lease.backend_data == {"VNI": 1, "VtepMAC": "ee:2c"}
    assert lease.value() == VXLAN


def test_a_udp_lease_may_omit_type_and_data() -> None:
    lease = parse_lease("10.5.52.0-24", b'{"PublicIP":"198.18.0.7"}')
    assert (lease.backend_type, lease.backend_data) == ("udp", None)


def test_a_dual_stack_key_keeps_both_subnets() -> None:
    v4, v6 = IPv4Network("10.5.52.0/24"), IPv6Network("fc00:0:0:34::/64")
    assert parse_key("10.5.52.0-24&fc00-0-0-34---64") == (v4, v6)
    assert parse_key(format_key(v4, v6)) == (v4, v6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("10.5.52.0", VXLAN),
        ("10.5.52.1-24", VXLAN),
        ("10.5.52.0-24-1", VXLAN),
        ("", VXLAN),
        ("10.5.52.0-24", b""),
        ("10.5.52.0-24", b"[]"),
        ("10.5.52.0-24", b"{}"),
        ("10.5.52.0-24", b'{"PublicIP":"::1"}'),
        ("10.5.52.0-24", b'{"PublicIP":7}'),
        ("10.5.52.0-24", b'{"PublicIP":"198.18.0.7","BackendType":[]}'),
        ("10.5.52.0-24", b'{"PublicIP":"198.18.0.7","BackendType":5}'),
        ("10.5.52.0-24", b'{"PublicIP":"198.18.0.7","BackendData":"x"}'),
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
    st.none() | st.dictionaries(st.text(), st.integers() | st.text()),
)
def test_a_lease_survives_the_way_through_etcd(
    base: int, length: int, public_ip: IPv4Address, kind: str, data: dict[str, object] | None
) -> None:
    lease = Lease(
        subnet=IPv4Network((base, length), strict=False), public_ip=public_ip, backend_type=kind, backend_data=data
    )
    assert parse_lease(lease.key_name, lease.value()) == lease
