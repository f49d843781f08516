"""What is wanted, as an nftables table; and whether a listing is that table."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest

from overlayd.backends.listening import Listening
from overlayd.errors import CommandFailed
from overlayd.firewall.rules import NOTHING, Mark, Overlay, desired
from overlayd.firewall.table import NftTable, matches, table, tables, without_nat, write

V4 = Overlay(network=IPv4Network("10.5.0.0/16"), subnet=IPv4Network("10.5.52.0/24"))
V6 = Overlay(network=IPv6Network("fd00:5::/48"), subnet=IPv6Network("fd00:5:0:52::/64"))
PLAIN = desired(overlays=[V4, V6], devices=("overlay.1",), masquerade=True)
DOCKER = desired(
    overlays=[V4, V6], devices=("overlay.1",), masquerade=True, daemon_json={"firewall-backend": "nftables"}
)


def made(version: int = 4, wanted: Any = DOCKER) -> NftTable:
    found = table(wanted, version)
    assert found is not None
    return found


def listed(found: NftTable) -> list[dict[str, Any]]:
    """What nft -j would print of what `write` wrote, read from the text itself."""
    entries: list[dict[str, Any]] = [{"metainfo": {"version": "1"}}, {"table": {"family": "ip", "name": "overlayd"}}]
    # An empty one; a test that has members adds its own.
    entries += [{"set": {"name": name, "type": "ipv4_addr"}} for name, members in found.sets if not members]
    chain = ""
    for line in write(found).splitlines():
        words = line.split()
        if line.startswith("\tchain"):
            chain = words[1]
        elif words[0] == "type":
            prio = int(words[5].rstrip(";"))
            body = {"name": chain, "type": words[1], "hook": words[3], "prio": prio, "policy": "accept"}
            entries.insert(2, {"chain": body})
        elif line.startswith("\t\t"):
            entries.append({"rule": {"chain": chain, "comment": line.split('"')[-2], "handle": len(entries)}})
    return entries


def test_masquerading_has_flannels_order() -> None:
    chain = made(wanted=PLAIN).chains[-1]
    assert (chain.type, chain.hook, chain.priority) == ("nat", "postrouting", 100)
    assert chain.rules == (
        "meta mark and 0x4000 == 0x4000 return",
        "ip saddr 10.5.52.0/24 ip daddr 10.5.0.0/16 return",
        "ip saddr 10.5.0.0/16 ip daddr 10.5.52.0/24 return",
        "ip saddr != 10.5.0.0/16 ip daddr 10.5.52.0/24 return",
        "ip saddr 10.5.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random",
        "ip saddr != 10.5.0.0/16 ip daddr 10.5.0.0/16 masquerade fully-random",
    )
    assert made(6, PLAIN).chains[-1].rules[4] == ("ip6 saddr fd00:5::/48 ip6 daddr != ff00::/8 masquerade fully-random")


def test_docker_is_let_in_by_its_mark_and_everybody_else_kept_out() -> None:
    chains = {chain.name: chain.rules for chain in made().chains}
    assert chains["forward"] == (
        'iifname "overlay.1" oifname "docker0" ip saddr 10.5.0.0/16 ip daddr 10.5.52.0/24 '
        "meta mark set meta mark and 0xffffefff or 0x1000",
    )
    assert chains["raw"] == (
        'iifname "overlay.1" ip saddr 10.5.52.0/24 counter drop',
        'iifname "overlay.1" ip saddr 10.5.0.0/16 ip daddr 10.5.52.0/24 accept',
        'iifname "overlay.1" counter drop',
    )
    assert chains["prerouting"][-1] == "ip daddr 10.5.0.0/16 ct state != { established, related } counter drop"
    assert 'iifname "br-*" accept' in chains["prerouting"]
    whole = replace(DOCKER, mark=Mark(value=7, mask=0xFFFFFFFF))
    (forward,) = (chain for chain in made(wanted=whole).chains if chain.name == "forward")
    assert forward.rules[0].endswith("meta mark set 0x7")


def test_nothing_wanted_is_no_table() -> None:
    assert table(NOTHING, 4) is None
    assert table(replace(PLAIN, overlays=(V4,)), 6) is None
    kept = without_nat(made())
    assert kept is not None
    assert [chain.name for chain in kept.chains] == ["raw", "prerouting", "forward"]


def test_alone_it_keeps_peers_from_the_hosts_ports_too() -> None:
    alone = table(PLAIN, 4, alone=True)
    assert alone is not None
    (chain,) = (chain for chain in alone.chains if chain.name == "input")
    assert (chain.hook, chain.priority) == ("input", 0)
    assert "input" not in [chain.name for chain in made(wanted=PLAIN).chains]


def test_peers_are_a_set_of_the_table_and_are_compared() -> None:
    port = Listening(version=4, protocol="udp", port=8472)
    one, two = IPv4Address("198.18.0.9"), IPv4Address("198.18.0.10")
    with_peers = replace(DOCKER, listens=(port,), peers=frozenset([two, one, IPv6Address("2001:2::9")]))
    found = made(wanted=with_peers)
    (name, members), leased = found.sets
    assert (name, members) == ("peers", ("198.18.0.10", "198.18.0.9"))
    assert leased == ("leased", ())
    assert "set peers { type ipv4_addr; elements = { 198.18.0.10, 198.18.0.9 } }" in write(found)
    entries = listed(found)
    there = {"set": {"family": "ip", "name": "peers", "table": "overlayd", "type": "ipv4_addr", "elem": list(members)}}
    assert matches(found, json.dumps({"nftables": [*entries, there]}))
    assert not matches(found, json.dumps({"nftables": entries}))
    there["set"]["elem"] = ["198.18.0.9"]
    assert not matches(found, json.dumps({"nftables": [*entries, there]}))
    # Another peer, another hash.
    fewer = made(wanted=replace(with_peers, peers=frozenset([one])))
    assert not matches(fewer, json.dumps({"nftables": [*entries, there]}))
    assert "elements" not in write(made(wanted=replace(with_peers, peers=frozenset())))


def test_it_is_written_in_the_place_of_the_one_before() -> None:
    lines = write(made(6)).splitlines()
    assert lines[:3] == ["table ip6 overlayd", "delete table ip6 overlayd", "table ip6 overlayd {"]


def test_a_listing_of_the_table_is_recognised_whatever_the_order_of_its_chains() -> None:
    entries = listed(made())
    assert matches(made(), json.dumps({"nftables": entries}))
    chains = [entry for entry in entries if "chain" in entry]
    others = [entry for entry in entries if "chain" not in entry]
    assert matches(made(), json.dumps({"nftables": others + chains}))


def test_every_difference_is_seen() -> None:
    entries = listed(made())
    for number, entry in enumerate(entries):
        if "rule" in entry or "chain" in entry:
            assert not matches(made(), json.dumps({"nftables": entries[:number] + entries[number + 1 :]}))
    rules = [number for number, entry in enumerate(entries) if "rule" in entry]
    swapped = list(entries)
    swapped[rules[-1]], swapped[rules[-2]] = swapped[rules[-2]], swapped[rules[-1]]
    assert not matches(made(), json.dumps({"nftables": swapped}))
    assert not matches(made(), json.dumps({"nftables": [*entries, {"rule": {"chain": "forward"}}]}))
    assert not matches(made(), json.dumps({"nftables": [*entries, {"set": {"name": "more"}}]}))
    # The same rules with other addresses in them have another hash.
    other = replace(DOCKER, overlays=(replace(V4, subnet=IPv4Network("10.5.53.0/24")),))
    assert not matches(made(wanted=other), json.dumps({"nftables": entries}))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"nftables": [1]}', '{"nftables": [{"rule": 1}]}'])
def test_what_is_not_nfts_json_is_said(text: str) -> None:
    with pytest.raises(CommandFailed, match="nft -j"):
        matches(made(), text)


def test_tables_are_told_by_family_and_name() -> None:
    text = json.dumps({"nftables": [{"metainfo": {}}, {"table": {"family": "ip", "name": "overlayd", "handle": 1}}]})
    assert tables(text) == {("ip", "overlayd")}
