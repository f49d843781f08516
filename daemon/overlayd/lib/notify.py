"""sd_notify(3): tells systemd the state of the service."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(*, ready: bool = False, stopping: bool = False, status: str | None = None) -> None:
    """Send the state to systemd, where it set NOTIFY_SOCKET. Never raises."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    lines = ["READY=1"] if ready else []
    lines += ["STOPPING=1"] if stopping else []
    lines += [f"STATUS={status}".replace("\n", " ")] if status is not None else []
    # An address that begins with @ is in the abstract namespace, written with a zero byte.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto("\n".join(lines).encode(), f"\0{address[1:]}" if address[0] == "@" else address)
