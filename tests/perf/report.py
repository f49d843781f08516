"""The bench's figures as tables on the terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.perf.layout import DAEMON_FIGURES, FIGURES, MANY_FIGURES

_START_GOAL_S = 15
_FALL = "[bold red]FELL[/] "


def show(console: Console, document: dict[str, Any]) -> None:
    """Print a table for each place, our daemon's cost, a cluster's start, builds, and what got worse."""
    for place, found in document["places"].items():
        if found["subjects"]:
            console.print(_ways(place, found["subjects"]))
        if "daemon" in found:
            console.print(_daemon(place, found))
        if "many" in found:
            console.print(_many(place, found))
    if "start" in document:
        _show_start(console, document)
    if "builds" in document:
        show_builds(console, document["builds"])
    show_falls(console, document)


def show_falls(console: Console, document: dict[str, Any]) -> None:
    """Print what is more than 20 % worse than in the last report, or that nothing is, or that there is none."""
    last = document["compared_with"]
    if last is None:
        console.print("no earlier report of this machine with these parts: nothing to compare with", highlight=False)
        return
    since = f"the report of {last['when']} ({last['commit']}, {last['path']})"
    for one in document["falls"]:
        console.print(
            f"{_FALL}{one['place']}, {one['subject']}: {one['figure']} was {one['before']:g}, is {one['now']:g},"
            f" {1 - one['merit']:.0%} worse than in {since}",
            highlight=False,
            soft_wrap=True,
        )
    if not document["falls"]:
        console.print(f"nothing fell by more than 20 % since {since}", highlight=False, soft_wrap=True)


def _ways(place: str, subjects: dict[str, Any]) -> Table:
    table = Table(
        title=f"{place}: container to container on another host, as parts of the bare underlay in the same turns:"
        " median (lowest to highest), and the value itself",
        show_lines=True,
    )
    table.add_column("way")
    for figure in FIGURES:
        table.add_column(figure.title, justify="right")
    for name, found in subjects.items():
        label = f"{name}\nmtu {found['mtu_bytes']}" if found["mtu_bytes"] else name
        # Reports before it have no such key.
        if found.get("fast_path"):
            label += "\nfast path" if found["fast_path"] == "on" else "\nthe kernel's way"
        if found["reason"]:
            table.add_row(label, escape(found["reason"]), *[""] * (len(FIGURES) - 1))
            continue
        table.add_row(label, *(_cell(found["figures"].get(figure.key, {})) for figure in FIGURES))
    return table


def _cell(figure: dict[str, Any]) -> str:
    if "value" not in figure:
        return escape(str(figure.get("reason", ""))[:80])
    mark = _FALL if figure["fall"] else ""
    return f"{mark}{_spread(figure['part'])}\n{_number(figure['value']['median'])}"


def _daemon(place: str, found: dict[str, Any]) -> Table:
    conditions = ", ".join(f"{name} {value}" for name, value in found["daemon_conditions"].items())
    table = Table(title=f"{place}: what the daemon costs ({conditions})")
    table.add_column("what")
    table.add_column("median (lowest to highest)", justify="right")
    for figure in DAEMON_FIGURES:
        one = found["daemon"].get(figure.key, {})
        value = one.get("value")
        text = f"{_FALL if one['fall'] else ''}{_spread(value, _number)}" if value else escape(one.get("reason", ""))
        table.add_row(figure.title, text)
    return table


def _many(place: str, found: dict[str, Any]) -> Table:
    conditions = ", ".join(f"{name} {value}" for name, value in found["many_conditions"].items())
    table = Table(title=f"{place}: what the daemon costs among many ({conditions})")
    for column in ("what", "median (lowest to highest)", "wanted at most"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for figure in MANY_FIGURES:
        one = found["many"].get(figure.key, {})
        text = _spread(one["value"], _number) if "value" in one else escape(one.get("reason", ""))
        table.add_row(figure.title, text, "" if figure.wanted is None else _number(figure.wanted))
    return table


def _show_start(console: Console, document: dict[str, Any]) -> None:
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


def _number(value: float) -> str:
    """Three digits that count, and all of a whole number's."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _spread(found: dict[str, float], number: Callable[[float], str] = "{:.2f}".format) -> str:
    return f"{number(found['median'])} ({number(found['lowest'])} to {number(found['highest'])})"
