"""The bench's figures as tables on the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

# The requirement for the reference machine (issue 2).
_GOALS = {"vxlan": 0.7, "host-gw": 0.9}
_START_GOAL_S = 15


def show(console: Console, document: dict[str, Any]) -> None:
    """Print one table of rates and one of durations."""
    rates = Table(title="one TCP flow, container to container on another host: median (lowest to highest)")
    rates.add_column("backend")
    for column in ("Gb/s", "underlay Gb/s", "part of underlay", "goal", "round trip ms", "underlay ms", "mtu"):
        rates.add_column(column, justify="right")
    for name, found in document["backends"].items():
        rates.add_row(
            name,
            _spread(found["gbit_s"]),
            _spread(found["underlay_gbit_s"]),
            _spread(found["part"]),
            f"{_GOALS[name]:.2f}" if name in _GOALS else "",
            _ms(found["round_trip_ms"]),
            _ms(found["underlay_round_trip_ms"]),
            str(found["mtu_bytes"]),
        )
    console.print(rates)
    times = Table(title="start of a cluster of three hosts, in seconds")
    times.add_column("what")
    times.add_column("s", justify="right")
    for name, seconds in document.get("make_up_s", {}).items():
        times.add_row(name, f"{seconds:.1f}")
    for name, seconds in document["start"]["steps_s"].items():
        times.add_row(f"step: {name}", f"{seconds:.1f}")
    times.add_row(
        f"hosts from docker run to docker active (goal {_START_GOAL_S})",
        f"{document['start']['hosts_to_docker_s']:.1f}",
    )
    times.add_row("the whole", f"{document['start']['whole_s']:.1f}")
    for host, moments in document["start"]["hosts"].items():
        times.add_row(f"{host}, after its systemd began", ", ".join(f"{what} {at:.1f}" for what, at in moments.items()))
    console.print(times)
    if "builds" in document:
        show_builds(console, document["builds"])


def show_builds(console: Console, builds: dict[str, Any]) -> None:
    """Print the durations of builds, each beside the allowed one."""
    table = Table(title="builds, in seconds")
    for column in ("what", "s", "at most"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for what, found in builds.items():
        over = "" if found["s"] <= found["limit_s"] else " too slow"
        table.add_row(what, f"{found['s']:.1f}{over}", f"{found['limit_s']}")
        for part, seconds in found.get("parts_s", {}).items():
            table.add_row(f"  of that: {part}", f"{seconds:.1f}", "")
    console.print(table)


def _spread(found: dict[str, float]) -> str:
    return f"{found['median']:.2f} ({found['lowest']:.2f} to {found['highest']:.2f})"


def _ms(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"
