"""IPv6 that is switched off on the interfaces that the network needs it on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from overlayd.doctor.checks import examine
from overlayd.doctor.facts import Facts
from overlayd.doctor.finding import Finding, State
from tests.unit.doctor.values import but, sysctl

OFF = {f"net__ipv6__conf__{name}__disable_ipv6": "1" for name in ("all", "default", "eth0", "docker0", "eth9")}


def found(facts: Facts) -> list[Finding]:
    return [finding for _title, findings in examine(facts) for finding in findings if finding.name == "ipv6-disabled"]


@pytest.mark.parametrize(
    "joined",
    [{"etcd": but(etcd={"ipv6": True}).etcd}, {"network": but(network={"ipv6": True}).network}],
    ids=["wanted", "served"],
)
def test_a_host_without_ipv6_in_a_network_that_has_it_is_told_which_setting(joined: dict[str, object]) -> None:
    (finding,) = found(replace(sysctl(**OFF), **joined))  # type: ignore[arg-type]
    assert finding.state is State.PROBLEM
    assert "switched off on eth0, docker0" in finding.found
    assert finding.remedy == "sysctl -w net/ipv6/conf/eth0/disable_ipv6=0 net/ipv6/conf/docker0/disable_ipv6=0"
    assert finding.advice is not None
    assert "give eth0 its IPv6 address" in finding.advice


def test_it_is_no_matter_elsewhere() -> None:
    assert found(sysctl(**OFF)) == []
    (well,) = found(but(etcd={"ipv6": True}))
    assert well.state is State.OK
