"""The forwarder that works everywhere: a TUN device, a UDP socket, and this process between them.

One system call a packet in each direction, no allocation on the way but Python's own. A forwarder in the kernel is
wanted for speed; this one is for kernels that cannot.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable
from ipaddress import IPv4Address

from overlayd.backends.packets import DESTINATION, SOURCE, is_ipv4, net_unreachable, spend_hop
from overlayd.backends.peers import PeerTable
from overlayd.errors import KernelRefused
from overlayd.kernel.tun import open_queue

IP_MTU_DISCOVER, IP_PMTUDISC_DONT = 10, 0
SOCKET_BUFFER_BYTES = 4 * 1024 * 1024
LARGEST_PACKET_BYTES = 65536
# How many packets of one direction are moved before the other has its turn to be asked.
BURST = 64


class TunForwarder:
    """Moves bare IPv4 packets between a TUN device and a UDP port, for the peers of a table.

    `dropped` counts what was not let through, by reason. `table` may be replaced at any time, from any thread.
    """

    def __init__(self, *, device: str, local: IPv4Address, port: int, own_address: IPv4Address) -> None:
        """Open device and port. Raises KernelRefused, UnsupportedError."""
        self.table = PeerTable((), port)
        self.dropped = dict.fromkeys(
            ("no lease", "foreign source", "malformed", "no hop left", "no route", "refused"), 0
        )
        self._own_address = own_address
        try:
            self._tun = open_queue(device)
        except OSError as error:
            raise KernelRefused("open", f"TUN device {device}", error.errno or 0) from error
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._udp.setblocking(False)
            # The outer packet may be fragmented: better slow than a black hole where the path is narrower than our MTU.
            self._udp.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                self._udp.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
            self._udp.bind((str(local), port))
        except OSError as error:
            self.close()
            raise KernelRefused("bind", f"UDP {local}:{port}", error.errno or 0) from error

    def close(self) -> None:
        """Close both ends. The device stays."""
        os.close(self._tun)
        self._udp.close()

    def run(self, stop: threading.Event) -> None:
        """Move packets both ways until `stop` is set."""
        threads = [
            threading.Thread(target=self._pump, args=(stop, end, move), name=name, daemon=True)
            for name, end, move in (
                ("tun-to-udp", self._tun, self._out()),
                ("udp-to-tun", self._udp.fileno(), self._in()),
            )
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _pump(self, stop: threading.Event, end: int, move: Callable[[], None]) -> None:
        poll = select.poll()
        poll.register(end, select.POLLIN)
        while not stop.is_set():
            if not poll.poll(200):
                continue
            try:
                for _ in range(BURST):
                    move()
            except BlockingIOError:
                continue
            except OSError:
                # A full queue, a device that is down, an ICMP error from a peer: the packet is lost, as packets are.
                self.dropped["refused"] += 1

    def _out(self) -> Callable[[], None]:
        buffer = bytearray(LARGEST_PACKET_BYTES)
        view, buffers, tun, send, dropped = memoryview(buffer), [buffer], self._tun, self._udp.sendto, self.dropped

        def move() -> None:
            length = os.readv(tun, buffers)
            if not is_ipv4(buffer, length):
                return  # the kernel's own IPv6 neighbour discovery, for one
            peer = self.table.way_out(int.from_bytes(buffer[DESTINATION : DESTINATION + 4]))
            if peer is None:
                dropped["no route"] += 1
                answer = net_unreachable(bytes(buffer[:length]), self._own_address)
                if answer is not None:
                    os.write(tun, answer)
            elif spend_hop(buffer):
                send(view[:length], peer)
            else:
                dropped["no hop left"] += 1

        return move

    def _in(self) -> Callable[[], None]:
        buffer = bytearray(LARGEST_PACKET_BYTES)
        view, tun, receive, dropped = memoryview(buffer), self._tun, self._udp.recvfrom_into, self.dropped

        def move() -> None:
            length, (sender, _port) = receive(buffer)
            table = self.table
            if not table.known(sender):
                dropped["no lease"] += 1
            elif not is_ipv4(buffer, length):
                dropped["malformed"] += 1
            elif not table.may_send(sender, int.from_bytes(buffer[SOURCE : SOURCE + 4])):
                dropped["foreign source"] += 1
            elif spend_hop(buffer):
                os.write(tun, view[:length])
            else:
                dropped["no hop left"] += 1

        return move
