"""Hosts whose packets take the fast path, and how a test sees which way they took.

That is told by the interfaces on the kernel's way: what a container sends comes out of its bridge, unless the programs
took it before.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overlayd.errors import CommandFailed
from overlayd.host.host import COMES
from overlayd.kernel import tcx
from overlayd.kernel.tc import Direction
from overlayd.lib import process
from tests.testbed.netns import namespaces
from tests.testbed.netns.lab import Host, Lab, laboratory
from tests.testbed.netns.traffic import Losses, pings, send_over_tcp
from tests.testbed.polling import eventually

CONFIGS: dict[str, dict[str, Any]] = {
    "vxlan": {"Type": "vxlan"},
    "host-gw": {"Type": "host-gw"},
    "udp": {"Type": "udp"},
    "auto": {"Type": "auto"},
}
DATA = random.Random(14).randbytes(3_000_000)
# What the first packets of a connection and acknowledgements may take of the kernel's way.
FEW_BYTES = len(DATA) // 20
HEALTH = 9470
WITHOUT_TCX, CONFINED = (Path(__file__).with_name(name) for name in ("without_tcx.py", "confined.py"))
UNIT = Path(__file__).parents[3] / "rpm/units/overlayd.service"
# linux/in.h; Python has none of them.
IP_RECVERR, IP_RECVTTL = 11, 12


@contextmanager
def fast_laboratory(folder: Path, backend: str, *, confined: bool = False) -> Iterator[Lab]:
    """A lab with hosts a and b, between which packets take the fast path. `clsact` after the backend: without TCX.

    `confined`: their daemons have the unit's rights only.
    """
    backend, _, clsact = backend.partition(" ")
    with laboratory(folder, CONFIGS[backend]) as lab:
        for name in ("a", "b"):
            host = lab.host(name, settings={"healthz-port": HEALTH, "fast-path": "auto"}, start=False)
            if clsact:
                host.launcher = (sys.executable, str(WITHOUT_TCX))
            elif confined:
                host.launcher = (sys.executable, str(CONFINED), str(UNIT), str(host.run_dir), str(host.state_dir), "--")
            host.start()
            host.start_container()
        eventually("b is reachable from a", lambda: pings(lab.hosts[0], lab.hosts[1]))
        for host in lab.hosts:
            fast(host)
        yield lab


def fast(host: Host) -> None:
    """Wait until the host says that packets take the fast path, and its container, if there is one, is on it.

    A container of a lab gets its address after its interface is up, of which the kernel does not tell.
    """

    def is_fast() -> bool:
        if host.status().get("fast_path") != "on":
            return False
        links = [link["ifname"] for link in json.loads(host.run("ip", "-json", "link", "show"))]
        return "vethc" not in links or any("overlayd" in one for one in filters(host, "vethc"))

    eventually(f"{host.name} is on the fast path", is_fast, timeout_s=15)


def slow(host: Host) -> str:
    """Wait until the host says that they do not; why."""

    def reason() -> str | None:
        found = host.status().get("fast_path")
        return None if found in ("on", COMES, None) else str(found)

    return str(eventually(f"{host.name} is off the fast path", reason, timeout_s=15))


def by_the_bridge(host: Host) -> int:
    """How many bytes containers' packets had that came through the bridge, so far."""
    return int(host.run("cat", "/sys/class/net/docker0/statistics/rx_bytes"))


def counted(host: Host) -> dict[str, int]:
    """The programs' counters, by the last look of the daemon."""
    text = host.run("curl", "-s", f"http://127.0.0.1:{HEALTH}/metrics")
    lines = (line.split() for line in text.splitlines() if line.startswith("overlayd_fast_path_packets_total{"))
    return {name.split('"')[1]: int(float(value)) for name, value in lines}


def all_arrives(source: Host, target: Host) -> None:
    """Send the data from container to container, and compare it and the source address."""
    received = send_over_tcp(source, target, DATA)
    assert (received.digest, received.peer) == (hashlib.sha256(DATA).hexdigest(), source.container_address)


