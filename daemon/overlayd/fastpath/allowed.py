"""Whether packets may go past the host's network stack: only where no rule of an administrator has a say. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

from overlayd.firewall.table import NFT_LEASED, NFT_PEERS
from overlayd.lib.addresses import IPAddress, IPNetwork, without
from overlayd.lib.marks import ours
from overlayd.lib.quick_dataclass import dataclass
from overlayd.ruleset.nftables import BaseChain
from overlayd.ruleset.packet_path import FORWARDED, IptablesRules, Match, rules_met, trace_path
from overlayd.ruleset.walk import Packet

RECEIVED, SENT = ("prerouting", "input"), ("output", "postrouting")
# Chains that see packets at an interface or a bridge, and not on their way through IP.
_BELOW_IP = ("netdev", "bridge", "arp")
_BELOW_IP_HOOKS = ("ingress", "egress")
# Ours: by our comment, in or to a chain of ours, in a table of ours. Not whatever names a set of ours.
_OURS = re.compile(r"--comment overlayd\d?(?= |$)|(?: -A | -[jg] )OVERLAYD\d?-|^(?:ip6?|inet) overlayd\d? ")
# Docker's own rules: in its chains and tables, and those that it has in FORWARD and DOCKER-USER themselves. What drops
# in its chains asks for interfaces and a container only: where it asks for a sender or a port, it is not Docker's.
_CHAINS_OF_DOCKER = r"DOCKER(?:-BRIDGE|-CT|-FORWARD|-INGRESS|-INTERNAL|-ISOLATION-STAGE-[12]|-ISOLATION)?"
_OF_DOCKER = re.compile(
    rf"^\w+ -A {_CHAINS_OF_DOCKER} (?!.*-j (?:DROP|REJECT))"
    rf"|^filter -A {_CHAINS_OF_DOCKER} (?:(?:! )?-[iod] \S+ ?)+-j DROP$"
    r"|^\w+ docker-bridges "
    r"|^filter -A FORWARD (-[io] \S+ ?)+(! -o \S+ ?)?(-m conntrack --ctstate (RELATED,ESTABLISHED|DNAT) ?)?-j ACCEPT$"
    r"|^filter -A DOCKER-USER -j RETURN$"
)


@dataclass(frozen=True, kw_only=True)
class PacketWay:
    """The way of packets between containers by the host's network stack, of one IP version.

    `own` is this host's subnet in `network`. `devices` are the interfaces by which the stack sends to peers and hears
    from them. Where packets are in UDP to `port`, `port` is not 0, and the outer ones are between `address` and peers'.
    """

    own: IPNetwork
    network: IPNetwork
    bridge: str
    devices: tuple[str, ...]
    underlay: str
    address: IPAddress
    peers: IPNetwork
    port: int = 0


def rule_in_the_way(kinds: Sequence[IptablesRules], bases: Sequence[BaseChain] | None, way: PacketWay) -> str | None:
    """A rule that would be bypassed, or why that is not known; None where there is none.

    That is a rule, neither Docker's nor overlayd's, that does something with a packet between containers; any rule that
    drops such a packet; one that drops the outer packets, or translates their addresses; and any rule below IP.
    """
    unread = next((f"{kind.command}: {kind.problem}" for kind in kinds if kind.problem), None)
    if unread is not None or bases is None:
        return unread or "the rules of nftables could not be read"
    below = next((rule for base in bases if _below_ip(base) for rule in _says(base)), None)
    return below or next(_inner(kinds, bases, way), None) or next(_outer(kinds, bases, way), None)


def _below_ip(base: BaseChain) -> bool:
    return base.family in _BELOW_IP or base.hook in _BELOW_IP_HOOKS


def _says(base: BaseChain) -> Iterator[str]:
    yield from base.rules()
    if base.policy != "accept":
        yield f"policy {base.policy} of {base.where}"


def _inner(kinds: Sequence[IptablesRules], bases: Sequence[BaseChain], way: PacketWay) -> Iterator[str]:
    others = tuple(without(way.network, way.own))
    sets = dict.fromkeys((ours().leased(way.own.version), NFT_LEASED), frozenset(map(str, others)))
    for protocol, device in product(("tcp", "udp"), way.devices):
        for other in others:
            out = Packet(
                source=way.own,
                destination=other,
                in_device=way.bridge,
                out_device=device,
                protocol=protocol,
                sets=sets,
            )
            into = replace(out, source=other, destination=way.own, in_device=device, out_device=way.bridge)
            for packet in (out, into):
                met = rules_met(kinds, bases, replace(packet, first=False), FORWARDED)
                yield from (rule for rule in met if not _expected(rule))
                yield from (drop.by for drop in trace_path(kinds, bases, packet, FORWARDED, Match()).drops)


def _outer(kinds: Sequence[IptablesRules], bases: Sequence[BaseChain], way: PacketWay) -> Iterator[str]:
    if not way.port:
        return
    sent = Packet(
        source=way.address,
        destination=way.peers,
        out_device=way.underlay,
        protocol="udp",
        port=way.port,
        # The packets that are asked about are those of peers: all that send are in our sets.
        sets=dict.fromkeys((ours().peers(way.own.version), NFT_PEERS), frozenset({str(way.peers)})),
        answered=True,
    )
    received = replace(
        sent, source=way.peers, destination=way.address, in_device=way.underlay, out_device="", local=True
    )
    for packet, hooks in ((sent, SENT), (received, RECEIVED)):
        for rule in rules_met(kinds, bases, packet, hooks):
            if rule.startswith("nat ") and not _expected(rule):
                yield rule
        found = trace_path(kinds, bases, packet, hooks, Match())
        for drop in (*found.drops, *found.doubts):
            yield drop.by


def _expected(rule: str) -> bool:
    return bool(_OURS.search(rule) or _OF_DOCKER.search(rule))
