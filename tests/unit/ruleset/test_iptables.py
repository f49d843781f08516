"""Which rule decides about a packet: rules as `iptables-save` prints them."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from overlayd.lib.iptables_save import parse
from overlayd.ruleset.iptables import addresses_in, trace
from overlayd.ruleset.walk import Packet, Verdict

PACKET = Packet(
    source=IPv4Address("10.5.2.2"),
    destination=IPv4Address("10.5.1.2"),
    in_device="overlay.1",
    out_device="docker0",
)


def forward(*rules: str, policy: str = "ACCEPT", packet: Packet = PACKET) -> Verdict:
    chains = {rule.split()[1] for rule in rules} - {"FORWARD"}
    lines = ["*filter", f":FORWARD {policy} [0:0]", *(f":{name} - [0:0]" for name in chains), *rules, "COMMIT"]
    return trace(parse("\n".join(lines)), "filter", "FORWARD", packet)


def test_the_policy_decides_where_no_rule_does() -> None:
    assert not forward().dropped
    assert forward(policy="DROP") == Verdict(dropped=True, by="policy DROP of filter FORWARD")
    assert not trace({}, "raw", "PREROUTING", PACKET).dropped


@pytest.mark.parametrize(
    ("rule", "dropped"),
    [
        ("-j DROP", True),
        ("-i overlay.1 -j DROP", True),
        ("-i overlay+ -j REJECT --reject-with icmp-port-unreachable", True),
        ("-i eth0 -j DROP", False),
        ("! -i docker0 -o docker0 -j DROP", True),
        ("! -i overlay.1 -j DROP", False),
        ("-s 10.5.0.0/16 -d 10.5.1.2/32 -j DROP", True),
        ("! -s 10.5.0.0/16 -j DROP", False),
        ("-m conntrack --ctstate RELATED,ESTABLISHED -j DROP", False),
        ("-m conntrack --ctstate INVALID,NEW -j DROP", True),
        ('-m comment --comment "for -j ACCEPT and more" -j DROP', True),
        ("-j LOG --log-prefix dropped", False),
        ("-j RETURN", False),
    ],
)
def test_one_rule(rule: str, dropped: bool) -> None:
    verdict = forward(f"-A FORWARD {rule}")
    assert (verdict.dropped, verdict.doubts) == (dropped, ())
    if dropped:
        assert verdict.by == f"filter -A FORWARD {rule}"


def test_chains_are_walked_and_left_again() -> None:
    rules = (
        "-A FORWARD -j DOCKER-USER",
        "-A FORWARD -j DOCKER-FORWARD",
        "-A FORWARD -j ACCEPT",
        "-A DOCKER-USER -i eth9 -j DROP",
        "-A DOCKER-USER -j RETURN",
        "-A DOCKER-USER -j DROP",
        "-A DOCKER-FORWARD -o docker0 -j DOCKER",
        "-A DOCKER ! -i docker0 -o docker0 -j DROP",
    )
    assert forward(*rules).by == "filter -A DOCKER ! -i docker0 -o docker0 -j DROP"
    assert not forward("-A DOCKER-USER -i overlay.1 -j ACCEPT", *rules).dropped


def test_goto_does_not_come_back_to_its_chain() -> None:
    verdict = forward("-A FORWARD -g OTHER", "-A FORWARD -j ACCEPT", "-A OTHER -i eth9 -j ACCEPT", policy="DROP")
    assert verdict.dropped


def test_what_cannot_be_judged_is_a_doubt() -> None:
    rule = "-A FORWARD -m set --match-set bad src -j DROP"
    assert forward(rule) == Verdict(
        dropped=False, by="policy ACCEPT of filter FORWARD", doubts=(f"filter {rule}",), met=(f"filter {rule}",)
    )
    # A doubt about what ends the same way is none.
    assert forward(rule, "-A FORWARD -j DROP").doubts == ()
    inner = forward("-A FORWARD -m statistic --mode random -j X", "-A X -j ACCEPT", policy="DROP")
    assert (inner.dropped, inner.doubts) == (True, ("filter -A X -j ACCEPT",))


def test_protocol_and_port_count_only_where_known() -> None:
    rule = "-A FORWARD -p udp -m udp --dport 8000:8500 -j DROP"
    vxlan = Packet(source=PACKET.source, destination=PACKET.destination, in_device="eth0", protocol="udp", port=8472)
    assert forward(rule, packet=vxlan).dropped
    assert not forward(rule.replace("udp", "tcp"), packet=vxlan).dropped
    assert not forward("-A FORWARD -p udp -m multiport --dports 53,123 -j DROP", packet=vxlan).dropped
    assert forward(rule).doubts == (f"filter {rule}",)


def test_a_port_of_either_end_counts_where_it_is_the_receivers() -> None:
    vxlan = replace(PACKET, protocol="udp", port=8472)
    rule = "-A FORWARD -p udp -m multiport --ports 53,8472 -j DROP"
    assert forward(rule, packet=vxlan).dropped
    # It may be the sender's.
    assert forward(rule, packet=replace(vxlan, port=8473)).doubts == (f"filter {rule}",)


def test_a_loop_of_chains_ends() -> None:
    assert not forward("-A FORWARD -j X", "-A X -j Y", "-A Y -j X").dropped


def test_dockers_rules_for_single_containers_are_found() -> None:
    saved = "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -d 10.5.1.9/32 ! -i docker0 -j DROP\n"
    saved += "-A PREROUTING -d 10.5.1.0/24 -j DROP\n-A PREROUTING -d 10.6.1.9/32 -j DROP\nCOMMIT\n"
    found = addresses_in(parse(saved), "raw", "PREROUTING", IPv4Network("10.5.1.0/24"))
    assert found == [IPv4Address("10.5.1.9")]


def test_members_of_known_sets_and_addresses_of_this_host_are_told_from_others() -> None:
    rule = "-A FORWARD {}-m set {}--match-set PEERS src -j DROP"
    known = replace(PACKET, sets={"PEERS": frozenset([str(PACKET.source), "192.0.2.0/24"])})
    for packet, dropped in ((known, True), (replace(known, source=IPv4Address("192.0.2.9")), True)):
        assert forward(rule.format("", ""), packet=packet).dropped is dropped
        assert forward(rule.format("", "! "), packet=packet).dropped is not dropped
    other = replace(known, source=IPv4Address("198.51.100.1"))
    assert not forward(rule.format("", ""), packet=other).dropped
    unknown = forward(rule.format("", ""), packet=PACKET)
    assert not unknown.dropped
    assert unknown.doubts
    local = "-A FORWARD -m addrtype --dst-type LOCAL -j DROP"
    assert forward(local, packet=replace(PACKET, local=True)).dropped
    assert not forward(local, packet=replace(PACKET, local=False)).dropped
    assert forward(local, packet=PACKET).doubts
    router = "-A FORWARD -m mac --mac-source 02:00:00:00:00:FE -j DROP"
    assert forward(router, packet=replace(PACKET, mac="02:00:00:00:00:fe")).dropped
    assert not forward(router, packet=replace(PACKET, mac="02:00:00:00:00:01")).doubts


def test_marks_are_set_and_asked_for() -> None:
    marks = (
        "-A FORWARD -i overlay.1 -j MARK --set-xmark 0x1000/0x1000",
        "-A FORWARD -m mark --mark 0x1000/0x1000 -j DROP",
    )
    assert forward(*marks).dropped
    assert forward(*marks).mark == 0x1000
    assert not forward(*reversed(marks)).dropped
    assert forward(marks[0].replace("-i overlay.1", "-m set --match-set some src"), marks[1]).doubts


def test_what_may_leave_a_chain_makes_the_rest_of_it_a_doubt() -> None:
    verdict = forward("-A FORWARD -m set --match-set good src -j RETURN", "-A FORWARD -j DROP")
    assert not verdict.dropped
    assert verdict.doubts == ("filter -A FORWARD -j DROP",)
