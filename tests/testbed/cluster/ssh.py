"""Commands on a virtual machine, by ssh with a key of its cluster. One connection serves all of them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path

from overlayd.lib import process

_COMMAND_S = 900.0
_CONNECT_S = 20
_KEPT_S = 600


class Ssh:
    """ssh to one machine. It believes any host key: a machine makes its own at its first boot."""

    def __init__(self, address: IPv4Address, key: Path, control: Path, *, port: int = 22) -> None:
        """`control` is the socket of the connection that is kept."""
        self._address = address
        self._key = key
        self._control = control
        self._options = [
            *("-F", "/dev/null", "-p", str(port), "-i", str(key), "-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR"),
            *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
            *("-o", f"ConnectTimeout={_CONNECT_S}", "-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=6"),
        ]

    def to(self, address: IPv4Address, control: Path) -> Ssh:
        """ssh with the same key to another address."""
        return Ssh(address, self._key, control)

    def argv(self, *more: str) -> list[str]:
        """The command line of an ssh of its own."""
        return ["ssh", *self._options, *more, f"root@{self._address}"]

    def run(self, argv: Sequence[str], *, timeout_s: float = _COMMAND_S) -> str:
        """Run a command to its end; what it printed. Raises CommandFailed."""
        kept = ["-o", "ControlMaster=auto", "-o", f"ControlPath={self._control}", "-o", f"ControlPersist={_KEPT_S}"]
        return process.run([*self.argv("-T", "-n", *kept), "--", shlex.join(argv)], timeout_s=timeout_s)

    def close(self) -> None:
        """End the connection that is kept, if there is one: to a machine that was cut off it would hang."""
        if self._control.exists():
            process.run(["ssh", "-o", f"ControlPath={self._control}", "-O", "exit", "machine"], timeout_s=10)
