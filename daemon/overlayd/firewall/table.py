"""The desired rules of nftables: one table of our own for each IP version, and whether the kernel has it. Pure: no I/O.

Rules are not compared as text: each release of nft prints them in its own way, and the table would be rewritten for
ever. Instead each rule has a comment with a hash of the whole table and the rule's number. So a rule that is missing,
moved, added or written by another version of overlayd is found.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace

from overlayd.errors import CommandFailed
from overlayd.firewall.rules import MASQUERADED_ELSEWHERE, MULTICAST, DesiredRules, Mark, Overlay
from overlayd.firewall.strangers import DROP, FilterRule, accept_rules, stranger_rules
from overlayd.lib.marks import ours
from overlayd.lib.quick_dataclass import dataclass

FAMILIES = {4: "ip", 6: "ip6"}
# The names of the sets of peers' public addresses and of their subnets.
NFT_PEERS, NFT_LEASED = "peers", "leased"
_ADDRESS = {"ip": "ipv4_addr", "ip6": "ipv6_addr"}
_ALL_BITS = 0xFFFFFFFF


@dataclass(frozen=True, kw_only=True)
class NftChain:
    """A base chain: its hook and priority (nft(8)), and its rules in order. Its policy is accept."""

    name: str
    type: str
    hook: str
    priority: int
    rules: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class NftTable:
    """Our table of one family, `ip` or `ip6`. `sets` are pairs: a set's name, and its addresses or networks."""

    family: str
    chains: tuple[NftChain, ...]
    sets: tuple[tuple[str, tuple[str, ...]], ...] = ()


def table(desired: DesiredRules, version: int, *, alone: bool = False) -> NftTable | None:
    """The table of one IP version; None where it would be empty. `alone`: this host has no iptables.

    In nftables an accept ends its own base chain only: it saves no packet from drops of iptables. Accepts before those
    drops are rules of iptables (chains.py, `accepts_only`).
    """
    overlay = desired.overlay(version)
    if overlay is None:
        return None
    strangers = stranger_rules(desired, version)
    chains = (
        # -300 is the priority of Docker's own raw-PREROUTING; -150 is after connection tracking and before any NAT.
        *_filter("raw", "prerouting", -300, strangers.raw, version),
        *_filter("prerouting", "prerouting", -150, strangers.prerouting, version),
        *_filter("delivered", "input", -150, strangers.input, version),
        *_filter("forwarded", "forward", -150, strangers.forward, version),
        *(_filter("input", "input", 0, strangers.input_last, version) if alone else ()),
        *_marking(desired, overlay),
        *_masquerading(desired, overlay),
    )
    rules = (*strangers.raw, *strangers.prerouting, *strangers.input, *strangers.forward, *strangers.input_last)
    sets = []
    if any(rule.uses_peers for rule in rules):
        sets.append((NFT_PEERS, tuple(sorted(map(str, desired.peers_of(version))))))
    if any(rule.uses_leased for rule in rules):
        sets.append((NFT_LEASED, tuple(sorted(map(str, desired.leased_of(version))))))
    return NftTable(family=FAMILIES[version], chains=chains, sets=tuple(sets)) if chains else None


def without_nat(found: NftTable) -> NftTable | None:
    """The same table for a kernel without NAT of this family; None where nothing is left of it."""
    chains = tuple(chain for chain in found.chains if chain.type != "nat")
    return replace(found, chains=chains) if chains else None


def write(found: NftTable) -> str:
    """The text for `nft -f -` that replaces the table in the kernel, in one transaction."""
    lines = [f"table {found.family} {ours().name} {{"]
    comments = iter(_comments(found))
    for name, members in found.sets:
        flags = " flags interval;" if name == NFT_LEASED else ""
        elements = f" elements = {{ {', '.join(members)} }}" if members else ""
        lines.append(f"\tset {name} {{ type {_ADDRESS[found.family]};{flags}{elements} }}")
    for chain in found.chains:
        lines.append(f"\tchain {chain.name} {{")
        lines.append(f"\t\ttype {chain.type} hook {chain.hook} priority {chain.priority}; policy accept;")
        lines += [f'\t\t{rule} comment "{next(comments)}"' for rule in chain.rules]
        lines.append("\t}")
    return removal(found.family) + "\n".join([*lines, "}", ""])


