"""The network config: flannel's defaults and rules, and errors that say what is allowed."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlayd.errors import NetworkConfigError
from overlayd.network import parse_network_config


def parse(**document: Any) -> Any:
    return parse_network_config(json.dumps(document))


def test_defaults_are_flannels() -> None:
    config = parse(Network="10.5.0.0/16")
    assert (config.subnet_len, config.backend_type) == (24, "udp")
    # The first subnet is left out.
    assert (config.subnet_min, config.subnet_max) == (IPv4Address("10.5.1.0"), IPv4Address("10.5.255.0"))
    assert config.subnet_count() == 255


@pytest.mark.parametrize(
    ("network", "length"), [("10.0.0.0/8", 24), ("10.5.0.0/22", 24), ("10.5.0.0/23", 25), ("10.5.0.0/28", 30)]
)
def test_subnet_len_follows_the_network(network: str, length: int) -> None:
    assert parse(Network=network).subnet_len == length


def test_keys_are_read_without_regard_to_case() -> None:
    config = parse(network="10.5.0.0/16", subnetLen=26, BACKEND={"type": "VXLAN", "VNI": 7})
    assert (config.subnet_len, config.backend_type, dict(config.backend_config)) == (26, "vxlan", {"VNI": 7})


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({}, "Network is missing"),
        ({"Network": "10.5.0.0/29"}, "too small"),
        ({"Network": "10.5.0.0"}, "too small"),
        ({"Network": "ten"}, "not an IPv4 network"),
        ({"Network": 5}, "Network is 5"),
        ({"Network": "10.5.0.0/16", "SubnetLen": 17}, "SubnetLen is 17"),
        ({"Network": "10.5.0.0/16", "SubnetLen": 31}, "SubnetLen is 31"),
        ({"Network": "10.5.0.0/16", "SubnetLen": "24"}, "SubnetLen is '24'"),
        ({"Network": "10.5.0.0/16", "SubnetMin": "10.6.0.0"}, "outside"),
        ({"Network": "10.5.0.0/16", "SubnetMin": "10.5.1.7"}, "first address"),
        ({"Network": "10.5.0.0/16", "SubnetMin": "10.5.9.0", "SubnetMax": "10.5.1.0"}, "above"),
        ({"Network": "10.5.0.0/16", "Netwrok": 1}, "'Netwrok'"),
        ({"Network": "10.5.0.0/16", "Backend": "vxlan"}, "Backend is 'vxlan'"),
        ({"Network": "10.5.0.0/16", "Backend": {"Type": 3}}, "Backend Type is 3"),
        ({"Network": "10.5.0.0/16", "EnableIPv6": True}, "EnableIPv6"),
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


@given(st.integers(0, 2**32 - 1), st.integers(8, 28), st.data())
def test_every_subnet_is_inside_the_network_and_fits(base: int, length: int, data: st.DataObject) -> None:
    network = IPv4Network((base, length), strict=False)
    subnet_len = data.draw(st.integers(length + 2, 30))
    config = parse(Network=str(network), SubnetLen=subnet_len)
    first, last = (IPv4Network((int(end), subnet_len)) for end in (config.subnet_min, config.subnet_max))
    assert first.subnet_of(network)
    assert last.subnet_of(network)
    assert config.fits(first)
    assert config.fits(last)
    assert config.subnet_count() == 2 ** (subnet_len - length) - 1
