"""How many packets our rules against strangers have dropped, from the counters that the kernel has for each rule.

They are read together with the rules, so counting costs no command of its own. Pure but for what it remembers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from overlayd.lib.counters import counter

# Where a rule of iptables stands, and what nftables' chain with the same rules is called (table.py).
_CHAINS = {
    ("raw", "PREROUTING"): "raw",
    ("mangle", "PREROUTING"): "prerouting",
    ("mangle", "INPUT"): "delivered",
    ("mangle", "FORWARD"): "forwarded",
    ("filter", "INPUT"): "input",
}
KNOWN = tuple(_CHAINS.values())
DROPPED = counter(
    "overlayd_dropped_packets_total",
    "Packets that rules of overlayd dropped. raw, prerouting: forged sources; delivered: not from a peer, to the "
    "backend's port; forwarded: strangers to containers; input: containers to this host.",
    label="chain",
    known=KNOWN,
)
_last: dict[str, Counter[str]] = {}


def chain_of_iptables(table: str, chain: str) -> str | None:
    """The label for a chain of ours in a table of iptables, None where it is none that drops."""
    return _CHAINS.get((table, chain.rpartition("-")[2]))


def note(source: str, found: Iterable[tuple[str, int]]) -> None:
    """Count the packets that were dropped since the last call; pairs of label and the kernel's count of one rule.

    `source` is whose counters these are. Its first call counts nothing: a daemon before this one has counted those.
    """
    now: Counter[str] = Counter()
    for label, packets in found:
        now[label] += packets
    before: Mapping[str, int] = _last.get(source, now)
    for label, packets in now.items():
        more = packets - before.get(label, 0)
        DROPPED.add(more if more >= 0 else packets, of=label)
    _last[source] = now


def written_again(source: str, labels: Iterable[str] = KNOWN) -> None:
    """These rules were written: the kernel counts their packets from 0."""
    if source in _last:
        for label in labels:
            _last[source][label] = 0