def removal(family: str) -> str:
    """The text for `nft -f -` that removes the table. It makes an empty one first, so a missing table is no error."""
    return f"table {family} {ours().name}\ndelete table {family} {ours().name}\n"


def matches(found: NftTable, listing: str) -> bool:
    """Whether `nft -j list table` printed that table. Raises CommandFailed if the text is not nft's JSON."""
    chains: list[tuple[object, ...]] = []
    rules: list[tuple[object, object]] = []
    sets: list[tuple[str, tuple[str, ...]]] = []
    other = 0
    for kind, entry in _entries(listing):
        if kind == "chain":
            keys = ("name", "type", "hook", "prio", "policy")
            chains.append(tuple(entry.get(key) for key in keys))
        elif kind == "rule":
            rules.append((entry.get("chain"), entry.get("comment")))
        elif kind == "set" and entry.get("type") == _ADDRESS[found.family]:
            sets.append((str(entry.get("name")), tuple(sorted(_elements(entry.get("elem"))))))
        elif kind not in ("metainfo", "table"):
            other += 1
    comments = iter(_comments(found))
    wanted_rules: list[tuple[object, object]] = [
        (chain.name, next(comments)) for chain in found.chains for _rule in chain.rules
    ]
    wanted_chains = [(chain.name, chain.type, chain.hook, chain.priority, "accept") for chain in found.chains]
    # nft prints the rules of a chain in their order, and the chains in any order.
    return (
        other == 0
        and sorted(sets) == sorted(found.sets)
        and sorted(chains, key=repr) == sorted(wanted_chains, key=repr)
        and _by_chain(rules) == _by_chain(wanted_rules)
    )


def tables(listing: str) -> set[tuple[str, str]]:
    """Family and name of each table that `nft -j list tables` printed. Raises CommandFailed."""
    return {(str(entry.get("family")), str(entry.get("name"))) for kind, entry in _entries(listing) if kind == "table"}


def sets(listing: str) -> dict[str, set[str]]:
    """The elements of each set that `nft -j list table` printed, by its name. Raises CommandFailed."""
    return {
        str(entry.get("name")): set(_elements(entry.get("elem"))) for kind, entry in _entries(listing) if kind == "set"
    }


def dropped(listing: str) -> Iterator[tuple[str, int]]:
    """The chain and the packets of each rule with a counter that `nft -j list table` printed. Raises CommandFailed."""
    for kind, entry in _entries(listing):
        expressions = entry.get("expr") if kind == "rule" else None
        for one in expressions if isinstance(expressions, list) else ():
            found = one.get("counter") if isinstance(one, dict) else None
            if isinstance(found, dict):
                yield str(entry.get("chain")), int(found.get("packets", 0))


def _by_chain(rules: list[tuple[object, object]]) -> dict[object, list[object]]:
    found: dict[object, list[object]] = {}
    for chain, comment in rules:
        found.setdefault(chain, []).append(comment)
    return found


def _entries(listing: str) -> list[tuple[str, dict[str, object]]]:
    try:
        entries = [next(iter(entry.items())) for entry in json.loads(listing)["nftables"]]
        return [(kind, dict(body)) for kind, body in entries]
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration, RecursionError) as error:
        raise CommandFailed(
            f"nft -j printed something else than JSON: {error!r}", hint="overlayd needs an nft that was built with JSON"
        ) from error


def _elements(found: object) -> Iterator[str]:
    for element in found if isinstance(found, list) else ():
        prefix = element.get("prefix") if isinstance(element, dict) else None
        yield f"{prefix.get('addr')}/{prefix.get('len')}" if isinstance(prefix, dict) else str(element)


