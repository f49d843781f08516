"""What the checks say of rules by iptables, ip6tables and nft: who drops, and where an accept helps."""

from __future__ import annotations

import pytest

from overlayd.doctor.finding import State
from tests.unit.doctor.test_checks import found
from tests.unit.doctor.values import WELL, rules

DOCKER_28 = """\
*raw
:PREROUTING ACCEPT [0:0]
-A PREROUTING -d 10.5.1.7/32 ! -i docker0 -j DROP
COMMIT
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
:DOCKER-USER - [0:0]
:DOCKER-FORWARD - [0:0]
-A DOCKER-FORWARD -o docker0 -j DOCKER
-A DOCKER-FORWARD -i docker0 -j ACCEPT
:DOCKER - [0:0]
-A DOCKER ! -i docker0 -o docker0 -j DROP
COMMIT
"""


def test_dockers_drops_are_found_where_our_doors_are_missing() -> None:
    facts = rules(DOCKER_28)
    raw, inward = found(facts, "docker-raw"), found(facts, "forward-in")
    assert "10.5.1.7" in raw.found
    assert raw.remedy == ("iptables -t raw -I PREROUTING -i overlay.1 -s 10.5.0.0/16 -d 10.5.0.0/16 -j ACCEPT")
    assert "-A DOCKER ! -i docker0 -o docker0 -j DROP" in inward.found
    assert inward.remedy == ("iptables -I DOCKER-USER -i overlay.1 -o docker0 -s 10.5.0.0/16 -d 10.5.0.0/16 -j ACCEPT")
    assert found(facts, "forward-out").state is State.OK
    port = found(facts, "backend-port")
    assert port.remedy == "iptables -I INPUT -i eth0 -p udp --dport 8472 -j ACCEPT"
    assert "policy DROP of filter INPUT" in port.found


def test_a_published_port_is_no_door_for_the_rest() -> None:
    published = "-A DOCKER -d 10.5.1.7/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT\n"
    text = DOCKER_28.replace("-A DOCKER !", f"{published}-A DOCKER !").replace("10.5.1.7", "10.5.1.2")
    assert found(rules(text), "forward-in").state is State.PROBLEM


def test_packets_on_one_bridge_pass_forward_only_with_br_netfilter() -> None:
    text = "*filter\n:FORWARD DROP [0:0]\nCOMMIT\n"
    assert found(rules(text), "bridge-netfilter").remedy == "iptables -I FORWARD -i docker0 -o docker0 -j ACCEPT"
    off = rules(text, host={"sysctls": {**WELL.host.sysctls, "net/bridge/bridge-nf-call-iptables": "0"}})
    assert found(off, "bridge-netfilter").state is State.OK


def test_a_rule_that_cannot_be_judged_is_a_warning() -> None:
    text = "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -m set --match-set good src -j ACCEPT\nCOMMIT\n"
    assert found(rules(text), "forward-in").state is State.WARNING


@pytest.mark.parametrize(
    ("backend", "rule", "dropped"),
    [
        ("udp", "-p udp -m udp --dport 8285 -j DROP", True),
        ("wireguard", "-p udp -m udp --dport 51820 -j DROP", True),
        ("ipip", "-p ipencap -j DROP", True),
        ("vxlan", "-p udp -m udp --dport 8285 -j DROP", False),
    ],
)
def test_each_backend_has_its_port(backend: str, rule: str, dropped: bool) -> None:
    text = f"*filter\n:INPUT ACCEPT [0:0]\n-A INPUT {rule}\nCOMMIT\n"
    finding = found(rules(text, network={"backend": backend}), "backend-port")
    assert (finding.state is State.PROBLEM) == dropped
