"""Links, routes and rules of a host of the lab, for the report of a failed test."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from overlayd.errors import OverlaydError


def dump(title: str, run: Callable[..., str], logs: Sequence[str]) -> str:
    """What `run` shows of a host, and the end of its logs."""
    parts = [f"==== {title}"]
    for argv in (
        ["ip", "-d", "-br", "link"],
        ["ip", "-4", "-br", "address"],
        ["ip", "-4", "route"],
        ["ip", "-6", "-br", "address"],
        ["ip", "-6", "route"],
        ["ip", "neighbour"],
        ["bridge", "fdb"],
        ["iptables-save"],
        ["sh", "-c", "if command -v wg >/dev/null; then wg show; fi"],
    ):
        try:
            parts += [f"-- {' '.join(argv)}", run(*argv).rstrip()]
        except OverlaydError as error:
            parts.append(str(error))
    for log in logs:
        parts += ["-- log", *log.splitlines()[-80:]]
    return "\n".join(parts)
