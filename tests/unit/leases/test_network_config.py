"""The network config: flannel's defaults and rules, and errors that say what is allowed."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from overlayd.errors import NetworkConfigError
from overlayd.leases.network_config import RESERVED, parse_network_config
from overlayd.lib.addresses import overlaps


def parse(**document: Any) -> Any:
    return parse_network_config(json.dumps(document))


def test_defaults_are_flannels() -> None:
    config = parse(Network="10.5.0.0/16")
    assert (config.v4.subnet_len, config.v6, config.backend_type) == (24, None, "udp")
    # The first subnet is left out.
    assert (config.v4.subnet_min, config.v4.subnet_max) == (IPv4Address("10.5.1.0"), IPv4Address("10.5.255.0"))
    assert config.v4.subnet_count() == 255


def test_defaults_of_ipv6_are_flannels() -> None:
    config = parse(EnableIPv4=False, EnableIPv6=True, IPv6Network="fd42::/48")
    assert (config.v4, config.v6.subnet_len) == (None, 64)
    assert (str(config.v6.subnet_min), str(config.v6.subnet_max)) == ("fd42:0:0:1::", "fd42:0:0:ffff::")
    # An IPv6 network that is not in use may stand there all the same.
    assert parse(Network="10.5.0.0/16", IPv6Network="fd42::/48").v6 is None


@pytest.mark.parametrize(
    ("network", "length"), [("10.0.0.0/8", 24), ("10.5.0.0/22", 24), ("10.5.0.0/23", 25), ("10.5.0.0/28", 30)]
)
def test_subnet_len_follows_the_network(network: str, length: int) -> None:
    assert parse(Network=network).v4.subnet_len == length


@pytest.mark.parametrize(("network", "length"), [("fd42::/62", 64), ("fd42::/63", 65), ("fd42::/124", 126)])
def test_ipv6_subnet_len_follows_the_network(network: str, length: int) -> None:
    assert parse(EnableIPv4=False, EnableIPv6=True, IPv6Network=network).v6.subnet_len == length


def test_keys_are_read_without_regard_to_case() -> None:
    config = parse(network="10.5.0.0/16", subnetLen=26, BACKEND={"type": "VXLAN", "VNI": 7})
    assert (config.v4.subnet_len, config.backend_type, dict(config.backend_config)) == (26, "vxlan", {"VNI": 7})


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({}, "Network is missing"),
        ({"Network": "10.5.0.0/29"}, "too small"),
        ({"Network": "10.5.0.0"}, "too small"),
        ({"Network": "0.0.0.0/0"}, "0.0.0.0/0 holds 0.0.0.0/8, this network"),
        ({"Network": "127.5.0.0/16"}, "127.5.0.0/16 is a part of 127.0.0.0/8, loopback"),
        ({"Network": "168.0.0.0/7"}, "holds 169.254.0.0/16, link-local"),
        ({"Network": "224.5.0.0/16"}, "multicast"),
        ({"Network": "240.0.0.0/8"}, "reserved"),
        ({"Network": "10.0.0.0/7"}, "too wide"),
        ({"Network": "10.5.0.0/16", "EnableIPv6": True, "IPv6Network": "::/0"}, "IPv6Network ::/0 holds ::/8"),
        ({"Network": "10.5.0.0/16", "EnableIPv6": True, "IPv6Network": "ff05::/48"}, "multicast"),
        ({"Network": "10.5.0.0/16", "EnableIPv6": True, "IPv6Network": "fe80::/48"}, "link-local"),
        ({"Network": "10.5.0.0/16", "EnableIPv6": True, "IPv6Network": "2000::/3"}, "too wide"),
        ({"Network": "ten"}, "not an IPv4 network"),
        ({"Network": 5}, "Network is 5"),
        ({"Network": "10.5.0.0/16", "SubnetLen": 17}, "SubnetLen is 17"),
        ({"Network": "10.5.0.0/16", "SubnetLen": 31}, "SubnetLen is 31"),
        ({"Network": "10.5.0.0/16", "SubnetLen": "24"}, "SubnetLen is '24'"),
        ({"Network": "10.5.0.0/16", "SubnetMin": "10.6.0.0"}, "outside"),
        ({"Network": "10.5.0.0/16", "SubnetMin": "10.5.1.7"}, "first address"),
        ({"Network": "10.5.0.0/16", "SubnetMin": "10.5.9.0", "SubnetMax": "10.5.1.0"}, "above"),
        ({"Network": "10.5.0.0/16", "Backend": "vxlan"}, "Backend is 'vxlan'"),
        ({"Network": "10.5.0.0/16", "Backend": {"Type": 3}}, "Backend Type is 3"),
        ({"Network": "fd42::/48"}, "not an IPv4 network"),
        ({"Network": "10.5.0.0/16", "EnableIPv6": True}, "IPv6Network is missing"),
        ({"Network": "10.5.0.0/16", "EnableIPv6": True, "IPv6Network": "10.6.0.0/16"}, "not an IPv6 network"),
        ({"Network": "10.5.0.0/16", "EnableIPv6": True, "IPv6Network": "fd42::/125"}, "too small"),
        (
            {"EnableIPv4": False, "EnableIPv6": True, "IPv6Network": "fd42::/48", "IPv6SubnetLen": 49},
            "IPv6SubnetLen is 49",
        ),
        (
            {"EnableIPv4": False, "EnableIPv6": True, "IPv6Network": "fd42::/48", "IPv6SubnetMin": "10.5.0.0"},
            "IPv6 address",
        ),
        ({"EnableIPv4": False}, "both false"),
        ({"Network": "10.5.0.0/16", "EnableIPv4": "no"}, "EnableIPv4"),
    ],
)
def test_a_broken_rule_names_the_key_and_the_value(document: dict[str, Any], words: str) -> None:
    with pytest.raises(NetworkConfigError, match=words):
        parse(**document)


@given(st.binary() | st.text() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_garbage_is_a_network_config_error(raw: bytes | str) -> None:
    with pytest.raises(NetworkConfigError):
        parse_network_config(raw)


@given(st.integers(1 << 24, (224 << 24) - 1), st.integers(8, 28), st.data())
def test_every_subnet_is_inside_the_network_and_fits(base: int, length: int, data: st.DataObject) -> None:
    network = IPv4Network((base, length), strict=False)
    assume(not any(overlaps(network, special) for special, _what in RESERVED[4]))
    subnet_len = data.draw(st.integers(length + 2, 30))
    config = parse(Network=str(network), SubnetLen=subnet_len)
    first, last = (IPv4Network((int(end), subnet_len)) for end in (config.v4.subnet_min, config.v4.subnet_max))
    assert first.subnet_of(network)
    assert last.subnet_of(network)
    assert config.v4.fits(first)
    assert config.v4.fits(last)
    assert config.v4.subnet_count() == 2 ** (subnet_len - length) - 1
