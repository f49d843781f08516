"""Whom `overlayd ping` asks, from where, and at what size."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from overlayd.backends import udp, vxlan
from overlayd.errors import ConfigError
from overlayd.probe.peers import OVERHEAD_BYTES, KnownPeer, LocalHost, chosen, targets
from overlayd.probe.report import PathResult, PeerReport, document, table

PEER = KnownPeer(subnet=ip_network("10.5.3.0/24"), public_ip=ip_address("198.18.1.3"), backend="vxlan")
PEER6 = KnownPeer(subnet=ip_network("fd00:5:3::/64"), public_ip=ip_address("fd00::3"), backend="vxlan")
HERE = LocalHost(
    subnets=(ip_network("10.5.1.0/24"),),
    addresses=frozenset({ip_address("10.5.1.0"), ip_address("10.5.1.1"), ip_address("198.18.1.1")}),
    mtu_bytes=1450,
)


def test_the_overheads_are_the_backends_own() -> None:
    assert OVERHEAD_BYTES["vxlan"] == OVERHEAD_BYTES["auto"] == vxlan.OVERHEAD_BYTES
    assert OVERHEAD_BYTES["udp"][4] == udp.OVERHEAD_BYTES


def test_device_and_bridge_are_asked_from_our_own_subnet() -> None:
    (target,) = targets([PEER], HERE)
    assert [str(address) for address in target.overlay.addresses] == ["10.5.3.0", "10.5.3.1"]
    assert str(target.overlay.source) == "10.5.1.0"
    assert target.overlay.wished_bytes == 1450
    assert target.underlay.source is None
    assert target.underlay.wished_bytes == 1500


def test_without_a_device_the_bridge_is_the_source() -> None:
    bridge_only = LocalHost(subnets=HERE.subnets, addresses=frozenset({ip_address("10.5.1.1")}), mtu_bytes=1500)
    (target,) = targets([PEER], bridge_only)
    assert str(target.overlay.source) == "10.5.1.1"
    (target,) = targets([PEER], LocalHost())
    assert (target.overlay.source, target.overlay.wished_bytes, target.underlay.wished_bytes) == (None, None, None)


def test_ipv6_peers_cost_more_of_a_packet() -> None:
    (target,) = targets([PEER6], HERE)
    assert [str(address) for address in target.overlay.addresses] == ["fd00:5:3::", "fd00:5:3::1"]
    assert target.overlay.source is None
    assert target.underlay.wished_bytes == 1520


@pytest.mark.parametrize("name", ["198.18.1.3", "10.5.3.0/24", "10.5.3.77"])
def test_a_peer_has_many_names(name: str) -> None:
    assert chosen([PEER6, PEER], [name]) == [PEER]
    assert chosen([PEER6, PEER], [name, name]) == [PEER]


def test_a_name_that_is_nobodys_is_answered_with_those_there_are() -> None:
    assert chosen([PEER], []) == [PEER]
    for name in ("10.6.0.1", "nonsense"):
        with pytest.raises(ConfigError, match=f"no peer is {name}") as caught:
            chosen([PEER], [name])
        assert "198.18.1.3 (10.5.3.0/24)" in str(caught.value)


def report(underlay: PathResult, overlay: PathResult) -> PeerReport:
    return PeerReport(
        subnet="10.5.3.0/24", public_ip="198.18.1.3", backend="vxlan", version=4, underlay=underlay, overlay=overlay
    )


ANSWERED = PathResult(answered_by="x", sent=3, received=3, rtt_ms=0.25, wished_bytes=1450, path_bytes=1450)


def test_a_peer_is_well_when_the_overlay_takes_the_full_size() -> None:
    well = report(PathResult(tried=("198.18.1.3",)), ANSWERED)
    assert well.well
    assert "no harm" in well.remarks()[0]
    small = report(
        ANSWERED, PathResult(answered_by="x", sent=3, received=2, rtt_ms=1, wished_bytes=1450, path_bytes=1350)
    )
    assert not small.well
    assert "1350 come through" in small.remarks()[0]
    assert "1 of 3 echoes lost" in small.remarks()[1]
    dead = report(ANSWERED, PathResult(tried=("10.5.3.0", "10.5.3.1"), problem="no answer"))
    assert not dead.well
    assert "the host is up" in dead.remarks()[1]
    assert document([well, dead])["well"] is False
    lines = table([well, small, dead])
    assert lines[0].startswith("PEER")
    assert any("1350 of 1450" in line for line in lines)
