"""What the udp forwarder did not let through, counted by reason."""

from __future__ import annotations

from overlayd.lib.counters import counter

DROPPED = counter(
    "overlayd_udp_dropped_packets_total",
    "What the udp forwarder did not let through. no lease: datagrams from strangers.",
    label="reason",
    known=("no lease", "foreign source", "malformed", "no hop left", "no route", "refused"),
)
