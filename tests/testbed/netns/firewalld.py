"""The real firewalld on a lab's hosts, each with a D-Bus of its own, and flows that are new to every firewall."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise
from pathlib import Path

from tests.testbed.netns import namespaces
from tests.testbed.netns.lab import Host
from tests.testbed.polling import eventually

SHIPPED = Path(__file__).parents[3] / "rpm/firewalld"
DEFAULTS = Path("/usr/lib/firewalld")
PORT = 5300
ANSWERED_S = 0.05
# As dockerd from 20.10 on makes it.
DOCKER_ZONE = """<?xml version="1.0" encoding="utf-8"?>
<zone target="ACCEPT"><short>docker</short><interface name="docker0"/></zone>
"""
# No authorisation but the file's own mode: whoever reaches the socket is root.
_BUS_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="root"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>
  </policy>
</busconfig>
"""


class Firewalld:
    """firewalld with stock settings on one host, with our files in its defaults if `shipped`, as the RPM puts them."""

    def __init__(self, host: Host, *, docker_zone: bool, shipped: bool = True) -> None:
        """Values and files only."""
        self._host = host
        self.folder = host.bus.parent / "firewalld"
        shutil.copytree(DEFAULTS, self.folder / "defaults")
        if shipped:
            self.ship()
        for name in ("zones", "policies", "services", "ipsets", "icmptypes", "helpers"):
            (self.folder / "own" / name).mkdir(parents=True)
        if docker_zone:
            (self.folder / "own/zones/docker.xml").write_text(DOCKER_ZONE)
        self._bus: subprocess.Popen[bytes] | None = None
        self._daemon: subprocess.Popen[bytes] | None = None

    def ship(self) -> None:
        """Put our files among its defaults; it reads them at its start and when it reloads."""
        shutil.copytree(SHIPPED, self.folder / "defaults", dirs_exist_ok=True)

    def unship(self) -> None:
        """Take them away again."""
        for path in SHIPPED.glob("*/*.xml"):
            (self.folder / "defaults" / path.relative_to(SHIPPED)).unlink()

    def start(self) -> None:
        """Start it, and before it the bus if that does not run; return when it answers."""
        if self._bus is None:
            config = self.folder / "bus.conf"
            config.write_text(_BUS_CONFIG.format(path=self._host.bus))
            self._bus = self._spawn("dbus-daemon", "--nofork", "--nopidfile", f"--config-file={config}")
            eventually("the bus", self._host.bus.exists)
        options = [f"--system-config={self.folder}/own", f"--default-config={self.folder}/defaults"]
        options += ["--nofork", "--nopid", "--log-target=file", f"--log-file={self.folder}/log"]
        # Its folder in /run is this host's: `ip netns exec` has made the mounts private.
        self._daemon = self._spawn("sh", "-c", 'mount -t tmpfs firewalld /run && exec firewalld "$@"', "sh", *options)
        eventually("firewalld runs", lambda: self._command("--state").returncode == 0)

    def stop(self) -> None:
        """End it as systemd does; it takes its rules along. The bus stays."""
        if self._daemon is not None:
            self._daemon.terminate()
            self._daemon.wait(20)
            self._daemon = None

    def remove(self) -> None:
        """End it and the bus."""
        self.stop()
        if self._bus is not None:
            self._bus.terminate()
            self._bus.wait(20)
            self._bus = None

    def cmd(self, *words: str) -> str:
        """What firewall-cmd prints; it must succeed."""
        done = self._command(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def state(self) -> list[str]:
        """All of its runtime configuration, as firewall-cmd prints it and as it is in the kernel."""
        printed = [self.cmd(f"--list-all-{what}") for what in ("zones", "policies")]
        printed += [self._host.run("nft", "list", "table", "inet", "firewalld")]
        return [line for part in printed for line in part.splitlines()]

    def _spawn(self, *argv: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{argv[0]}.out").open("ab") as out:
            return subprocess.Popen(
                ["ip", "netns", "exec", self._host.namespace, *argv],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=self._host.environment(),
            )

    def _command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["ip", "netns", "exec", self._host.namespace, "firewall-cmd", *words],
            capture_output=True,
            text=True,
            env={**self._host.environment(), "LC_ALL": "C"},
            timeout=60,
            check=False,
        )


@dataclass
class Flows:
    """When flows were tried, and whether each was answered. Times are of time.monotonic()."""

    tried: list[tuple[float, bool]] = field(default_factory=list)

    def answered_since(self, moment: float) -> bool:
        """Whether one that began after that moment was."""
        return any(good and at > moment for at, good in self.tried)

    def back_at(self) -> float:
        """When the first flow began after which every one was answered."""
        bad = [at for at, good in self.tried if not good]
        return next(at for at, good in self.tried if good and (not bad or at > bad[-1]))

    def longest_gap_s(self) -> float:
        """The longest time between two answered ones."""
        good = [at for at, answered in self.tried if answered]
        return max(after - before for before, after in pairwise(good))


@contextmanager
def new_flows(source: Host, target: Host, *, at_most: int = 2000) -> Iterator[Flows]:
    """Try one new flow after another from container to container, no more than 100 a second, while the block lasts.

    Each is a UDP datagram from another port, and its echo: no firewall knows it from before, as it does a running ping.
    """
    flows, stop = Flows(), threading.Event()
    echo = namespaces.inside(target.container, lambda: _udp(("0.0.0.0", PORT)))

    def answer() -> None:
        while not stop.is_set():
            try:
                echo.sendto(b"", echo.recvfrom(16)[1])
            except TimeoutError:
                continue

    def ask() -> None:
        for _ in range(at_most):
            began = time.monotonic()
            with _udp(("0.0.0.0", 0)) as end:
                end.connect((str(target.container_address), PORT))
                flows.tried.append((began, _answered(end)))
            if stop.wait(0.01):
                return

    threads = [
        threading.Thread(target=answer),
        threading.Thread(target=lambda: namespaces.inside(source.container, ask)),
    ]
    for thread in threads:
        thread.start()
    try:
        yield flows
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        echo.close()


def _udp(address: tuple[str, int]) -> socket.socket:
    end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    end.settimeout(ANSWERED_S)
    end.bind(address)
    return end


def _answered(end: socket.socket) -> bool:
    try:
        end.send(b"")
        end.recv(16)
    except OSError:
        return False
    return True


class Mailbox:
    """A UDP port in a host's container, to see who gets in."""

    def __init__(self, host: Host) -> None:
        self._address = host.container_address
        self._socket = namespaces.inside(host.container, lambda: _udp(("0.0.0.0", PORT + 1)))
        self._socket.setblocking(False)

    def send(self, namespace: str, text: str, *, source: IPv4Address | IPv6Address | str = "0.0.0.0") -> None:
        """Send a text from a namespace, with that source address."""

        def call() -> None:
            with _udp((str(source), 0)) as end:
                end.sendto(text.encode(), (str(self._address), PORT + 1))

        namespaces.inside(namespace, call)

    def got(self) -> set[str]:
        """What came since the last look."""
        found = set()
        while True:
            try:
                found.add(self._socket.recv(64).decode())
            except BlockingIOError:
                return found

    def close(self) -> None:
        """Close it."""
        self._socket.close()


def programs_missing() -> list[str]:
    """Which of the programs are not installed."""
    return [name for name in ("firewalld", "firewall-cmd", "dbus-daemon") if shutil.which(name) is None]
