"""Which kind of WireGuard devices this machine has, and making one by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

from overlayd.errors import CommandFailed
from tests.testbed.netns import namespaces

SOCKETS = "/run/wireguard"


@cache
def in_kernel() -> bool:
    """Whether this machine's kernel makes them itself."""
    name = namespaces.unique("wgkind")
    namespaces.make(name)
    try:
        namespaces.ip(name, "link add wg0 type wireguard")
    except CommandFailed:
        return False
    finally:
        namespaces.remove(name)
    return True


def make(run: Callable[..., str], name: str) -> None:
    """Make a device where `run` runs commands."""
    if in_kernel():
        run("ip", "link", "add", name, "type", "wireguard")
    else:
        run("wireguard-go", name)


def with_own_sockets(folder: Path) -> list[str]:
    """Words behind `ip netns exec NAME` that give a command, and only it and its children, this folder for sockets.

    The folder is compiled into wireguard-go, and device names are the same on every host. `ip netns exec` has given the
    command a mount namespace of its own.
    """
    return ["sh", "-c", f'mkdir -p {SOCKETS} && mount --bind "$0" {SOCKETS} && exec "$@"', str(folder)]
