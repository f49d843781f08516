"""What the checks say of rules by iptables, ip6tables and nft: who drops, and where an accept helps."""

from __future__ import annotations

from ipaddress import IPv6Network
from typing import Any

import pytest

from overlayd.doctor.checks import examine
from overlayd.doctor.facts import Facts
from overlayd.doctor.finding import State
from overlayd.lib import marks
from overlayd.lib.iptables_save import parse
from overlayd.ruleset.nftables import BaseChain
from overlayd.ruleset.packet_path import IptablesRules
from tests.unit.doctor.test_checks import found
from tests.unit.doctor.values import RULES, WELL, base_chain, but, nft, nft_rule, rules

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
    apart = rules(text, docker={"settings": {"icc": False}})
    assert found(apart, "bridge-netfilter").state is State.OK


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


DUAL = {"network6": IPv6Network("fd42::/48"), "subnet6": IPv6Network("fd42:0:0:1::/64"), "ipv6": True}
BOTH = {**DUAL, "devices": ("overlay.1", "overlay-v6.1")}
OPEN = "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n"


def by(*kinds: tuple[str, str], **parts: dict[str, Any]) -> Facts:
    """The healthy host in both families, with the rules of these programs."""
    made = tuple(
        IptablesRules(command=command, version=6 if command.startswith("ip6") else 4, tables=parse(text))
        for command, text in kinds
    )
    return but(firewall={"kinds": made}, network={**BOTH, **parts.get("network", {})})


def drop(chain: str, rule: str, table: str = "filter") -> str:
    return f"*{table}\n:{chain} ACCEPT [0:0]\n-A {chain} {rule}\nCOMMIT\n"


@pytest.mark.parametrize(
    ("name", "rules6", "remedy"),
    [
        ("docker-raw", drop("PREROUTING", "-d fd42:0:0:1::7/128 ! -i docker0 -j DROP", "raw"), "-t raw -I PREROUTING"),
        ("forward-in", drop("FORWARD", "-o docker0 -j DROP"), "-I FORWARD"),
        ("forward-out", drop("POSTROUTING", "-s fd42::/16 -o overlay+ -j DROP", "mangle"), "-t mangle -I POSTROUTING"),
    ],
)
def test_ipv6_has_its_own_rules_devices_and_remedies(name: str, rules6: str, remedy: str) -> None:
    finding = found(by(("iptables", OPEN), ("ip6tables", rules6)), name)
    assert finding.state is State.PROBLEM
    assert "dropped by ip6tables: " in finding.found
    assert finding.remedy is not None
    assert finding.remedy.startswith(f"ip6tables {remedy}")
    assert "overlay-v6.1" in finding.remedy
    assert "overlay.1 " not in finding.remedy
    assert "10.5." not in finding.remedy
    assert finding.remedy.endswith("-s fd42::/48 -d fd42::/48 -j ACCEPT")


def test_what_drops_all_ipv4_on_the_ipv6_device_is_no_problem() -> None:
    facts = by(("iptables", drop("FORWARD", "-i overlay-v6.1 -j DROP")), ("ip6tables", OPEN))
    assert found(facts, "forward-in").state is State.OK


def test_a_network_of_ipv6_alone_is_judged_by_ip6tables() -> None:
    alone = {"network": None, "subnet": None, "devices": ("overlay-v6.1",)}
    facts = by(("iptables", drop("FORWARD", "-j DROP")), ("ip6tables", OPEN), network=alone)
    assert found(facts, "forward-in").state is State.OK
    facts = by(("ip6tables", drop("FORWARD", "-j DROP")), network=alone)
    assert found(facts, "forward-in").state is State.PROBLEM
    shut = but(host={"sysctls": {"net/ipv4/ip_forward": "0"}}, network={**BOTH, **alone})
    assert "ip-forward" not in [finding.name for _title, findings in examine(shut) for finding in findings]


def test_both_kinds_of_iptables_decide() -> None:
    facts = by(("iptables", RULES), ("iptables-legacy", drop("INPUT", "-p udp -j DROP")))
    finding = found(facts, "backend-port")
    assert finding.state is State.PROBLEM
    assert "dropped by iptables-legacy: filter -A INPUT -p udp -j DROP" in finding.found
    assert finding.remedy == "iptables-legacy -I INPUT -i eth0 -p udp --dport 8472 -j ACCEPT"


def test_each_chain_that_drops_is_named_with_its_own_remedy() -> None:
    text = "*mangle\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j DROP\nCOMMIT\n*security\n:FORWARD DROP [0:0]\nCOMMIT\n"
    finding = found(rules(text), "forward-in")
    way = "-i overlay.1 -o docker0 -s 10.5.0.0/16 -d 10.5.0.0/16 -j ACCEPT"
    assert finding.remedy == f"iptables -t mangle -I FORWARD {way} && iptables -t security -I FORWARD {way}"


def test_an_accept_goes_before_what_drops() -> None:
    behind = (
        "*filter\n:FORWARD ACCEPT [0:0]\n:DOCKER-USER - [0:0]\n-A FORWARD -j DROP\n-A FORWARD -j DOCKER-USER\nCOMMIT\n"
    )
    assert "-I FORWARD " in str(found(rules(behind), "forward-in").remedy)
    lines = behind.splitlines(keepends=True)
    before = "".join([*lines[:3], lines[4], lines[3], lines[5]])
    assert "-I DOCKER-USER " in str(found(rules(before), "forward-in").remedy)


