"""Checks all that etcd needs, reports what is wrong, and becomes etcd.

Exit status 2 where something is wrong. Words behind the command are flags for etcd; its variables are looked at only.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from types import FrameType

from etcd_container import cluster, data, ports, settings, trust
from etcd_container.problem import Problem

CONFIG_STATUS = 2
# In this order: a later check relies on what an earlier one has found right.
CHECKS: tuple[Callable[[Mapping[str, str]], list[Problem]], ...] = (
    settings.check,
    trust.check,
    data.check,
    ports.check,
    cluster.check,
)


def main() -> int:
    """Replace this process by etcd, or return the exit status."""
    for number in (signal.SIGTERM, signal.SIGINT):
        # The first process of a container gets only those signals that it has a handler for.
        signal.signal(number, _end)
    found = settings.complete(os.environ, address())
    for check in CHECKS:
        problems = check(found)
        for problem in problems:
            sys.stderr.write(f"etcd-start: {problem.text()}\n")
        if any(problem.fatal for problem in problems):
            return CONFIG_STATUS
    data.note(found)
    sys.stderr.flush()
    try:
        os.execvpe("etcd", ["etcd", *sys.argv[1:]], found)
    except OSError as error:
        sys.stderr.write(f"etcd-start: error: etcd cannot be started: {error.strerror}\n")
    return 1


def address() -> str:
    """This container's own address; the loopback address where it has no network."""
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return "127.0.0.1"


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)
