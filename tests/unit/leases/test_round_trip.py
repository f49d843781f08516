"""Leases of every kind of host, as flannel writes them: read, and written back byte for byte."""

from __future__ import annotations

import base64
import json
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from overlayd.leases.keys import lease_name, parse_lease_name
from overlayd.leases.lease import parse_lease
from overlayd.leases.subnets import Subnets

MACS = st.binary(min_size=6, max_size=6).map(lambda raw: ":".join(f"{byte:02x}" for byte in raw))
KEYS = st.binary(min_size=32, max_size=32).map(lambda raw: base64.b64encode(raw).decode())
# What each backend of flannel's publishes for a family, and whether it publishes it for IPv6 in a field of its own.
DATA: dict[str, st.SearchStrategy[Any]] = {
    "udp": st.none(),
    "host-gw": st.none(),
    "ipip": st.none(),
    "alloc": st.none(),
    "vxlan": st.fixed_dictionaries({"VNI": st.integers(1, 2**24 - 1), "VtepMAC": MACS}),
    "wireguard": st.fixed_dictionaries({"PublicKey": KEYS}),
}
V4 = st.builds(
    lambda base, length: IPv4Network((base, length), strict=False), st.integers(1, 2**32 - 1), st.integers(8, 30)
)
V6 = st.builds(
    lambda base, length: IPv6Network((base, length), strict=False), st.integers(1, 2**128 - 1), st.integers(16, 126)
)


@st.composite
def documents(draw: st.DrawFn) -> tuple[Subnets, bytes]:
    """The subnets of a key and the value under it, its fields in flannel's order."""
    kind = draw(st.sampled_from(sorted(DATA)))
    v4, v6 = draw(st.sampled_from([(True, False), (True, True), (False, True)]))
    document: dict[str, Any] = {
        # Go's zero value where there is no IPv4.
        "PublicIP": str(draw(st.ip_addresses(v=4))) if v4 else "0.0.0.0",
        "PublicIPv6": str(draw(st.ip_addresses(v=6))) if v6 else None,
        "BackendType": kind,
    }
    for wanted, name in ((v4, "BackendData"), (v6, "BackendV6Data")):
        data = draw(DATA[kind])
        if wanted and data is not None:
            document[name] = data
    subnets = Subnets(v4=draw(V4) if v4 else None, v6=draw(V6) if v6 else None)
    return subnets, json.dumps(document, separators=(",", ":")).encode()


@given(documents())
def test_a_lease_of_any_backend_is_written_back_byte_for_byte(entry: tuple[Subnets, bytes]) -> None:
    subnets, value = entry
    lease = parse_lease(lease_name(subnets), value)
    assert lease.subnets == subnets
    written = lease.value()
    if lease.v4 is None:
        # A flannel without IPv4 would take what has 0.0.0.0 for its own.
        stand_in = json.loads(written)["PublicIP"]
        assert IPv4Address(stand_in) in IPv4Network("240.0.0.0/5")
        value = value.replace(b'"0.0.0.0"', f'"{stand_in}"'.encode(), 1)
    assert written == value
    assert lease.key_name == lease_name(subnets)


@given(V4 | st.none(), V6 | st.none())
def test_a_key_names_its_subnets_in_either_spelling(v4: IPv4Network | None, v6: IPv6Network | None) -> None:
    subnets = Subnets(v4=v4, v6=v6)
    if v4 is None and v6 is None:
        return
    assert parse_lease_name(lease_name(subnets)) == subnets
    # A key of flannel's: the regular expression that it reads its keys by.
    head, _, tail = lease_name(subnets).partition("&")
    assert parse_lease_name("&".join([head, tail.replace(":", "-")]) if tail else head) == subnets


@given(st.ip_addresses(v=4), st.ip_addresses(v=6))
def test_addresses_of_both_families_come_through(v4: IPv4Address, v6: IPv6Address) -> None:
    value = f'{{"PublicIP":"{v4}","PublicIPv6":"{v6}","BackendType":"host-gw"}}'.encode()
    lease = parse_lease("10.5.2.0-24&fd42:0:0:2::-64", value)
    assert [family_lease.public_ip for family_lease in lease.family_leases] == [v4, v6]
    assert lease.value() == value
