"""Whether a rule of somebody else masquerades what containers send outside the network. Pure.

Docker is told not to masquerade, and with `firewall` none overlayd writes no rules: then somebody else has to.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from ipaddress import ip_network

from overlayd.lib.addresses import IPNetwork
from overlayd.lib.iptables_save import SavedChain, Tables, parse

_BY_NFT = re.compile(r"\b(?:masquerade|snat)\b")
_TRANSLATE = ("MASQUERADE", "SNAT")
# The kernel refuses loops of chains; this ends the walk through a text that has one.
_DEEPEST = 32


def by_iptables(saved: str, subnet: IPNetwork) -> bool:
    """Whether rules that `iptables-save` printed masquerade packets from the subnet."""
    return masqueraded(parse(saved), subnet)


def by_nft(listing: str) -> bool:
    """Whether any rule in `nft list ruleset` translates sources; the tables that iptables-nft writes do not count.

    Which packets the rule matches is not looked at: an administrator who has one takes care of it.
    """
    table = ""
    for line in listing.splitlines():
        if line.startswith("table "):
            table = line.split("{")[0].strip()
        elif table not in ("table ip nat", "table ip6 nat") and _BY_NFT.search(line):
            return True
    return False


def masqueraded(tables: Tables, subnet: IPNetwork) -> bool:
    """Whether a rule of the nat table, reached from POSTROUTING, gives packets from the subnet another source."""
    return _walk(tables.get("nat", {}), "POSTROUTING", subnet, 0)


def problem(network: str, subnet: str) -> str:
    """The sentence for a host where nobody masquerades, with what to do."""
    return (
        "firewall is none and ip-masq on: neither docker nor overlayd masquerades, and no rule of iptables here does, "
        f"so containers do not reach what is outside the network; run: {remedy(network, subnet)}, or set "
        "OVERLAYD_FIREWALL=auto and restart overlayd"
    )


def remedy(network: str, subnet: str) -> str:
    """The command that adds a rule to masquerade what leaves the network, and keeps source addresses inside it."""
    return f"iptables -t nat -A POSTROUTING -s {subnet} ! -d {network} -j MASQUERADE"


def _walk(chains: Mapping[str, SavedChain], name: str, subnet: IPNetwork, depth: int) -> bool:
    if name not in chains or depth > _DEEPEST:
        return False
    for rule in chains[name].rules:
        words = _words(rule)
        target = _after(words, "-j")
        if target in chains or target in _TRANSLATE:
            source = _after(words, "-s")
            if (source is None or _covers(words, source, subnet)) and (
                target in _TRANSLATE or _walk(chains, str(target), subnet, depth + 1)
            ):
                return True
    return False


def _covers(words: list[str], source: str, subnet: IPNetwork) -> bool:
    try:
        network = ip_network(source, strict=False)
    except ValueError:
        return False
    within = network.version == subnet.version and subnet.subnet_of(network)  # type: ignore[arg-type]
    return within and words[max(words.index("-s") - 1, 0)] != "!"


def _after(words: list[str], flag: str) -> str | None:
    return words[words.index(flag) + 1] if flag in words[:-1] else None


def _words(rule: str) -> list[str]:
    try:
        return shlex.split(rule)
    except ValueError:
        return rule.split()
