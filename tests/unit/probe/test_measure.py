"""What is measured by hand, and what this host's daemon knows beside it."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address, ip_network

import pytest

from overlayd.monitoring.state import FAILING, HOST_SILENT
from overlayd.probe.measure import measure_once
from overlayd.probe.peers import KnownPeer, LocalHost
from overlayd.probe.pinger import Echo, EchoResult, Pinger


@pytest.mark.parametrize(("said", "state"), [({"10.5.3.0/24": "it fails"}, FAILING), ({}, HOST_SILENT)])
def test_a_peer_that_is_silent_outside_too_is_none_that_was_switched_off_where_the_daemon_knows(
    monkeypatch: pytest.MonkeyPatch, said: dict[str, str], state: str
) -> None:
    def exchange(_pinger: Pinger, echoes: Sequence[Echo], *, timeout_s: float) -> list[EchoResult]:
        assert timeout_s > 0
        return [EchoResult(problem="no answer")] * len(echoes)

    monkeypatch.setattr(Pinger, "exchange", exchange)
    peer = KnownPeer(subnet=ip_network("10.5.3.0/24"), public_ip=ip_address("198.18.1.3"), backend="vxlan")
    assert [one.state for one in measure_once([peer], LocalHost(peer_problems=said))] == [state]
