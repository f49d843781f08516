"""Packets between namespaces, counted and checked. All of it bounded in number and time."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from overlayd.errors import CommandFailed
from tests.testbed.echoes import before_the_end, parse_echoes
from tests.testbed.netns import namespaces
from tests.testbed.netns.lab import Host
from tests.testbed.records import Fault

ICMP_AND_IP_BYTES = 28
_ICMP_AND_IP6_BYTES = 48
_PORT = 5201
_CLOSED_PORT = 5202


def pings(source: Host, target: Host) -> bool:
    """Whether one ICMP echo from container to container is answered."""
    return reaches(source, target.container_address)


def pings6(source: Host, target: Host) -> bool:
    """The same over IPv6."""
    return reaches(source, target.container_address6)


def pings_all(source: Host, target: Host) -> bool:
    """The same over each IP version that the network has."""
    return all(reaches(source, subnet[2]) for subnet in target.subnets)


def reaches(source: Host, address: IPv4Address | IPv6Address) -> bool:
    """Whether one ICMP echo from a host's container to an address is answered."""
    try:
        namespaces.run(source.container, ["ping", "-n", "-c", "1", "-W", "1", str(address)])
    except CommandFailed:
        return False
    return True


def answered_pings(
    source: str, address: IPv4Address | IPv6Address, *, count: int = 5, options: Sequence[str] = ()
) -> Losses:
    """How many of a few echoes from a namespace to an address are answered, within a second each.

    A ping of its own for each: of several, ping waits for the last for as little as two round trips (ping(8), -W), so
    that one that is late on a busy machine would count as lost.
    """
    argv = ["ip", "netns", "exec", source, "ping", "-n", "-q", "-c", "1", "-W", "1", *options, str(address)]
    losses = Losses()
    for _ in range(count):
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, timeout=20, env={**os.environ, "LC_ALL": "C"}
        )
        found = re.search(r"1 packets transmitted, (\d) received", done.stdout)
        assert found, done.stdout + done.stderr
        losses.sent += 1
        losses.received += int(found[1])
    return losses


def lost_of_size(source: Host, target: Host, packet_bytes: int, *, address: IPv6Address | None = None) -> str:
    """How many of two packets of exactly that size, unfragmented from container to container, are lost: "0 of 2".

    To another address of the target if one is given.
    """
    size = packet_bytes - (ICMP_AND_IP_BYTES if address is None else _ICMP_AND_IP6_BYTES)
    where = address or target.container_address
    return str(answered_pings(source.container, where, count=2, options=("-M", "do", "-s", str(size))))


@dataclass
class Losses:
    """How a run of pings ended. Filled in when the block of `pinging` is left.

    `gap_s` is the longest time without an answer, by the number of pings in a row that have none.
    """

    sent: int = 0
    received: int = 0
    gap_s: float = 0.0

    @property
    def lost(self) -> int:
        """How many were not answered."""
        return self.sent - self.received

    def fault(self, what: str, backend: str) -> Fault:
        """What it cost that something happened at some moment of these pings, for the night's page."""
        return Fault(fault=what, backend=backend, sent=self.sent, lost=self.lost, recovered_s=round(self.gap_s, 3))

    def __str__(self) -> str:
        return f"{self.lost} of {self.sent}"


@contextmanager
def pinging(source: Host, target: Host, *, interval_s: float = 0.01, at_most: int = 3000) -> Iterator[Losses]:
    """Ping from container to container for as long as the block lasts."""
    with pinging_from(source.container, target.container_address, interval_s=interval_s, at_most=at_most) as losses:
        yield losses


@contextmanager
def pinging_from(
    namespace: str, address: IPv4Address | IPv6Address, *, interval_s: float = 0.01, at_most: int = 3000
) -> Iterator[Losses]:
    """The same from any namespace to any address."""
    argv = ["ip", "netns", "exec", namespace, "ping", "-n", "-i", str(interval_s), "-c", str(at_most)]
    argv += ["-W", "1", str(address)]
    losses = Losses()
    # A pipe would be full after a thousand lines.
    with tempfile.TemporaryFile("w+") as file:
        process = subprocess.Popen(argv, stdout=file, text=True, env={**os.environ, "LC_ALL": "C"})
        try:
            yield losses
            before_the_end()
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=20)
        file.seek(0)
        output = file.read()
    echoes = parse_echoes(output, interval_s)
    losses.sent, losses.received = echoes.sent, len(echoes.answered)
    losses.gap_s = interval_s * _longest_gap(echoes.answered, echoes.sent)


def _longest_gap(answered: frozenset[int], sent: int) -> int:
    """How many of the numbers from 1 to `sent` are missing in a row."""
    ends = [0, *sorted(answered), sent + 1]
    return max(after - before - 1 for before, after in itertools.pairwise(ends))


@contextmanager
def connecting_from(
    namespace: str, address: IPv4Address | IPv6Address, *, interval_s: float = 0.02, lost_s: float = 0.8
) -> Iterator[Losses]:
    """Ask a port that is closed for one new connection after the other, each a flow that no rule knows yet.

    The refusal tells that packets went there and back; within `lost_s`, which is less than the kernel's second try.
    """
    losses, ended = Losses(), threading.Event()

    def ask() -> None:
        while not ended.wait(interval_s):
            losses.sent += 1
            try:
                socket.create_connection((str(address), _CLOSED_PORT), timeout=lost_s).close()
            except ConnectionRefusedError:
                losses.received += 1
            except OSError:
                pass

    thread = threading.Thread(target=namespaces.inside, args=(namespace, ask))
    thread.start()
    try:
        yield losses
    finally:
        ended.set()
        thread.join()


@dataclass(frozen=True)
class Received:
    """What a TCP server saw of one connection."""

    peer: IPv4Address
    digest: str
    count: int


def send_over_tcp(source: Host, target: Host, data: bytes, *, address: IPv4Address | None = None) -> Received:
    """Send data over one TCP connection from container to container; what the other end saw.

    To another address of the target's container if one is given.
    """
    listener = namespaces.inside(target.container, lambda: socket.create_server(("0.0.0.0", _PORT)))
    received: list[Received] = []

    def serve() -> None:
        connection, (peer, _port) = listener.accept()
        connection.settimeout(20)
        digest, count = hashlib.sha256(), 0
        with connection:
            while chunk := connection.recv(65536):
                digest.update(chunk)
                count += len(chunk)
        received.append(Received(IPv4Address(peer), digest.hexdigest(), count))

    listener.settimeout(10)
    server = threading.Thread(target=serve)
    with listener:
        server.start()
        where = (str(address or target.container_address), _PORT)
        try:
            with namespaces.inside(source.container, lambda: socket.create_connection(where, timeout=10)) as client:
                client.sendall(data)
        finally:
            server.join()
    return received[0]
