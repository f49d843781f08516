"""Which rule of iptables decides about a packet. Pure: the text of `iptables-save` in, a verdict out.

Not every match can be judged from outside (sets, rates, marks): a rule with one of those counts as a doubt.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

# Chains call each other; a loop is refused by the kernel, a depth like this is nobody's.
_DEEPEST = 32


@dataclass(frozen=True, kw_only=True)
class Chain:
    """A chain: its rules without the `-A NAME` in front, and its policy, None for a chain that somebody made."""

    policy: str | None = None
    rules: tuple[str, ...] = ()


Tables = Mapping[str, Mapping[str, Chain]]
# Whether it is dropped, and by which rule.
_Decision = tuple[bool, str]


@dataclass(frozen=True, kw_only=True)
class Packet:
    """The first packet of a connection, on its way through this host. None: does not matter, or not known.

    `mac` is the link's address that it comes from. `local`: it is for an address of this host. `sets` are the members
    of sets of addresses, by name, as far as known.
    """

    source: IPv4Address
    destination: IPv4Address
    in_device: str
    out_device: str = ""
    protocol: str | None = None
    port: int | None = None
    mac: str | None = None
    local: bool | None = None
    sets: Mapping[str, frozenset[str]] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What happens to a packet in one base chain.

    `by` is the rule, with its chain, or the policy that decided. `doubts` are rules before that which might have
    decided otherwise, had they been understood.
    """

    dropped: bool
    by: str
    doubts: tuple[str, ...] = ()


def parse(saved: str) -> dict[str, dict[str, Chain]]:
    """The tables in what `iptables-save` wrote."""
    tables: dict[str, dict[str, Chain]] = {}
    chains: dict[str, Chain] = {}
    for line in saved.splitlines():
        if line.startswith("*"):
            chains = tables.setdefault(line[1:].strip(), {})
        elif line.startswith(":"):
            name, policy, *_counters = line[1:].split()
            chains[name] = Chain(policy=None if policy == "-" else policy)
        elif line.startswith("-A "):
            _, name, rule = line.split(" ", 2)
            before = chains.get(name, Chain())
            chains[name] = Chain(policy=before.policy, rules=(*before.rules, rule.strip()))
    return tables


def trace(tables: Tables, table: str, chain: str, packet: Packet) -> Verdict:
    """The verdict of one base chain; a chain or table that is not there lets everything pass."""
    chains = tables.get(table, {})
    passed: list[_Decision] = []
    decided = _walk(chains, chain, packet, passed, 0)
    if decided is None:
        policy = chains.get(chain, Chain()).policy or "ACCEPT"
        dropped, by = policy == "DROP", f"policy {policy} of {table} {chain}"
    else:
        dropped, by = decided[0], f"{table} {decided[1]}"
    return Verdict(dropped=dropped, by=by, doubts=tuple(rule for other, rule in passed if other is not dropped))


def addresses_in(tables: Tables, table: str, chain: str, subnet: IPv4Network) -> list[IPv4Address]:
    """Single addresses of a subnet that the rules of one chain are for: Docker writes rules for each container."""
    found = []
    for rule in tables.get(table, {}).get(chain, Chain()).rules:
        words = _words(rule)
        if "-d" in words[:-1]:
            network = _network(words[words.index("-d") + 1])
            if network is not None and network.prefixlen == 32 and network.network_address in subnet:
                found.append(network.network_address)
    return sorted(set(found))


def _walk(
    chains: Mapping[str, Chain], name: str, packet: Packet, doubts: list[_Decision], depth: int
) -> _Decision | None:
    """What one chain decides; None where the packet comes back from it. Rules not understood go to `doubts`."""
    if depth > _DEEPEST:
        return None
    for rule in chains.get(name, Chain()).rules:
        matches, target, goes = _judge(rule, packet)
        if matches is False or target is None:
            continue
        here = f"-A {name} {rule}"
        if target in chains:
            inner: list[_Decision] = []
            decided = _walk(chains, target, packet, inner, depth + 1)
            doubts += inner
            if matches and decided is not None:
                return decided
            if decided is not None:
                doubts.append(decided)
            if matches and goes:
                return None
        elif target in ("ACCEPT", "DROP", "REJECT"):
            if matches:
                return target != "ACCEPT", here
            doubts.append((target != "ACCEPT", here))
        elif target == "RETURN":
            if matches:
                return None
            # It may go past what is behind this.
            doubts.append((False, here))
    return None


def _judge(rule: str, packet: Packet) -> tuple[bool | None, str | None, bool]:
    """Whether a rule matches (None: cannot be said), where it leads, and whether by goto."""
    words, sure, negated = _words(rule), True, False
    target, goes, at = None, False, 0
    while at < len(words):
        word, value = words[at], words[at + 1] if at + 1 < len(words) else ""
        at += 1
        if word == "!":
            negated = True
            continue
        if word in ("-j", "-g"):
            target, goes = value, word == "-g"
            break
        if word in ("-m", "--comment"):
            at += 1
            continue
        if not word.startswith("-"):
            continue
        if word == "--match-set":
            value = " ".join(words[at : at + 2])
        answer = _match(word, value, packet)
        if answer is None:
            sure = False
        elif answer is negated:
            return False, target, goes
        negated = False
    return (True if sure else None), target, goes


def _match(option: str, value: str, packet: Packet) -> bool | None:
    answer: bool | None = None
    match option:
        case "-s" | "-d":
            network = _network(value)
            address = packet.source if option == "-s" else packet.destination
            answer = None if network is None else address in network
        case "-i" | "-o":
            answer = _same_device(value, packet.in_device if option == "-i" else packet.out_device)
        case "-p" if packet.protocol is not None:
            answer = value in (packet.protocol, "all")
        case "--dport" | "--dports" if packet.port is not None:
            answer = _in_ports(value, packet.port)
        case "--mac-source" if packet.mac is not None:
            answer = value.lower() == packet.mac
        case "--match-set":
            answer = _in_set(value, packet)
        case "--dst-type" if value == "LOCAL":
            answer = packet.local
        case "--ctstate" | "--state":
            answer = "NEW" in value.split(",")
    return answer


def _in_set(value: str, packet: Packet) -> bool | None:
    name, _, end = value.partition(" ")
    members = packet.sets.get(name)
    if members is None or end not in ("src", "dst"):
        return None
    address = packet.source if end == "src" else packet.destination
    return any(address in network for network in map(_network, members) if network is not None)


def _same_device(pattern: str, device: str) -> bool:
    return device.startswith(pattern[:-1]) if pattern.endswith("+") else device == pattern


def _in_ports(text: str, port: int) -> bool | None:
    for part in text.split(","):
        low, _, high = part.partition(":")
        if not low.isdigit() or (high and not high.isdigit()):
            return None
        if int(low) <= port <= int(high or low):
            return True
    return False


def _network(text: str) -> IPv4Network | None:
    try:
        return IPv4Network(text, strict=False)
    except ValueError:
        return None


def _words(rule: str) -> list[str]:
    try:
        return shlex.split(rule)
    except ValueError:
        return rule.split()
