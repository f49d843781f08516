"""Which kind of WireGuard devices this machine has, and making one by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from overlayd.errors import CommandFailed
from tests.testbed.netns import namespaces


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
