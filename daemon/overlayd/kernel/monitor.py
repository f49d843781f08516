"""Report changes in the kernel as they happen, by the multicast groups of rtnetlink(7) and nftables.

A message is only read as far as it takes to tell a relevant change from everyday noise and from what we write
ourselves: the callback gets no details, and reads the whole state again.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import threading
from collections.abc import Callable

from overlayd.kernel.expected import Expected, Verdict
from overlayd.kernel.interfaces import InterfaceList, read_list
from overlayd.kernel.links import RTM_DELADDR, RTM_DELLINK, RTM_NEWADDR, RTM_NEWLINK
from overlayd.kernel.messages import NETLINK_NETFILTER, each, opened
from overlayd.lib.kept import Kept
from overlayd.lib.log import logger

log = logger("kernel")

# linux/rtnetlink.h: RTMGRP_LINK, _NEIGH, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE
GROUPS = 0x1 | 0x4 | 0x10 | 0x40 | 0x100 | 0x400
# linux/netfilter/nfnetlink.h: NFNLGRP_NFTABLES as a bit, the messages' subsystem.
NFT_GROUPS, NFT_SUBSYSTEM = 1 << 6, 10
# linux/netfilter/nf_tables.h: a new or deleted table, chain, rule. Not elements of sets, which others add all the time.
NFT_RULES = {0, 2, 3, 5, 6, 8}
# What is told while this process does something else: of each of the most peers that are served, three messages, which
# take a kilobyte each. Memory is taken only when it is needed.
RECEIVE_BYTES = 16 * 1024 * 1024
# asm-generic/socket.h. It goes beyond net.core.rmem_max, which is 200 KB, with CAP_NET_ADMIN.
_SO_RCVBUFFORCE = 33
INTERFACE_KINDS = frozenset((RTM_NEWLINK, RTM_DELLINK, RTM_NEWADDR, RTM_DELADDR))
# Interfaces are read this often, in seconds, also when the kernel told of none.
INTERFACES_REST_S = 30.0


class Monitor:
    """Calls `on_change`, in a thread of its own, when a link, IPv4 address, route or permanent neighbour changes.

    And when rules of nftables change, or of iptables-nft; legacy iptables sends no message. Neighbours that the kernel
    learns and forgets by itself do not count: on a busy host that is every second.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        """Receive changes from now on; they are reported from `start` on. Raises OSError."""
        self.expected = Expected()
        self._of_interfaces = 0
        self._interfaces = Kept(read_list, self._interface_changes, rest_s=INTERFACES_REST_S)
        self._on_change = on_change
        self._changes = 0
        self._sockets: dict[socket.socket, Callable[[bytes], Verdict]] = {
            _listen(socket.NETLINK_ROUTE, GROUPS): self._judge
        }
        try:
            self._sockets[_listen(NETLINK_NETFILTER, NFT_GROUPS)] = judge_rules
        except OSError as error:
            log.debug("this kernel does not report changes of rules; they are read on each resync", problem=error)
        self._stop = os.eventfd(0)
        self._thread = threading.Thread(target=self._run, name="netlink-monitor", daemon=True)

    def changes(self) -> int:
        """Another number whenever there were news (expected.py); each time, while changes are not reported."""
        if not self._thread.is_alive():
            self._changes += 1
        return self._changes

    def interfaces(self) -> InterfaceList:
        """This host's interfaces: read again after the kernel told of a link or an address. For one thread.

        Raises KernelRefused.
        """
        return self._interfaces.get()

    def _interface_changes(self) -> int:
        if not self._thread.is_alive():
            self._of_interfaces += 1
        return self._of_interfaces

    def start(self) -> None:
        """Begin to report."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread at once; nothing is reported after it. To be called once."""
        os.eventfd_write(self._stop, 1)
        if self._thread.is_alive():
            self._thread.join()
        os.close(self._stop)
        for end in self._sockets:
            end.close()

    def _judge(self, datagram: bytes) -> Verdict:
        if any(kind in INTERFACE_KINDS for kind, *_rest in each(datagram)):
            self._of_interfaces += 1
        return judge(datagram, self.expected)

    def _run(self) -> None:
        poll = select.poll()
        judges = {end.fileno(): (end, judge) for end, judge in self._sockets.items()}
        for number in (*judges, self._stop):
            poll.register(number, select.POLLIN)
        while True:
            ready = [number for number, _events in poll.poll()]
            if self._stop in ready:
                return
            for number in ready:
                end, verdict_on = judges[number]
                try:
                    verdict = verdict_on(end.recv(65536))
                except BlockingIOError:
                    continue
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        log.warning("changes are now found on each resync only", problem=error)
                        return
                    # More changed than fits the buffer, so something relevant among it.
                    verdict = Verdict.NEWS
                    self._of_interfaces += 1
                if verdict is Verdict.NEWS:
                    self._changes += 1
                if verdict is not Verdict.NOISE:
                    self._on_change()


def _listen(protocol: int, groups: int) -> socket.socket:
    end = opened(protocol, groups=groups)
    try:
        end.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BYTES)
    except PermissionError:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
    end.setblocking(False)
    return end


def judge_rules(datagram: bytes) -> Verdict:
    """Whether a datagram of nftables messages is about a table, chain or rule. Pure."""
    matters = any(kind >> 8 == NFT_SUBSYSTEM and kind & 0xFF in NFT_RULES for kind, *_rest in each(datagram))
    return Verdict.ELSEWHERE if matters else Verdict.NOISE


def judge(datagram: bytes, expected: Expected) -> Verdict:
    """What a datagram of rtnetlink messages is about: of several, what matters most."""
    try:
        found = (expected.judge(kind, message) for kind, _flags, _sequence, message in each(datagram))
        return max(found, default=Verdict.NOISE)
    except (ValueError, struct.error):
        # What cannot be read may be anything.
        return Verdict.NEWS
