"""What a backend's packets look like on the underlay, for programs that write them in place of its device. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from enum import IntEnum

from overlayd.lib.quick_dataclass import dataclass


class WireFormat(IntEnum):
    """What is around a container's packet. The numbers are those of `enum format` in daemon/bpf/fastpath.bpf.c."""

    DIRECT = 0
    """Nothing: a plain route leads to the peer."""
    UDP = 1
    """UDP, as flannel's udp backend sends it."""
    VXLAN = 2
    """RFC 7348."""


@dataclass(frozen=True, kw_only=True)
class Wire:
    """How packets of IPv4 travel under one backend on this host.

    `format` is that of peers without a plain route, with the UDP port, and for VXLAN this host's VNI and MAC. `device`
    is the interface that the kernel sends by; packets there begin with an Ethernet header if `ethernet`. `paths` are
    the words of the status for peers whose packets have which format. `unfinished_key`: by this key of their leases'
    data, peers say that they take packets as the sender's kernel has them, not cut yet and without checksums; empty
    where all peers do.
    """

    format: WireFormat
    device: str
    ethernet: bool = True
    port: int = 0
    vni: int = 0
    mac: str = "00:00:00:00:00:00"
    paths: Mapping[str, WireFormat] = field(default_factory=dict)
    unfinished_key: str = ""
