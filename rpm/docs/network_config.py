"""The network config's keys in words. A test compares the names with those that the program takes."""

from __future__ import annotations

from collections.abc import Iterator

from overlayd import backends
from overlayd.backends.facts import BackendFacts, Key

KEYS: dict[str, str] = {
    "Network": "The network of all containers, for example `10.42.0.0/16`; a /28 or wider. It must be there, unless "
    "EnableIPv4 is false.",
    "SubnetLen": "Length of each host's subnet, from two more than Network's up to 30. Default: 24 where Network is "
    "a /22 or wider, else two more than Network's.",
    "SubnetMin": "First address of the first subnet to lease. Default: the second subnet of Network.",
    "SubnetMax": "First address of the last subnet to lease. Default: the last subnet of Network.",
    "EnableIPv4": "Carry IPv4. Default: true.",
    "EnableIPv6": "Carry IPv6, beside IPv4 or alone. Default: false.",
    "IPv6Network": "The network of all containers in IPv6, for example `fd42::/48`; a /124 or wider. It must be there "
    "where EnableIPv6 is true.",
    "IPv6SubnetLen": "Length of each host's IPv6 subnet, from two more than IPv6Network's up to 126. Default: 64 "
    "where IPv6Network is a /62 or wider, else two more than IPv6Network's.",
    "IPv6SubnetMin": "As SubnetMin, in IPv6.",
    "IPv6SubnetMax": "As SubnetMax, in IPv6.",
    "EnableNFTables": "As flannel's hosts read it: rules by nftables. Default: false.",
    "Backend": "How packets travel: an object with `Type` and that backend's own keys. Default: "
    '`{"Type": "udp"}`, as it is flannel\'s.',
}


def backend_pages() -> Iterator[tuple[str, str, dict[str, str]]]:
    """Of each backend: its Type, what it is, and its own keys in words."""
    for name in backends.names():
        facts = backends.load(name).facts
        yield name, _summary(facts), {key.name: _explained(key) for key in facts.keys}


def _summary(facts: BackendFacts) -> str:
    sentences = [facts.summary]
    if not facts.ipv6:
        sentences.append("IPv4 only.")
    if facts.overhead_bytes is not None and any(facts.overhead_bytes.values()):
        v4, v6 = facts.overhead_bytes[4], facts.overhead_bytes[6]
        over_ipv6 = f", {v6} bytes over IPv6" if facts.ipv6 else ""
        sentences.append(f"Each packet between hosts needs {v4} bytes more than the container's{over_ipv6}.")
    if not facts.keys:
        sentences.append("No keys.")
    return " ".join(sentences)


def _explained(key: Key) -> str:
    sentences = [key.help]
    if key.lowest is not None and key.highest is not None:
        sentences.append(f"From {key.lowest} to {key.highest}.")
    default = key.default_text or (str(key.default).lower() if isinstance(key.default, bool) else str(key.default))
    if default:
        sentences.append(f"Default: {default}.")
    return " ".join(sentences)