@contextmanager
def a_rule(host: Host, *words: str) -> Iterator[None]:
    """A rule of an administrator for the length of the block."""
    host.run("iptables", "-I", *words)
    try:
        yield
    finally:
        host.run("iptables", "-D", *words)


def programs(host: Host) -> list[str]:
    """What is attached to the host's interfaces, with the queueing disciplines that only programs need."""
    return filters(host) + [line for line in host.run("tc", "qdisc", "show").splitlines() if "clsact" in line]


def filters(host: Host, *names: str) -> list[str]:
    """What is attached to the host's interfaces, by TCX and clsact; to all without `names`."""
    links = names or [link["ifname"] for link in json.loads(host.run("ip", "-json", "link", "show"))]
    found = namespaces.inside(host.namespace, lambda: [one for link in links for one in _by_tcx(link)])
    for link in links:
        for direction in ("ingress", "egress"):
            said = host.run("tc", "filter", "show", "dev", link, direction)
            found += [f"{link} {line.strip()}" for line in said.splitlines()]
    return found


def _by_tcx(link: str) -> list[str]:
    with contextlib.suppress(OSError):
        rows = {direction: tcx.read(socket.if_nametoindex(link), direction) for direction in Direction}
        return [
            f"{link} {direction.name.lower()} tcx {tcx.name_of(one)}"
            for direction, row in rows.items()
            for one in (row.ids if row else ())
        ]
    return []


