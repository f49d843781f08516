"""A place where the bench runs commands: a network namespace, entered from this machine with this machine's programs.

So the same programs measure on every base and in both topologies, and no image has to hold them.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from images.engine import process as engine_process
from overlayd.errors import CommandFailed, OverlaydError
from overlayd.lib import process
from tests.testbed.polling import eventually

_STARTED_S = 10.0


@dataclass(frozen=True)
class Place:
    """A network namespace by the path that names it, and an address that it has."""

    namespace: Path
    address: IPv4Address

    def words(self, *argv: str) -> list[str]:
        """The command line that runs a command here."""
        return ["nsenter", f"--net={self.namespace}", *argv]

    def run(self, *argv: str, stdin: str | None = None, timeout_s: float = 30) -> str:
        """Run a command here to its end; what it printed. Raises CommandFailed."""
        return process.run(self.words(*argv), input=stdin, timeout_s=timeout_s)

    def output(self, *argv: str, timeout_s: float, env: Mapping[str, str] | None = None) -> str:
        """Run a command here; all that it printed, whatever its exit status. Raises CommandFailed when it hangs."""
        try:
            done = subprocess.run(
                self.words(*argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=timeout_s,
                check=False,
                env={**os.environ, **(env or {})},
            )
        except subprocess.TimeoutExpired:
            raise CommandFailed(f"{shlex.join(argv)}: killed, no end after {timeout_s:g} s") from None
        return done.stdout

    def listens(self, port: int, *, udp: bool = False) -> bool:
        """Whether something listens on a port here."""
        return bool(self.run("ss", "-Hln", "-u" if udp else "-t", f"sport = :{port}").strip())

    def reaches(self, address: IPv4Address, *, size_bytes: int = 56) -> bool:
        """Whether one echo of that size from here is answered."""
        try:
            self.run("ping", "-n", "-q", "-c", "1", "-W", "1", "-s", str(size_bytes), str(address), timeout_s=5)
        except CommandFailed:
            return False
        return True


@dataclass(frozen=True)
class Pair:
    """Two places with a way between them that is measured: from `source` to `target`'s address."""

    source: Place
    target: Place


@contextmanager
def running(
    words: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program for the length of the block; the kernel ends it when this process is killed.

    Only for the main thread: the kernel takes the end of the thread that starts it for ours (prctl(2)).
    """
    with log.open("wb") as out:
        started = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *words],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            env={**os.environ, **(env or {})},
        )
    try:
        yield started
    finally:
        engine_process.end(started)


def wait_for(started: subprocess.Popen[bytes], what: str, condition: Callable[[], object], log: Path) -> None:
    """Wait until `condition()` is true. Raises OverlaydError with the end of the log when the program ended first."""

    def settled() -> bool:
        return started.poll() is not None or bool(condition())

    eventually(what, settled, timeout_s=_STARTED_S)
    if started.poll() is not None:
        raise OverlaydError(f"{what}: it ended: {log.read_text(errors='replace').strip()[-500:]}")
