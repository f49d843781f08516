"""A small report of the bench, for tests to change."""

from __future__ import annotations

from typing import Any

from tests.perf.layout import FIGURES, LAYOUT, alone, beside_bare, subject


def report(when: str = "2026-11-30T03:00:00+00:00") -> dict[str, Any]:
    """One place, a backend whose figures are all half of the underlay's, a peer that is not there, and a daemon."""
    figures = {figure.key: beside_bare([4.0, 5.0, 6.0], [8.0, 10.0, 12.0]) for figure in FIGURES}
    return {
        "layout": LAYOUT,
        "when": when,
        "commit": "abc",
        "machine": {"cpus": 2, "model": "m", "kernel": "6.1", "docker": "28.0", "base": "b"},
        "parts": ["namespaces", "peers", "daemon"],
        "places": {
            "namespaces": {
                "subjects": {
                    "vxlan": subject("backend", figures=figures, mtu_bytes=1450),
                    "tinc": subject("peer", reason="not installed: tincd"),
                },
                "daemon": {
                    "start_to_ready_s": alone([0.4]),
                    "pss_bytes": alone([30e6]),
                    "private_bytes": {"reason": "no smaps_rollup"},
                },
                "daemon_conditions": {"backend": "vxlan", "peers": 1},
                "many": {"many_join_ms": alone([8.5]), "many_idle_cpu_percent": {"reason": "no daemon"}},
                "many_conditions": {"peers": 5000},
            }
        },
    }
