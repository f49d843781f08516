"""The verdict that saved rules of iptables have for a packet. Pure."""

from __future__ import annotations

import shlex
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network

from overlayd.lib.addresses import IPAddress, IPNetwork, contains, inside
from overlayd.lib.iptables_save import SavedChain, Tables
from overlayd.lib.quick_dataclass import dataclass
from overlayd.ruleset.walk import Action, ActionKind, Packet, RuleEffect, Verdict, protocol_name, walk

_ENDS = {"ACCEPT": ActionKind.ACCEPT, "DROP": ActionKind.DROP, "REJECT": ActionKind.DROP, "RETURN": ActionKind.RETURN}
# A program in userland decides; where none listens, the kernel drops the packet.
_BY_PROGRAM = ("NFQUEUE", "QUEUE")
_ALL_BITS = 0xFFFFFFFF


def trace(tables: Tables, table: str, chain: str, packet: Packet) -> Verdict:
    """The verdict of one base chain. A chain or table that does not exist accepts everything."""
    chains = tables.get(table, {})
    policy = chains.get(chain, SavedChain()).policy or "ACCEPT"
    rules = {name: tuple(_IptablesRule(table, name, text) for text in found.rules) for name, found in chains.items()}
    return walk(rules, chain, packet, (policy == "DROP", f"policy {policy} of {table} {chain}"))


def with_accept(tables: Tables, table: str, chain: str, match: str) -> Tables:
    """The same tables with an accept rule at the head of one chain."""
    old = tables[table][chain]
    changed = SavedChain(policy=old.policy, rules=(f"{match} -j ACCEPT", *old.rules))
    return {**tables, table: {**tables[table], chain: changed}}


def addresses_in(tables: Tables, table: str, chain: str, subnet: IPNetwork) -> list[IPAddress]:
    """The single addresses of a subnet that a chain has rules for, as Docker has for each container."""
    found: list[IPAddress] = []
    for rule in tables.get(table, {}).get(chain, SavedChain()).rules:
        words = _words(rule)
        if "-d" in words[:-1]:
            network = _network(words[words.index("-d") + 1])
            if network is not None and network.num_addresses == 1 and contains(subnet, network.network_address):
                found.append(network.network_address)
    return sorted(set(found), key=int)


@dataclass(frozen=True)
class _IptablesRule:
    table: str
    chain: str
    text: str

    @property
    def shown(self) -> str:
        return f"{self.table} -A {self.chain} {self.text}"

    def effect_on(self, packet: Packet) -> RuleEffect:
        matches, target, is_goto, rest = _evaluate(self.text, packet)
        if matches is False:
            return RuleEffect()
        if target is None:
            # Its counters count.
            return RuleEffect(beside=True)
        if target == "MARK":
            actions: tuple[Action, ...] = (Action(kind=ActionKind.MARK, mark=_marked(rest, packet.mark)),)
        elif target == "CONNMARK":
            # A new connection has mark 0, unless a rule before this one set it.
            actions = (Action(kind=ActionKind.MARK),) if "--restore-mark" in rest else ()
        elif target in _BY_PROGRAM:
            return RuleEffect(actions=(Action(kind=ActionKind.DROP),), sure=False)
        elif target in _ENDS:
            actions = (Action(kind=_ENDS[target]),)
        else:
            # A target that decides nothing (LOG, CT …) is taken for a chain too, and there is none of that name.
            actions = (Action(kind=ActionKind.GOTO if is_goto else ActionKind.JUMP, target=target),)
        return RuleEffect(actions=actions, sure=matches is True)


def _evaluate(rule: str, packet: Packet) -> tuple[bool | None, str | None, bool, tuple[str, ...]]:
    """Whether a rule matches (None: unknown), its target, whether that is a goto, and the target's own options."""
    words, sure, negated = _words(rule), True, False
    target, is_goto, at = None, False, 0
    while at < len(words):
        word, value = words[at], words[at + 1] if at + 1 < len(words) else ""
        at += 1
        if word == "!":
            negated = True
            continue
        if word in ("-j", "-g"):
            target, is_goto = value, word == "-g"
            at += 1
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
            return False, target, is_goto, ()
        negated = False
    return (True if sure else None), target, is_goto, words[at:]


def _match(option: str, value: str, packet: Packet) -> bool | None:
    answer: bool | None = None
    match option:
        case "-s" | "-d":
            network = _network(value)
            address = packet.source if option == "-s" else packet.destination
            answer = None if network is None else inside(network, address)
        case "-i" | "-o":
            answer = same_device(value, packet.in_device if option == "-i" else packet.out_device)
        case "-p" if packet.protocol is not None:
            answer = value == "all" or protocol_name(value) == packet.protocol
        case "--dport" | "--dports" if packet.port is not None:
            answer = _in_ports(value, packet.port)
        case "--ports" if packet.port is not None:
            # --ports matches the source port too, which is not known.
            answer = _in_ports(value, packet.port) or None
        case "--mac-source" if packet.mac is not None:
            answer = value.lower() == packet.mac
        case "--match-set":
            answer = _in_set(value, packet)
        case "--dst-type" if value == "LOCAL":
            answer = packet.local
        case "--ctstate" | "--state" if packet.first:
            answer = "NEW" in value.split(",")
        case "--mark" if packet.mark is not None:
            wanted, mask = _number_and_mask(value)
            answer = None if wanted is None else packet.mark & mask == wanted
    return answer


def _marked(words: tuple[str, ...], mark: int | None) -> int | None:
    """The packet's mark after a MARK target with these options; None where it is not known."""
    option, value = (*words, "", "")[:2]
    bits, mask = _number_and_mask(value)
    if bits is None:
        return None
    if option == "--set-xmark" and (mark is not None or mask == _ALL_BITS):
        return ((mark or 0) & ~mask) ^ bits
    return None


def _number_and_mask(value: str) -> tuple[int | None, int]:
    number, _, mask = value.partition("/")
    try:
        return int(number, 0), int(mask, 0) if mask else _ALL_BITS
    except ValueError:
        return None, _ALL_BITS


def _in_set(value: str, packet: Packet) -> bool | None:
    name, _, end = value.partition(" ")
    members = packet.sets.get(name)
    if members is None or end not in ("src", "dst"):
        return None
    address = packet.source if end == "src" else packet.destination
    answers = {inside(network, address) for network in map(_network, members) if network is not None}
    return True if True in answers else None if None in answers else False


def same_device(pattern: str, device: str) -> bool:
    """Whether a device has that name, in which a `+` at the end stands for any ending."""
    return device.startswith(pattern[:-1]) if pattern.endswith("+") else device == pattern


def _in_ports(text: str, port: int) -> bool | None:
    for part in text.split(","):
        low, _, high = part.partition(":")
        if not low.isdigit() or (high and not high.isdigit()):
            return None
        if int(low) <= port <= int(high or low):
            return True
    return False


@lru_cache(maxsize=65536)
def _network(text: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


@lru_cache(maxsize=65536)
def _words(rule: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(rule))
    except ValueError:
        return tuple(rule.split())