def _comments(found: NftTable) -> list[str]:
    # Of the values alone: names of our classes must not make a table another one.
    chains = [(chain.name, chain.type, chain.hook, chain.priority, chain.rules) for chain in found.chains]
    digest = hashlib.sha256(repr((found.family, chains, found.sets)).encode()).hexdigest()[:12]
    count = sum(len(chain.rules) for chain in found.chains)
    return [f"{ours().name} {digest} {number}" for number in range(1, count + 1)]


def _masquerading(desired: DesiredRules, overlay: Overlay) -> list[NftChain]:
    if not desired.masquerade:
        return []
    network, subnet = overlay.network, overlay.subnet
    ip = FAMILIES[network.version]
    mark = f"{MASQUERADED_ELSEWHERE:#x}"
    rules = (
        f"meta mark and {mark} == {mark} return",
        f"{ip} saddr {subnet} {ip} daddr {network} return",
        f"{ip} saddr {network} {ip} daddr {subnet} return",
        f"{ip} saddr != {network} {ip} daddr {subnet} return",
        f"{ip} saddr {network} {ip} daddr != {MULTICAST[network.version]} masquerade fully-random",
        f"{ip} saddr != {network} {ip} daddr {network} masquerade fully-random",
    )
    # 100 is srcnat; nft knows the names of priorities from 0.9.1 on.
    return [NftChain(name="postrouting", type="nat", hook="postrouting", priority=100, rules=rules)]


def _marking(desired: DesiredRules, overlay: Overlay) -> list[NftChain]:
    if desired.mark is None or not desired.devices:
        return []
    ip = FAMILIES[overlay.network.version]
    rules = tuple(
        f"{_match(rule, ip)} meta mark set {_marked(desired.mark)}" for rule in accept_rules(desired, overlay)
    )
    # Before Docker's filter-FORWARD, whose priority is 0. Not in prerouting: routing comes after that, and may depend
    # on marks.
    return [NftChain(name="forward", type="filter", hook="forward", priority=-10, rules=rules)]


def _marked(mark: Mark) -> str:
    if mark.mask == _ALL_BITS:
        return f"{mark.value:#x}"
    return f"meta mark and {_ALL_BITS & ~mark.mask:#x} or {mark.value:#x}"


def _filter(name: str, hook: str, priority: int, rules: tuple[FilterRule, ...], version: int) -> list[NftChain]:
    written = tuple(_rule(rule, FAMILIES[version]) for rule in rules)
    return [NftChain(name=name, type="filter", hook=hook, priority=priority, rules=written)] if written else []


def _rule(rule: FilterRule, ip: str) -> str:
    counted = "counter " if rule.verdict == DROP else ""
    return f"{_match(rule, ip)} {counted}{rule.verdict}"


def _match(rule: FilterRule, ip: str) -> str:
    words = [
        rule.in_device and f"iifname {_name(rule.in_device)}",
        rule.out_device and f"oifname {_name(rule.out_device)}",
        rule.source and f"{ip} saddr {rule.source}",
        rule.destination and f"{ip} daddr {rule.destination}",
        rule.protocol and f"meta l4proto {rule.protocol}",
        rule.port and f"{rule.protocol} dport {rule.port}",
        rule.source_mac and f"ether saddr {rule.source_mac}",
        None if rule.source_peer is None else f"{ip} saddr {'' if rule.source_peer else '!= '}@{NFT_PEERS}",
        None if rule.destination_peer is None else f"{ip} daddr {'' if rule.destination_peer else '!= '}@{NFT_PEERS}",
        None if rule.source_leased is None else f"{ip} saddr {'' if rule.source_leased else '!= '}@{NFT_LEASED}",
        None
        if rule.destination_leased is None
        else f"{ip} daddr {'' if rule.destination_leased else '!= '}@{NFT_LEASED}",
        "fib daddr type local" if rule.local else None,
        "ct state != { established, related }" if rule.not_established else None,
    ]
    return " ".join(word for word in words if word)


def _name(device: str) -> str:
    return f'"{device[:-1]}*"' if device.endswith("+") else f'"{device}"'
