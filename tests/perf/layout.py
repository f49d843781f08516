"""The bench's document: its layout, and the one place that spells its keys. Pure: no I/O.

    {
      "layout": 1,                      changes when a key changes its meaning or goes; new keys may come at any time
      "when": "2026-11-30T03:00:00+00:00",
      "commit": "eb6d549",              `git describe --always --dirty`
      "machine": {"cpus": 2, "model": "…", "kernel": "6.18", "docker": "20.10", "base": "debian12-rpm"},
      "parts": ["cluster", "peers"],    which parts were measured (wanted.py): all of them, unless fewer were asked for
      "places": {
        "cluster": {                    hosts are containers with systemd, dockerd and the RPM: what a user has
          "subjects": {                 in the order in which they are shown
            "vxlan": {
              "kind": "backend",        or "peer": another program in the same topology
              "reason": null,           why there are no figures, as "not installed: tincd"; else null
              "mtu_bytes": 1450,
              "fast_path": "on",        of a backend: "on", or why packets went the kernel's way; else null
              "figures": {
                "tcp_1_flow_gbit_s": {
                  "value":   {"median": 6.8, "lowest": 6.5, "highest": 7.0, "count": 3},
                  "bare":    {…},       the same, host to host, measured in turns with `value`
                  "part":    {…},       value / bare, turn by turn
                  "fall": null          or {"part_before": 0.8, "merit": 0.7}: see compare.py
                },
                …                       every name of FIGURES; one that could not be measured: {"reason": "…"}
              }
            }, …
          },
          "daemon": {                   our daemon with `backend`; each {"value": {…}, "fall": null} or {"reason": "…"}
            "start_to_ready_s": …,
            "lease_to_first_reply_s": …, a lease written to etcd, to the first reply from its container
            "idle_cpu_percent": …,      of one processor
            "pss_bytes": …, "private_bytes": …
          },
          "daemon_conditions": {"backend": "vxlan", "peers": 2, "resync_s": 2, "idle_s": 30, "frozen": true},
          "many": {"many_join_ms": …},  MANY_FIGURES, in namespaces alone, each as in `daemon`
          "many_conditions": {"peers": 5000, "burst": 1000, "daemons": 100, …}
        },
        "namespaces": {…}               hosts are network namespaces; a bridge and a container in each: less noise
      },
      "compared_with": {"when": "…", "commit": "…", "path": "…"},     null in a first report
      "falls": [{"place": …, "subject": …, "figure": …, "before": 0.8, "now": 0.5, "merit": 0.62}],
      "backends": …, "start": …, "builds": …, "make_up_s": …         connectivity, a cluster's start, builds
    }

Spread = {"median", "lowest", "highest", "count"}. A subject "daemon" in `falls` is our daemon's own cost.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.testbed.cluster.figures import Spread

LAYOUT = 1


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What one figure is: its key, whose end is the unit, its words, and whether more of it is better.

    `wanted` is what a quiet machine of two processors should not pass.
    """

    key: str
    title: str
    more_is_better: bool
    wanted: float | None = None


FIGURES = (
    Figure(key="tcp_1_flow_gbit_s", title="TCP, 1 flow, Gb/s", more_is_better=True),
    Figure(key="tcp_4_flows_gbit_s", title="TCP, 4 flows, Gb/s", more_is_better=True),
    Figure(key="udp_200_byte_packets_per_s", title="200-byte UDP packets/s", more_is_better=True),
    Figure(key="tcp_round_trip_us", title="TCP round trip, µs", more_is_better=False),
    Figure(key="connections_per_s", title="new TCP connections/s", more_is_better=True),
    # Processor seconds of the whole machine while a gigabit crosses in one TCP flow, without what it spends idle.
    Figure(key="cpu_s_per_gbit", title="processor s per Gb", more_is_better=False),
)
DAEMON_FIGURES = (
    Figure(key="start_to_ready_s", title="start to ready, s", more_is_better=False),
    Figure(key="lease_to_first_reply_s", title="a lease in etcd to the first reply, s", more_is_better=False),
    Figure(key="idle_cpu_percent", title="idle CPU, % of one processor", more_is_better=False),
    Figure(key="pss_bytes", title="PSS, bytes", more_is_better=False),
    Figure(key="private_bytes", title="private memory, bytes", more_is_better=False),
)
MANY_FIGURES = (
    Figure(key="many_from_nothing_s", title="from nothing to ready, s", more_is_better=False, wanted=1.5),
    Figure(key="many_from_nothing_cpu_s", title="of that the daemon's processor time, s", more_is_better=False),
    Figure(key="many_burst_s", title="many joins at once, s", more_is_better=False, wanted=1.5),
    Figure(key="many_join_ms", title="one join: lease in etcd to route, ms", more_is_better=False, wanted=10),
    Figure(key="many_join_cpu_ms", title="processor time that one join costs, ms", more_is_better=False),
    Figure(
        key="many_leave_ms", title="one that goes: lease deleted to route gone, ms", more_is_better=False, wanted=10
    ),
    Figure(
        key="many_repair_ms",
        title="a route that somebody deletes, until it is back, ms",
        more_is_better=False,
        wanted=10,
    ),
    Figure(key="many_idle_cpu_percent", title="idle CPU, % of one processor", more_is_better=False, wanted=0.5),
    Figure(key="many_bytes_per_peer", title="private memory for each peer, bytes", more_is_better=False, wanted=3072),
    Figure(key="many_status_bytes", title="the status file, bytes", more_is_better=False),
    Figure(key="many_metrics_s", title="a scrape of /metrics, s", more_is_better=False),
    Figure(key="many_status_s", title="overlayd status, s", more_is_better=False),
    Figure(key="many_doctor_s", title="overlayd doctor, s", more_is_better=False),
    Figure(
        key="herd_ready_s", title="daemons at once on an empty network: all ready, s", more_is_better=False, wanted=19
    ),
    Figure(key="herd_cpu_s", title="processor time of all of them, s", more_is_better=False),
    Figure(key="herd_races_lost", title="subnets that another host took first", more_is_better=False),
)
# Absolute durations and CPU of two runs are those of two loads of the machine. Memory is not.
COMPARED_ABSOLUTELY = ("pss_bytes", "private_bytes")


def rounded(value: Spread) -> dict[str, Any]:
    """A spread as JSON values: four digits that count, as values are of every size."""
    found = dataclasses.asdict(value)
    return {name: one if name == "count" else float(f"{one:.4g}") for name, one in found.items()}


def beside_bare(values: Sequence[float], bare: Sequence[float]) -> dict[str, Any]:
    """A figure with its bare one, measured turn by turn: the nth of each belong together."""
    parts = [value / below for value, below in zip(values, bare, strict=True) if below]
    if not parts:
        return {"reason": "the bare underlay's own figure is 0"}
    return {
        "value": rounded(Spread.of(values)),
        "bare": rounded(Spread.of(bare)),
        "part": rounded(Spread.of(parts)),
        "fall": None,
    }


def alone(values: Sequence[float]) -> dict[str, Any]:
    """A figure that nothing is compared with in the same run."""
    return {"value": rounded(Spread.of(values)), "fall": None}


def subject(
    kind: str,
    *,
    figures: Mapping[str, Any] | None = None,
    mtu_bytes: int | None = None,
    fast_path: str | None = None,
    reason: str | None = None,
) -> dict[str, Any]:
    """A backend's or peer's row: with figures, or with the reason why there are none."""
    return {
        "kind": kind,
        "reason": reason,
        "mtu_bytes": mtu_bytes,
        "fast_path": fast_path,
        "figures": dict(figures or {}),
    }
