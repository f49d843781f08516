"""The forwarder that works on every kernel: a TUN device, a UDP socket, and one thread of this process between them.

Packets to one peer that wait together leave in one system call (UDP_SEGMENT, Linux 4.18), and datagrams that arrive
together come in one (UDP_GRO, 5.0), of which the kernel takes TCP segments joined. On the wire each packet is a
datagram of its own, as flannel's are.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from ipaddress import IPv4Address

from overlayd.backends.drops import DROPPED
from overlayd.backends.peers import PeerTable
from overlayd.backends.receiver import Receiver
from overlayd.backends.sender import Sender
from overlayd.errors import KernelRefused, OverlaydError
from overlayd.kernel.tun import open_queue
from overlayd.lib.log import logger

log = logger("udp")

# linux/in.h: Python's socket module does not name them.
IP_MTU_DISCOVER, IP_PMTUDISC_DONT = 10, 0
SOCKET_BUFFER_BYTES = 4 * 1024 * 1024
POLL_MS = 200
# So long the socket may be full, in s, before what waits for it is dropped.
FULL_S = 1.0
RETRY_S = 0.5


class TunForwarder:
    """Moves bare IPv4 packets between a TUN device and a UDP port, for the peers of a table.

    `dropped` counts what this process did not let through, by reason. `table` may be replaced at any time, from any
    thread. `problem` says why nothing is carried, while that is so.
    """

    def __init__(self, *, device: str, local: IPv4Address, port: int, mtu_bytes: int) -> None:
        """Open device and port. Raises KernelRefused, UnsupportedError."""
        self.table = PeerTable((), port)
        self.dropped = DROPPED.values
        self.problem: str | None = None
        self._device = device
        self._tun = self._open_device()
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._udp.setblocking(False)
            # The outer packet may be fragmented: better slow than a black hole where the path is narrower than our MTU.
            self._udp.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                self._udp.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
            self._receiver = Receiver(self._udp, mtu_bytes=mtu_bytes)
            self._sender = Sender(self._udp)
        except OSError as error:
            self._close_device()
            self._udp.close()
            raise KernelRefused("open", "the sockets of backend udp", error.errno or 0) from error
        try:
            self._udp.bind((str(local), port))
        except OSError as error:
            self.close()
            raise KernelRefused(
                "bind",
                f"UDP {local}:{port}",
                error.errno or 0,
                hint=f"see who has the port: ss -ulpn 'sport = :{port}'",
            ) from error

    @property
    def way(self) -> str:
        """What the kernel does for several packets at once, by its own names; `packet by packet` where nothing."""
        names = ["UDP_SEGMENT"] if self._sender.batches else []
        names += ["UDP_GRO"] if self._receiver.batches else []
        return ", ".join(names) or "packet by packet"

    def close(self) -> None:
        """Close both ends. The device stays."""
        self._close_device()
        self._udp.close()
        self._sender.close()

    def run(self, stop: threading.Event) -> None:
        """Move packets both ways until `stop` is set. A device that somebody deletes is made again."""
        while not stop.is_set():
            try:
                if self._tun < 0:
                    self._tun = self._open_device()
                self.problem = None
                self._pump(stop)
            except OverlaydError as error:
                if self.problem != error.message:
                    log.error("cannot open the device", ifname=self._device, problem=error.message)
                self.problem = error.message
                stop.wait(RETRY_S)

    def _open_device(self) -> int:
        try:
            return open_queue(self._device, header=True)
        except OSError as error:
            raise KernelRefused(
                "open", f"TUN device {self._device}", error.errno or 0, hint="another process may have it open"
            ) from error

    def _close_device(self) -> None:
        if self._tun >= 0:
            os.close(self._tun)
            self._tun = -1

    def _pump(self, stop: threading.Event) -> None:
        """Move packets until `stop` is set or the device is gone, which is then closed."""
        tun, udp, sender = self._tun, self._udp.fileno(), self._sender
        poll = select.poll()
        poll.register(tun, select.POLLIN)
        poll.register(udp, select.POLLIN)
        full_since: float | None = None
        while not stop.is_set():
            found = dict(poll.poll(POLL_MS))
            if full_since is not None:
                if found.get(udp, 0) & select.POLLOUT:
                    sender.resume()
                if sender.is_full and time.monotonic() - full_since > FULL_S:
                    sender.give_up()
            if found.get(udp, 0) & ~select.POLLOUT:
                self._receiver.drain(tun, self.table)
            if found.get(tun, 0) & ~select.POLLIN:
                log.warning("the device is gone; making it again", ifname=self._device)
                self._close_device()
                return
            if tun in found and not sender.is_full:
                sender.drain(tun, self.table)
            if sender.is_full != (full_since is not None):
                # While the socket is full the device is not read; that it is gone is reported all the same.
                full_since = time.monotonic() if sender.is_full else None
                poll.modify(tun, 0 if sender.is_full else select.POLLIN)
                poll.modify(udp, select.POLLIN | (select.POLLOUT if sender.is_full else 0))
