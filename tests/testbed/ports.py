"""Ports that nobody listens on."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence


def free_ports(hosts: Sequence[str]) -> list[int]:
    """A free TCP port at each of these addresses of this machine, no two the same."""
    with contextlib.ExitStack() as all_open:
        probes = [all_open.enter_context(socket.socket()) for _ in hosts]
        for probe, host in zip(probes, hosts, strict=True):
            probe.bind((host, 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def free_port() -> int:
    """A free TCP port of 127.0.0.1."""
    return free_ports(["127.0.0.1"])[0]
