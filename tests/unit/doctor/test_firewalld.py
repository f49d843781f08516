"""What the doctor says of a firewalld that runs: told by overlayd, told by hand, or not at all."""

from __future__ import annotations

from dataclasses import replace

import pytest

from overlayd.doctor.facts import Firewalld, Zone
from overlayd.doctor.finding import State
from overlayd.lib.iptables_save import parse
from overlayd.ruleset.packet_path import IptablesRules
from tests.unit.doctor.test_checks import FIREWALLD, found
from tests.unit.doctor.values import base_chain, but, nft

DOCKERS = Zone(name="docker", target="ACCEPT", interfaces=frozenset({"docker0"}))


def test_firewalld_that_knows_the_overlay_is_left_alone() -> None:
    public = Zone(
        name="public", target="default", interfaces=frozenset({"eth0"}), ports=frozenset({"8000-9000/udp", "22/tcp"})
    )
    trusted = Zone(name="trusted", target="ACCEPT", interfaces=frozenset({"overlay.1"}))
    knows = Firewalld(default_zone="public", zones=(public, trusted, DOCKERS))
    assert found(but(firewall={"firewalld": knows}), "firewalld").state is State.OK
    by_source = replace(trusted, interfaces=frozenset(), sources=frozenset({"10.5.0.0/16"}))
    knows = Firewalld(default_zone="public", zones=(public, by_source))
    assert found(but(firewall={"firewalld": knows}), "firewalld").state is State.OK


@pytest.mark.parametrize(
    ("kind", "forwarded", "shipped", "remedy"),
    [
        (
            "iptables",
            ('rule family="ipv4" source address="10.5.0.0/16" destination address="10.5.1.0/24" accept',),
            True,
            None,
        ),
        ("iptables", (), True, "systemctl restart overlayd"),
        ("iptables", None, True, "firewall-cmd --reload"),
        ("none", (), True, "firewall-cmd --permanent --zone=trusted"),
    ],
    ids=["told", "not told", "not read", "left alone"],
)
def test_firewalld_is_told_by_overlayd_where_it_may(
    kind: str, forwarded: tuple[str, ...] | None, shipped: bool, remedy: str | None
) -> None:
    running = replace(FIREWALLD, forwarded=forwarded, shipped=shipped)
    finding = found(but(firewall={"firewalld": running, "kind": kind}), "firewalld")
    assert finding.state is (State.OK if remedy is None else State.PROBLEM)
    assert (finding.remedy or "").startswith(remedy or "")


def test_with_host_gw_firewalld_trusts_the_network_not_the_interface() -> None:
    facts = but(firewall={"firewalld": FIREWALLD}, network={"backend": "host-gw", "devices": ("eth0",)})
    assert found(facts, "firewalld").remedy == (
        "firewall-cmd --permanent --zone=trusted --add-source=10.5.0.0/16 && firewall-cmd --reload"
    )


def test_what_leaves_dockers_bridge_needs_dockers_zone() -> None:
    without = replace(FIREWALLD, zones=tuple(zone for zone in FIREWALLD.zones if zone.name != "docker"))
    finding = found(but(firewall={"firewalld": without}), "firewalld")
    assert "--new-zone=docker && firewall-cmd --permanent --zone=docker --set-target=ACCEPT" in str(finding.remedy)
    assert "--zone=docker --change-interface=docker0" in str(finding.remedy)


def test_what_firewalld_drops_is_mended_by_telling_firewalld_and_before_the_rest() -> None:
    dropping = nft(base_chain("inet firewalld filter_FORWARD", "forward", policy="drop"))
    closed = (IptablesRules(command="iptables", tables=parse("*filter\n:FORWARD DROP [0:0]\nCOMMIT\n")),)
    finding = found(but(firewall={"firewalld": FIREWALLD, "chains": dropping, "kinds": closed}), "forward-in")
    assert finding.remedy == found(but(firewall={"firewalld": FIREWALLD}), "firewalld").remedy
    assert "overlayd doctor again" in str(finding.advice)
