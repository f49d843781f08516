"""Which Docker network or route of this machine overlaps a subnet, and which subnet is free."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Any

import pytest

from overlayd.errors import ConfigError, OverlaydError
from tests.testbed.cluster import options, underlay
from tests.testbed.cluster.description import Cluster
from tests.testbed.cluster.underlay import Holder

ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
tun0\t00000000\t010200C0\t0003\t0\t0\t0\t00000080\t0\t0\t0
eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
eth0\t000012C6\t010200C0\t0003\t0\t0\t0\t0000FEFF\t0\t0\t0
*\t000013C6\t00000000\t0200\t0\t0\t0\t0000FFFF\t0\t0\t0
br-0123456789ab\t000712C6\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""
CLUSTER = Cluster(name="one", base="", underlay=IPv4Network("198.18.7.0/24"))


def test_routes_are_read_except_default_and_unreachable_ones() -> None:
    found = underlay.routes(ROUTES)
    assert [(device, str(holder.subnet), holder.who, holder.remote) for device, holder in found] == [
        ("eth0", "192.0.2.0/24", "this machine's route on eth0", False),
        ("eth0", "198.18.0.0/15", "this machine's route via 192.0.2.1 on eth0", True),
        ("br-0123456789ab", "198.18.7.0/24", "this machine's route on br-0123456789ab", False),
    ]


@pytest.mark.parametrize(
    ("subnet", "remote", "holds"),
    [
        ("198.18.7.0/24", False, True),
        ("198.18.7.0/24", True, True),
        ("198.18.7.128/25", True, True),
        ("198.18.0.0/15", False, True),
        # Like the default route, this one does not count: more specific routes stay in effect.
        ("198.18.0.0/15", True, False),
        ("198.18.8.0/24", False, False),
    ],
)
def test_a_route_that_overlaps_a_subnet_holds_it(subnet: str, remote: bool, holds: bool) -> None:
    assert Holder(IPv4Network(subnet), "x", remote=remote).holds(CLUSTER.underlay) == holds


def test_the_suggested_subnet_is_free_and_has_the_requested_length() -> None:
    taken = [Holder(IPv4Network(text), "x") for text in ("198.19.0.0/24", "198.19.1.0/25")]
    assert underlay.free(24, taken) == IPv4Network("198.19.2.0/24")
    assert underlay.free(25, taken) == IPv4Network("198.19.1.128/25")
    assert underlay.free(12, taken) == IPv4Network("198.18.0.0/16")
    assert underlay.free(24, [Holder(IPv4Network("198.18.0.0/15"), "x")]) is None


def network(name: str, subnet: str | None, **labels: str) -> dict[str, Any]:
    config = [{"Subnet": "fd00::/64"}, {"Subnet": subnet}] if subnet else None
    return {"Name": name, "Id": "0123456789abcdef", "IPAM": {"Config": config}, "Labels": labels or None}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (network("mine", "198.18.7.0/24"), "Docker network mine has 198.18.7.0/24"),
        (
            network("overlayd-two", "198.18.0.0/16", **{"org.overlayd.cluster": "two"}),
            "Docker network overlayd-two of the cluster two has 198.18.0.0/16",
        ),
        (
            network("shop_default", "198.18.7.128/25", **{"com.docker.compose.project": "shop"}),
            "Docker network shop_default of the Compose project shop has 198.18.7.128/25",
        ),
    ],
    ids=["anybody's", "another cluster's", "a Compose project's"],
)
def test_the_holder_of_a_subnet_is_named_and_a_free_one_suggested(
    monkeypatch: pytest.MonkeyPatch, found: dict[str, Any], said: str
) -> None:
    _networks(monkeypatch, network("none", None), network("overlayd-one", "198.18.7.0/24"), found)
    with pytest.raises(OverlaydError) as caught:
        underlay.require_free(CLUSTER)
    assert str(caught.value) == f"underlay 198.18.7.0/24 is taken: {said}\n  a free one: --underlay 198.19.0.0/24"


def test_the_clusters_own_network_is_no_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    _networks(monkeypatch, network("none", None), network("overlayd-one", "198.18.7.0/24"))
    underlay.require_free(CLUSTER)
    assert all(holder.subnet != CLUSTER.underlay for holder in underlay.holders(CLUSTER))


def _networks(monkeypatch: pytest.MonkeyPatch, *found: dict[str, Any]) -> None:
    class Client:
        class networks:  # noqa: N801
            @staticmethod
            def list() -> list[Any]:
                return [type("Network", (), {"attrs": attrs}) for attrs in found]

    monkeypatch.setattr(underlay, "client", Client)
    monkeypatch.setenv("DOCKER_HOST", "tcp://nowhere")


@pytest.mark.parametrize("text", ["", "x", "198.18.7.0", "198.18.7.1/24", "127.0.0.0/24", "224.0.0.0/24", "fd00::/64"])
def test_an_unusable_subnet_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"(?s)^underlay is .* as 198\.18\.7\.0/24$"):
        options.underlay(text)


@pytest.mark.parametrize(
    ("subnet", "hosts", "said"),
    [
        ("198.18.7.0/29", 1, "too small for a host"),
        ("198.18.7.0/28", 5, "allowed: 1 to 4 on the underlay"),
        ("10.42.9.0/24", 3, "overlaps the overlay's network 10.42.0.0/16"),
    ],
)
def test_an_unsuitable_underlay_is_refused(subnet: str, hosts: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Cluster(base="", hosts=hosts, underlay=IPv4Network(subnet))