@contextmanager
def echo(host: Host, *, port: int = 7007) -> Iterator[int]:
    """A program in the host's container that sends each datagram back."""
    end = namespaces.inside(host.container, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    end.bind(("0.0.0.0", port))
    end.settimeout(0.05)
    stop = threading.Event()

    def answer() -> None:
        while not stop.is_set():
            try:
                data, sender = end.recvfrom(65536)
            except TimeoutError:
                continue
            end.sendto(data, sender)

    thread = threading.Thread(target=answer)
    with end:
        thread.start()
        try:
            yield port
        finally:
            stop.set()
            thread.join()


def ask(source: Host, target: Host, port: int, *, count: int, address: str = "", source_port: int = 0) -> int:
    """How many of some datagrams, one after the other, are answered within a second each, and from where they went."""
    answered, where = 0, (address or str(target.container_address), port)
    with namespaces.inside(source.container, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as end:
        end.bind(("0.0.0.0", source_port))
        end.settimeout(1)
        for number in range(count):
            end.sendto(f"{number:100}".encode(), where)
            with contextlib.suppress(TimeoutError):
                answered += end.recvfrom(1000) == (f"{number:100}".encode(), where)
    return answered


@dataclass
class Flow:
    """A TCP connection that carries a known sequence: bytes so far, and how many were not as sent."""

    received: int = 0
    harmed: int = 0
    problem: str = ""


def moved(flow: Flow) -> None:
    """Wait until more of the sequence has arrived."""
    before = flow.received
    eventually("the connection goes on", lambda: flow.received > before + 200_000 or bool(flow.problem), timeout_s=10)
    assert not flow.problem


@contextmanager
def flowing(source: Host, target: Host, *, address: str = "", port: int = 5300) -> Iterator[Flow]:
    """Send a sequence from container to container for the length of the block, at about 2 MB a second."""
    flow, stop = Flow(), threading.Event()
    block = random.Random(5).randbytes(20_000)
    listener = namespaces.inside(target.container, lambda: socket.create_server(("0.0.0.0", port)))
    listener.settimeout(10)

    def receive() -> None:
        try:
            connection, _peer = listener.accept()
            connection.settimeout(15)
            with connection:
                while chunk := connection.recv(65536):
                    at = flow.received % len(block)
                    flow.harmed += chunk != (block + block + block + block + block)[at : at + len(chunk)]
                    flow.received += len(chunk)
        except OSError as error:
            flow.problem = str(error)

    def send() -> None:
        try:
            with namespaces.inside(source.container, lambda: socket.create_connection(where, timeout=10)) as client:
                client.settimeout(15)
                while not stop.wait(0.01):
                    client.sendall(block)
        except OSError as error:
            flow.problem = str(error)

    where = (address or str(target.container_address), port)
    threads = [threading.Thread(target=call) for call in (receive, send)]
    with listener:
        for thread in threads:
            thread.start()
        try:
            yield flow
        finally:
            stop.set()
            for thread in threads:
                thread.join()


@contextmanager
def telling(source: Host, target: Host, *, port: int = 5301, interval_s: float = 0.002) -> Iterator[Losses]:
    """Send datagrams with numbers from container to container for the length of the block; which do not arrive."""
    listener, end = (
        namespaces.inside(host.container, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        for host in (target, source)
    )
    losses, stop, seen = Losses(), threading.Event(), set[bytes]()
    listener.bind(("0.0.0.0", port))
    listener.settimeout(0.5)

    def receive() -> None:
        while True:
            try:
                seen.add(listener.recv(100))
            except TimeoutError:
                if stop.is_set():
                    return

    def send() -> None:
        while not stop.wait(interval_s):
            end.sendto(str(losses.sent).encode(), (str(target.container_address), port))
            losses.sent += 1

    threads = [threading.Thread(target=call) for call in (receive, send)]
    with listener, end:
        for thread in threads:
            thread.start()
        try:
            yield losses
        finally:
            stop.set()
            for thread in threads:
                thread.join()
            losses.received = len(seen)


def ttl_at(source: Host, target: Host, port: int) -> int:
    """The TTL of a datagram as it arrives, of a flow that is known."""
    listener = namespaces.inside(target.container, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with listener, namespaces.inside(source.container, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as end:
        listener.bind(("0.0.0.0", port + 1))
        listener.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        listener.settimeout(2)
        for _ in range(3):
            end.sendto(b"x", (str(target.container_address), port + 1))
            _data, (found, *_rest), _flags, _sender = listener.recvmsg(100, 100)
        return int.from_bytes(found[2][:4], "little")


def said_of_ttl_one(source: Host, target: Host, port: int) -> str:
    """Who answers that the TTL was exceeded, to a datagram with TTL 1."""
    with namespaces.inside(source.container, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as end:
        end.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        end.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
        end.sendto(b"x", (str(target.container_address), port))
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            try:
                _data, (found, *_rest), _flags, _who = end.recvmsg(100, 512, socket.MSG_ERRQUEUE)
            except BlockingIOError:
                time.sleep(0.05)
                continue
            # sock_extended_err, then the sockaddr_in of who said so
            return socket.inet_ntoa(found[2][20:24])
        return "nobody"


def fetched(source: Host, target: Host, address: str, port: int) -> bytes:
    """What a server in the target's container says to a connection, always from the same port."""
    listener = namespaces.inside(target.container, lambda: socket.create_server(("0.0.0.0", 5300)))
    listener.settimeout(5)

    def serve() -> None:
        connection, _peer = listener.accept()
        with connection:
            # The client closes first, so that its port is free at once.
            connection.sendall(b"yes")
            with contextlib.suppress(ConnectionResetError):
                connection.recv(1)

    def connect() -> socket.socket:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Reset instead of TIME_WAIT: the next connection has the same ports.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.bind(("0.0.0.0", 45454))
        client.settimeout(5)
        client.connect((address, port))
        return client

    server = threading.Thread(target=serve)
    with listener:
        server.start()
        try:
            with namespaces.inside(source.container, connect) as client:
                return client.recv(10)
        finally:
            server.join()


def set_offload(enter: list[str], device: str, offload: str, state: str) -> None:
    """Switch an offload; some switch others, which is as it is on real cards."""
    try:
        process.run([*enter, "ethtool", "-K", device, offload, state])
    except CommandFailed as error:
        if "Cannot change" not in error.message and "Operation not supported" not in error.message:
            raise