def test_our_own_rules_are_the_daemons_to_mend() -> None:
    text = drop("PREROUTING", "-j OVERLAYD-PREROUTING", "raw")
    text = text.replace("COMMIT", "-A OVERLAYD-PREROUTING -i overlay.1 -j DROP\nCOMMIT")
    assert found(rules(text), "docker-raw").remedy == "systemctl restart overlayd"


@pytest.mark.parametrize("number", [0, 1, 2])
def test_another_networks_rules_are_its_own_daemons_to_mend(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "_number", 1)
    unit, name = ("overlayd.service", "overlayd@1", "overlayd@2")[number], marks.of(number).name
    by_iptables = rules(drop("FORWARD", f"-i docker0 -m comment --comment {name} -j DROP"))
    where = f"ip {name} forwarded"
    by_nft = but(firewall={"chains": nft(base_chain(where, "forward"), nft_rule(where, {"drop": None}))})
    for facts in (by_iptables, by_nft):
        said = marks.ours().adapt_commands(str(found(facts, "forward-out").remedy))
        assert said == f"systemctl restart {unit}"


@pytest.mark.parametrize("name", ["overlayd", "overlayd1"])
def test_what_overlayd_drops_only_of_some_is_as_it_should_be(name: str) -> None:
    text = drop("FORWARD", f"-i docker0 -p udp -m udp --dport 8472 -m comment --comment {name} -j DROP")
    assert found(rules(text), "forward-out").state is State.OK
    more = text.replace("COMMIT", "-A FORWARD -i docker0 -p udp -m udp --dport 9 -j DROP\nCOMMIT")
    finding = found(rules(more), "forward-out")
    assert finding.state is State.WARNING
    assert "--dport 9 " in finding.found


DROPS_ALL = nft_rule("inet mine fwd", {"drop": None})


def test_a_foreign_table_is_judged_like_the_rest() -> None:
    facts = but(firewall={"chains": nft(base_chain("inet mine fwd", "forward"), DROPS_ALL)})
    finding = found(facts, "forward-in")
    assert finding.state is State.PROBLEM
    assert "dropped by nft: inet mine fwd: " in finding.found
    way = 'iifname "overlay.1" oifname "docker0" ip saddr 10.5.0.0/16 ip daddr 10.5.0.0/16'
    assert finding.remedy == f"nft 'insert rule inet mine fwd {way} accept'"
    assert found(facts, "nftables").state is State.OK
    output = but(firewall={"chains": nft(base_chain("ip mine out", "output", policy="drop"))})
    finding = found(output, "backend-port")
    assert finding.remedy == "nft 'insert rule ip mine out oifname \"eth0\" udp dport 8472 accept'"


def test_what_cannot_be_overruled_is_said() -> None:
    table = {"table": {"family": "inet", "name": "mine", "flags": ["owner"]}}
    facts = but(firewall={"chains": nft(table, base_chain("inet mine fwd", "forward"), DROPS_ALL)})
    finding = found(facts, "forward-in")
    assert (finding.state, finding.remedy) == (State.PROBLEM, None)
    assert "not final in mine" in str(finding.advice)


def docker_nft(*, mark: bool) -> tuple[BaseChain, ...]:
    """What lets in a mark, or nothing."""
    where = "ip docker-bridges filter-FORWARD"
    asked = {"match": {"op": "==", "left": {"&": [{"meta": {"key": "mark"}}, 4096]}, "right": 4096}}
    accepts = [nft_rule(where, asked, {"accept": None})] if mark else []
    return nft(base_chain(where, "forward"), *accepts, nft_rule(where, {"drop": None}))


@pytest.mark.parametrize(("kind", "marks", "well"), [("none", False, False), ("iptables", True, True)])
def test_dockers_nftables_are_open_only_if_packets_are_marked(kind: str, marks: bool, well: bool) -> None:
    marking = "*mangle\n:FORWARD ACCEPT [0:0]\n-A FORWARD -i overlay.1 -j MARK --set-xmark 0x1000/0x1000\nCOMMIT\n"
    made = (IptablesRules(command="iptables", tables=parse(RULES + (marking if marks else ""))),)
    # What daemon.json says is no comfort.
    given = {"allow-direct-routing": True, "bridge-accept-fwmark": "0x1000/0x1000", "firewall-backend": "nftables"}
    facts = but(firewall={"kind": kind, "kinds": made, "chains": docker_nft(mark=True)}, docker={"settings": given})
    finding = found(facts, "docker-nftables")
    assert (finding.state is State.OK) == well, finding
    assert (found(facts, "forward-in").state is State.OK) == well
    if not well:
        assert "OVERLAYD_FIREWALL=auto" in str(finding.advice)


def test_a_docker_that_has_not_its_options_is_told_what_to_do() -> None:
    finding = found(but(firewall={"chains": docker_nft(mark=False)}), "docker-nftables")
    assert (finding.state, "firewall-backend" in str(finding.advice)) == (State.PROBLEM, True)


def test_rules_that_no_program_shows_are_unknown() -> None:
    finding = found(by(("iptables", RULES)), "iptables")
    assert (finding.state, "no ip6tables" in finding.found) == (State.UNKNOWN, True)
    assert found(by(("iptables", RULES), ("ip6tables", OPEN)), "iptables").state is State.OK
