"""Leases of thousands of hosts that are not there, written into a lab's etcd, and what one host's kernel tells of them.

They are written by etcd's own gateway for JSON: no program has to start first.
"""

from __future__ import annotations

import base64
import json
import select
import socket
import time
import urllib.request
from collections.abc import Callable, Collection, Iterator
from ipaddress import IPv4Address
from itertools import islice
from typing import Any

from overlayd.errors import OverlaydError
from overlayd.kernel.messages import each
from tests.testbed.netns.lab import ETCD, Lab
from tests.testbed.netns.namespaces import inside

NETWORK = "10.0.0.0/8"
# Of one transaction: etcd's own default for --max-txn-ops is 128.
AT_ONCE = 128
RECEIVE_BYTES = 64 << 20
_RTMGRP_IPV4_ROUTE, _RTM_NEWROUTE, _RTM_DELROUTE = 0x40, 24, 25
_SO_RCVBUFFORCE = 33


class Fleet:
    """Peers by number, from 0 on, each with a /24 and a public address of its own, behind the lab's router."""

    def __init__(self, lab: Lab, backend: str = "vxlan") -> None:
        """Write the network config: large enough, and this host's own subnet is apart from the peers'."""
        self._lab = lab
        self._backend = backend
        config = {
            "Network": NETWORK,
            "SubnetLen": 24,
            "SubnetMin": "10.200.0.0",
            "SubnetMax": "10.250.0.0",
            "Backend": {"Type": backend},
        }
        lab.etcdctl("put", "/coreos.com/network/config", json.dumps(config))

    def join(self, numbers: Collection[int]) -> None:
        """Write the leases of these, so many in a transaction."""
        self._send([{"request_put": {"key": _coded(_key(one)), "value": _coded(self._value(one))}} for one in numbers])

    def leave(self, numbers: Collection[int]) -> None:
        """Delete them."""
        self._send([{"request_delete_range": {"key": _coded(_key(one))}} for one in numbers])

    def _value(self, number: int) -> str:
        mac = (0x02 << 40 | number).to_bytes(6, "big").hex(":")
        data = {"BackendData": {"VNI": 1, "VtepMAC": mac}} if self._backend == "vxlan" else {}
        address = IPv4Address("198.19.0.1") + number
        return json.dumps({"PublicIP": str(address), "BackendType": self._backend, **data})

    def _send(self, requests: list[dict[str, Any]]) -> None:
        def send() -> None:
            left = iter(requests)
            while some := list(islice(left, AT_ONCE)):
                body = json.dumps({"success": some}).encode()
                with urllib.request.urlopen(f"{ETCD}/v3/kv/txn", body, timeout=30) as answer:
                    answer.read()

        inside(self._lab.switch, send)


def _key(number: int) -> str:
    return f"/coreos.com/network/subnets/10.{number >> 8}.{number & 255}.0-24"


def _coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def routed(
    namespace: str, change: Callable[[], object], count: int, *, gone: bool = False, within_s: float = 120
) -> float:
    """Seconds from the end of `change` until the kernel has told of so many new IPv4 routes, or of as many `gone`.

    Raises OverlaydError when it does not.
    """
    awaited = _RTM_DELROUTE if gone else _RTM_NEWROUTE

    def measured() -> float:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as end:
            end.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BYTES)
            end.bind((0, _RTMGRP_IPV4_ROUTE))
            change()
            began, seen = time.monotonic(), 0
            for kind in _kinds(end, began + within_s):
                seen += kind == awaited
                if seen == count:
                    return time.monotonic() - began
        raise OverlaydError(f"the kernel told of {seen} routes of {count} within {within_s:g} s")

    return inside(namespace, measured)


def _kinds(end: socket.socket, deadline: float) -> Iterator[int]:
    while select.select([end], [], [], max(0.0, deadline - time.monotonic()))[0]:
        for kind, *_rest in each(end.recv(65536)):
            yield kind
