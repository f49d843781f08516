"""Network namespaces: made, entered, and removed with all that is in them."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pyroute2 import netns

from overlayd.errors import CommandFailed
from overlayd.lib import process

T = TypeVar("T")

PREFIX = "ovl"
_DIRECTORY = Path("/run/netns")


def unique(role: str) -> str:
    """A name that no other run uses: it has this process's id in it."""
    return f"{PREFIX}-{os.getpid()}-{role}"


def make(name: str) -> None:
    """Make a namespace with its loopback up."""
    process.run(["ip", "netns", "add", name])
    process.run(["ip", "-n", name, "link", "set", "lo", "up"])


def remove(name: str) -> None:
    """Remove a namespace; its devices go with it, and what lives by one. No error if it is gone already."""
    if (_DIRECTORY / name).exists():
        # A wireguard-go would keep the namespace; it ends with its device.
        with contextlib.suppress(CommandFailed):
            for link in json.loads(process.run(["ip", "-n", name, "-json", "link", "show", "type", "tun"]) or "[]"):
                if "ifname" in link:
                    process.run(["ip", "-n", name, "link", "delete", link["ifname"]])
        process.run(["ip", "netns", "delete", name])


def sweep() -> None:
    """Remove what a run left behind that was killed before it could clean up."""
    for path in _DIRECTORY.glob(f"{PREFIX}-*-*"):
        pid = path.name.split("-")[1]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            remove(path.name)


def ip(name: str, *commands: str) -> None:
    """Run `ip` commands in a namespace, as one batch: the first that fails raises CommandFailed."""
    process.run(["ip", "-n", name, "-batch", "-"], input="".join(f"{command}\n" for command in commands))


def run(name: str, argv: Sequence[str], *, input: str | None = None, timeout_s: float = 30) -> str:  # noqa: A002
    """Run a command in a namespace; what it printed. Raises CommandFailed."""
    return process.run(["ip", "netns", "exec", name, *argv], input=input, timeout_s=timeout_s)


def mount_for_this_thread(source: Path, target: Path) -> None:
    """Show a folder elsewhere to this thread and to the commands that it runs, and to nobody else."""
    # unshare(2): CLONE_NEWNS, for the thread that calls. Python has it from 3.12 on.
    if ctypes.CDLL(None, use_errno=True).unshare(0x00020000) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    process.run(["mount", "--make-rslave", "/"])
    target.mkdir(exist_ok=True)
    process.run(["mount", "--bind", str(source), str(target)])


def inside(name: str, call: Callable[[], T]) -> T:
    """Call a function in a namespace, in a thread of its own. Sockets that it opens stay there for good."""
    outcome: dict[str, Any] = {}

    def enter() -> None:
        try:
            netns.setns(name)
            outcome["value"] = call()
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if "error" in outcome:
        raise outcome["error"]
    value: T = outcome["value"]
    return value
