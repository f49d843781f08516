"""Which rule of nftables decides about a packet: rules as `nft -j list ruleset` (1.0.6) shows them."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from overlayd.ruleset.nftables import parse
from overlayd.ruleset.walk import Packet, Verdict
from tests.unit.doctor.values import base_chain, nft_rule

V4 = Packet(
    source=IPv4Address("10.5.2.2"),
    destination=IPv4Address("10.5.1.2"),
    in_device="overlay.1",
    out_device="docker0",
    local=False,
    answered=True,
)
V6 = replace(V4, source=IPv6Address("fd42:0:0:2::2"), destination=IPv6Address("fd42:0:0:1::2"))
WEB = replace(V4, protocol="tcp", port=80)
FORWARD = "inet mine forward"
DROP: dict[str, Any] = {"drop": None}
ACCEPT: dict[str, Any] = {"accept": None}
SETS: list[dict[str, Any]] = [
    {"set": {"family": "inet", "table": "mine", "name": name, "elem": elements}}
    for name, elements in {
        "networks": [{"prefix": {"addr": "10.5.0.0", "len": 16}}, {"range": ["10.6.0.1", "10.6.0.9"]}],
        "timed": [{"elem": {"val": "10.5.2.2", "expires": 3599}}],
        "pairs": [{"concat": ["overlay.1", {"prefix": {"addr": "10.5.2.0", "len": 24}}]}],
    }.items()
]


def meta(key: str) -> dict[str, Any]:
    return {"meta": {"key": key}}


def payload(protocol: str, field: str) -> dict[str, Any]:
    return {"payload": {"protocol": protocol, "field": field}}


def match(left: Any, right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def verdict(*rules: list[Any], packet: Packet = V4, policy: str = "accept", more: tuple[Any, ...] = ()) -> Verdict:
    """What a chain with these rules does with a packet."""
    items = [*SETS, base_chain(FORWARD, "forward", policy=policy), *(nft_rule(FORWARD, *rule) for rule in rules), *more]
    return parse(items)[0].trace(packet)


STATE, MARK = {"ct": {"key": "state"}}, meta("mark")
SADDR, DADDR = payload("ip", "saddr"), payload("ip", "daddr")
NETWORK = {"prefix": {"addr": "10.5.0.0", "len": 16}}
# Whether a packet is one of these: None where that cannot be said.
MATCHES: list[tuple[dict[str, Any], Packet, bool | None]] = [
    (match(meta("iifname"), "overlay.1"), V4, True),
    (match(meta("iifname"), "overlay*"), V4, True),
    (match(meta("iifname"), "eth*"), V4, False),
    (match(meta("oif"), "docker0", "!="), V4, False),
    (match(meta("oifname"), {"set": ["docker0", "br-1"]}), V4, True),
    (match(SADDR, NETWORK), V4, True),
    (match(SADDR, NETWORK, "!="), V4, False),
    (match(SADDR, NETWORK), V6, False),
    # Neither: it is no IPv4 packet at all.
    (match(SADDR, NETWORK, "!="), V6, False),
    (match(payload("ip6", "saddr"), {"prefix": {"addr": "fd42::", "len": 48}}), V6, True),
    (match(DADDR, {"range": ["10.5.1.1", "10.5.1.9"]}), V4, True),
    (match(DADDR, "10.5.1.2"), V4, True),
    (match(SADDR, "@networks"), V4, True),
    (match(SADDR, "@networks", "!="), V4, False),
    (match(SADDR, "@timed"), V4, True),
    (match(SADDR, "@gone"), V4, None),
    (match({"concat": [meta("iifname"), SADDR]}, "@pairs"), V4, True),
    (match({"concat": [meta("iifname"), meta("oifname")]}, {"set": [{"concat": ["eth0", "docker0"]}]}), V4, False),
    (match(meta("nfproto"), "ipv6"), V4, False),
    (match(meta("protocol"), "ip6"), V6, True),
    (match(meta("l4proto"), {"set": ["tcp", "udp"]}), WEB, True),
    (match(meta("l4proto"), "tcp"), V4, None),
    (match(payload("ip", "protocol"), "udp"), WEB, False),
    (match(payload("tcp", "dport"), {"set": [80, {"range": [8000, 9000]}]}), WEB, True),
    (match(payload("tcp", "dport"), 22, "!="), WEB, True),
    (match(payload("udp", "dport"), 22, "!="), WEB, False),
    (match(payload("th", "dport"), 100, "<"), WEB, True),
    (match(payload("tcp", "dport"), 80), V4, None),
    (match(payload("tcp", "sport"), 80), WEB, None),
    (match(payload("icmpv6", "type"), "echo-request"), replace(V6, protocol="ipv6-icmp"), None),
    (match(STATE, ["established", "related"], "in"), V4, False),
    (match(STATE, "new", "in"), V4, True),
    (match(STATE, {"set": ["established", "related"]}, "!="), V4, True),
    # As nft shows `ct state & (established | related) == 0`.
    (match(STATE, ["established", "related"], "!"), V4, True),
    (match(STATE, ["established", "new"], "!"), V4, False),
    (match({"ct": {"key": "status"}}, "dnat", "in"), V4, False),
    (match({"ct": {"key": "mark"}}, 5), V4, None),
    (match({"fib": {"result": "type", "flags": ["daddr"]}}, "local"), V4, False),
    (match({"fib": {"result": "type", "flags": ["daddr"]}}, "local"), replace(V4, local=True), True),
    (match({"fib": {"result": "oif", "flags": ["saddr", "iif"]}}, False), V4, False),
    (match({"fib": {"result": "oif", "flags": ["saddr", "iif"]}}, False), replace(V4, answered=None), None),
    (match({"&": [MARK, 4096]}, 4096), V4, False),
    (match({"&": [MARK, 4096]}, 4096), replace(V4, mark=0x1003), True),
    (match(MARK, 0), replace(V4, mark=None), None),
    (match(payload("ether", "saddr"), "02:00:00:00:00:01"), replace(V4, mac="02:00:00:00:00:01"), True),
    (match(meta("pkttype"), "broadcast"), V4, False),
    (match(meta("cgroup"), 7), V4, None),
    ({"limit": {"rate": 5, "burst": 5, "per": "second"}}, V4, None),
    ({"something": "new"}, V4, None),
    ({"counter": {"packets": 0, "bytes": 0}}, V4, True),
    ({"log": {"prefix": "x"}}, V4, True),
]


@pytest.mark.parametrize(("statement", "packet", "expected"), MATCHES, ids=[str(case[0]) for case in MATCHES])
def test_one_statement(statement: dict[str, Any], packet: Packet, expected: bool | None) -> None:
    found = verdict([statement, DROP], packet=packet)
    assert (found.dropped, bool(found.doubts)) == (expected is True, expected is None)
    # What is not sure to let in does not either.
    opened = verdict([statement, ACCEPT], packet=packet, policy="drop")
    assert (opened.dropped, bool(opened.doubts)) == (expected is not True, expected is None)


def test_who_decides_is_named() -> None:
    assert verdict(policy="drop").by == "policy drop of inet mine forward"
    assert verdict([{"reject": {"type": "icmpx", "expr": "admin-prohibited"}}]).by.startswith("inet mine forward: ")
    listing = "table inet mine {\n\tchain forward { # handle 1\n\t\tip saddr 10.5.0.0/16 drop # handle 7\n\t}\n}\n"
    items = [base_chain(FORWARD, "forward"), nft_rule(FORWARD, DROP)]
    assert parse(items, listing)[0].trace(V4).by == "inet mine forward: ip saddr 10.5.0.0/16 drop"


def chain(name: str, *rules: list[Any]) -> list[dict[str, Any]]:
    where = f"inet mine {name}"
    return [
        {"chain": {"family": "inet", "table": "mine", "name": name}},
        *(nft_rule(where, *rule) for rule in rules),
    ]


def test_chains_are_entered_by_jumps_gotos_and_maps() -> None:
    back = (*chain("other", [{"return": None}], [DROP]),)
    assert not verdict([{"jump": {"target": "other"}}], more=back).dropped
    after = verdict([{"jump": {"target": "other"}}], [DROP], more=back)
    assert after.dropped
    assert not verdict([{"goto": {"target": "other"}}], [DROP], more=back).dropped
    drops = (*chain("other", [DROP]),)
    ways = {"set": [["docker0", {"jump": {"target": "other"}}], ["eth0", ACCEPT]]}
    by_map = {"vmap": {"key": meta("oifname"), "data": ways}}
    assert verdict([by_map], more=drops).dropped
    assert not verdict([by_map], packet=replace(V4, out_device="br-1"), more=drops).dropped
    named = {"map": {"family": "inet", "table": "mine", "name": "ways", "map": "verdict", "elem": ways["set"]}}
    assert verdict([{"vmap": {"key": meta("oifname"), "data": "@ways"}}], more=(*drops, named)).dropped
    states = {"vmap": {"key": STATE, "data": {"set": [["established", ACCEPT], ["invalid", DROP]]}}}
    assert not verdict([states]).dropped
    rest = {"vmap": {"key": meta("oifname"), "data": {"set": [["eth0", ACCEPT], ["*", DROP]]}}}
    assert verdict([rest]).dropped
    unknown = verdict([{"vmap": {"key": payload("tcp", "dport"), "data": {"set": [[25, DROP]]}}}])
    assert (unknown.dropped, bool(unknown.doubts)) == (False, True)


def test_marks_are_set_for_the_rules_that_follow() -> None:
    ours = {"mangle": {"key": MARK, "value": {"|": [MARK, 4096]}}}
    asked = match({"&": [MARK, 4096]}, 4096)
    assert verdict([match(meta("iifname"), "overlay.1"), ours], [asked, ACCEPT], policy="drop").mark == 4096
    assert not verdict([match(meta("iifname"), "overlay.1"), ours], [asked, ACCEPT], policy="drop").dropped
    assert verdict([match(meta("iifname"), "eth0"), ours], [asked, ACCEPT], policy="drop").dropped


@pytest.mark.parametrize("statement", [{"queue": {"num": 3}}, {"xt": {"type": "target", "name": "REJECT"}}])
def test_what_others_decide_is_a_doubt(statement: dict[str, Any]) -> None:
    assert verdict([statement]).doubts
    assert verdict([{"xt": {"type": "match", "name": "set"}}, DROP]).doubts


@pytest.mark.parametrize(("flags", "shown"), [("dormant", ""), ("mine", "\tflags dormant\n")], ids=["1.0.9", "1.0.6"])
def test_a_table_that_is_dormant_decides_nothing(flags: str, shown: str) -> None:
    table = {"table": {"family": "inet", "name": "mine", "handle": 1, "flags": flags}}
    chain = base_chain(FORWARD, "forward", policy="drop")
    listing = f"table inet mine {{ # handle 1\n{shown}\tset s {{\n\t\tflags interval\n\t}}\n}}\n" if shown else ""
    assert parse([table, chain], listing) == ()
    assert [base.where for base in parse([table, chain], listing.replace(shown, "") or "#")] == [FORWARD]
    (owned,) = parse([table, chain], listing.replace("dormant", "owner") or "table inet mine {\n\tflags owner\n")
    assert owned.owned


def test_a_chain_is_one_of_its_families() -> None:
    for family, seen in (
        ("ip", (True, False)),
        ("ip6", (False, True)),
        ("inet", (True, True)),
        ("bridge", (False, False)),
    ):
        (base,) = parse([base_chain(f"{family} t c", "forward", policy="drop")])
        assert (base.sees(4), base.sees(6)) == seen
        assert base.may_drop
    (calm,) = parse([base_chain("bridge t c", "forward"), nft_rule("bridge t c", ACCEPT)])
    assert not calm.may_drop
