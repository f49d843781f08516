"""Which rules forbid the fast path: every one that is neither Docker's nor ours and has a say about such packets."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from overlayd.fastpath.allowed import PacketWay, rule_in_the_way
from overlayd.lib.iptables_save import parse
from overlayd.ruleset import nftables
from overlayd.ruleset.packet_path import IptablesRules

WAY = PacketWay(
    own=IPv4Network("10.5.7.0/24"),
    network=IPv4Network("10.5.0.0/16"),
    bridge="docker0",
    devices=("overlay.1",),
    underlay="eth0",
    address=IPv4Address("198.18.1.2"),
    peers=IPv4Network("0.0.0.0/0"),
    port=8472,
)
OURS = """\
*raw
:PREROUTING ACCEPT [0:0]
:OVERLAYD-PREROUTING - [0:0]
-A PREROUTING -m comment --comment overlayd -j OVERLAYD-PREROUTING
-A OVERLAYD-PREROUTING -s 10.5.7.0/24 -i overlay.1 -m comment --comment overlayd -j DROP
-A OVERLAYD-PREROUTING -s 10.5.0.0/16 -d 10.5.7.0/24 -i overlay.1 -m comment --comment overlayd -j ACCEPT
-A OVERLAYD-PREROUTING -i overlay.1 -m comment --comment overlayd -j DROP
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OVERLAYD-INPUT - [0:0]
-A INPUT -m comment --comment overlayd -j OVERLAYD-INPUT
-A OVERLAYD-INPUT -p udp -m set ! --match-set OVERLAYD-PEERS4 src -m comment --comment overlayd -j DROP
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
:OVERLAYD-FORWARD - [0:0]
-A FORWARD -m comment --comment overlayd -j OVERLAYD-FORWARD
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER -d 10.5.7.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER-USER -j RETURN
-A OVERLAYD-FORWARD -s 10.5.0.0/16 -d 10.5.7.0/24 -i overlay.1 -m comment --comment overlayd -j ACCEPT
-A OVERLAYD-FORWARD -s 10.5.7.0/24 -i docker0 -m comment --comment overlayd -j ACCEPT
COMMIT
"""


def judged(
    *more: str, nft: tuple[nftables.BaseChain, ...] | None = (), chain: str = "EMPTY", way: PacketWay = WAY
) -> str | None:
    """What forbids it, with these rules before all others: `TABLE -A CHAIN …`. `chain` is one more in filter."""
    lines = OURS.replace(":DOCKER -", f":{chain} - [0:0]\n:DOCKER -").splitlines()
    for rule in more:
        table, _, text = rule.partition(" ")
        if f"*{table}" not in lines:
            lines += [f"*{table}", *(f":{one} ACCEPT [0:0]" for one in ("PREROUTING", "POSTROUTING")), "COMMIT"]
        at = lines.index(f"*{table}")
        at = next(number for number in range(at, len(lines)) if lines[number][:3] in ("-A ", "COM"))
        lines.insert(at, text)
    kinds = [IptablesRules(command="iptables", tables=parse("\n".join(lines) + "\n"))]
    return rule_in_the_way(kinds, nft, way)


def test_docker_s_rules_and_ours_do_not() -> None:
    assert judged() is None


@pytest.mark.parametrize(
    "rule",
    [
        "filter -A FORWARD -s 10.5.7.0/24 -j LOG",
        "filter -A FORWARD -d 10.5.9.0/24 -j DROP",
        "filter -A FORWARD -d 10.5.7.2/32 -p tcp -m tcp --dport 22 -j DROP",
        "filter -A FORWARD -m conntrack --ctstate INVALID -j DROP",
        "filter -A FORWARD -m limit --limit 5/sec -j ACCEPT",
        "filter -A DOCKER-USER -i eth0 -o docker0 -j DROP",
        "filter -A FORWARD -i docker0 -m comment --comment counted",
        "mangle -A PREROUTING -i docker0 -j MARK --set-xmark 0x1/0xffffffff",
        "raw -A PREROUTING -d 10.5.7.2/32 ! -i docker0 -j DROP",
        "nat -A POSTROUTING -s 10.5.7.0/24 -j MASQUERADE",
        "filter -A INPUT -p udp -m udp --dport 8472 -j DROP",
        "filter -A FORWARD -p tcp -m set --match-set OVERLAYD-LEASED4 dst -m tcp --dport 80 -j DROP",
        "filter -A OUTPUT -d 198.18.1.9/32 -j REJECT --reject-with icmp-port-unreachable",
    ],
)
def test_a_rule_of_an_administrator_does(rule: str) -> None:
    found = judged(rule)
    if rule.startswith("filter -A DOCKER-USER"):
        # Packets come by another device.
        assert found is None
    else:
        assert found is not None
        assert rule.partition(" -A ")[2].split(" ", 1)[0] in found


@pytest.mark.parametrize(
    "rule",
    [
        "filter -A INPUT -p tcp -m tcp --dport 22 -j DROP",
        "filter -A FORWARD -s 192.0.2.0/24 -j DROP",
        "filter -A FORWARD -i virbr0 -o virbr0 -j ACCEPT",
        "filter -A FORWARD -p icmp -j DROP",
        "nat -A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE",
        "filter -A INPUT -p udp -m udp --dport 8472 -j ACCEPT",
    ],
)
def test_a_rule_about_other_packets_does_not(rule: str) -> None:
    assert judged(rule) is None


@pytest.mark.parametrize("chain", ["DOCKER", "DOCKER-BLOCK"])
def test_in_docker_s_chains_and_in_those_with_such_a_name(chain: str) -> None:
    dropped = f"{chain} -d 10.5.7.2/32 -p tcp -m tcp --dport 22 -j DROP"
    assert dropped in (judged(f"filter -A {dropped}", f"filter -A FORWARD -j {chain}", chain=chain) or "")


def test_a_rule_about_the_interface_of_plain_routes_does_where_one_leads_to_a_peer() -> None:
    rule = "filter -A FORWARD -i eth0 -o docker0 -p tcp -m tcp --dport 22 -j DROP"
    assert judged(rule) is None
    assert judged(rule, way=replace(WAY, devices=("overlay.1", "eth0"))) == rule


def test_rules_that_could_not_be_read_do() -> None:
    assert judged(nft=None) == "the rules of nftables could not be read"
    unread = IptablesRules(command="iptables-legacy", problem="Permission denied")
    assert rule_in_the_way([unread], (), WAY) == "iptables-legacy: Permission denied"


@pytest.mark.parametrize(
    ("family", "hook"), [("netdev", "ingress"), ("bridge", "forward"), ("inet", "forward"), ("inet", "ingress")]
)
@pytest.mark.parametrize("policy", ["accept", "drop"])
def test_a_rule_or_policy_of_nftables_does_also_below_ip(family: str, hook: str, policy: str) -> None:
    table = {"family": family, "table": "mine", "handle": 1}
    parsed = nftables.parse(
        [
            {"table": {"family": family, "name": "mine", "handle": 1}},
            {"chain": {**table, "name": "c", "type": "filter", "hook": hook, "prio": 0, "policy": policy}},
            *([{"rule": {**table, "chain": "c", "expr": [{"drop": None}]}}] if policy == "accept" else []),
        ]
    )
    assert f"{family} mine c" in (judged(nft=parsed) or "")


def test_a_set_that_rules_fill_may_have_any_address() -> None:
    table = {"family": "ip", "table": "mine", "handle": 1}
    source = {"payload": {"protocol": "ip", "field": "saddr"}}
    for flags, forbids in ((["timeout", "dynamic"], True), ([], False)):
        parsed = nftables.parse(
            [
                {"table": {"family": "ip", "name": "mine", "handle": 1}},
                {"set": {**table, "name": "bad", "type": "ipv4_addr", "flags": flags}},
                {"chain": {**table, "name": "c", "type": "filter", "hook": "forward", "prio": 0, "policy": "accept"}},
                {
                    "rule": {
                        **table,
                        "chain": "c",
                        "expr": [{"match": {"op": "==", "left": source, "right": "@bad"}}, {"drop": None}],
                    }
                },
            ]
        )
        assert (judged(nft=parsed) is not None) is forbids


def test_the_programs_source_says_how_it_may_be_used() -> None:
    first = (Path(__file__).parents[3] / "daemon/bpf/fastpath.bpf.c").read_text().splitlines()[0]
    assert "SPDX-License-Identifier" in first
