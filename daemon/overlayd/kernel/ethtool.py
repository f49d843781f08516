"""What ethtool(8) shows of a network card: its driver, and the offloads that are switched on. Reads only."""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct
from pathlib import Path

# linux/sockios.h, linux/ethtool.h
SIOCETHTOOL = 0x8946
GDRVINFO, GSTRINGS, GSSET_INFO, GFEATURES = 0x03, 0x1B, 0x37, 0x3A
SS_FEATURES = 4
NAME_BYTES = 32
DRVINFO_BYTES = 196
# Drivers of network cards that may lead to another guest of the same machine.
_TO_ANOTHER_STACK = ("virtio_net", "vif", "hv_netvsc", "vmxnet3")


def driver(ifname: str) -> str | None:
    """The name of the driver; None where the interface has none."""
    try:
        answer = _ask(ifname, struct.pack("=I", GDRVINFO).ljust(DRVINFO_BYTES, b"\0"))
    except OSError:
        return None
    return answer[4:36].partition(b"\0")[0].decode("ascii", "replace")


def offloads(ifname: str) -> frozenset[str] | None:
    """The features that are on, as `ethtool -k` names them; None where they cannot be read."""
    try:
        # struct ethtool_sset_info: a mask of the sets asked for, then a count for each.
        count = struct.unpack_from("=I", _ask(ifname, struct.pack("=IIQI", GSSET_INFO, 0, 1 << SS_FEATURES, 0)), 16)[0]
        strings = _ask(ifname, struct.pack("=III", GSTRINGS, SS_FEATURES, count) + bytes(count * NAME_BYTES))
        blocks = (count + 31) // 32
        features = _ask(ifname, struct.pack("=II", GFEATURES, blocks) + bytes(blocks * 16))
    except OSError:
        return None
    names = [_name(strings, 12 + number * NAME_BYTES) for number in range(count)]
    # Each block of 32 features: available, requested, active, never_changed.
    active = [struct.unpack_from("=I", features, 8 + block * 16 + 8)[0] for block in range(blocks)]
    return frozenset(name for number, name in enumerate(names) if name and active[number // 32] >> number % 32 & 1)


def finishes_packets(ifname: str) -> bool:
    """Whether what leaves by an interface is as it is on a wire: cut to size, and with all checksums.

    Devices that lead to another network stack of the same machine hand packets on as they are, where these features are
    on: a socket there gets several packets as one, without their checksums.
    """
    on = offloads(ifname)
    if on is not None and not any(
        name == "tx-udp_tnl-segmentation" or name.startswith("tx-checksum-ip") for name in on
    ):
        return True
    return Path(f"/sys/class/net/{ifname}/device").exists() and driver(ifname) not in _TO_ANOTHER_STACK


def _name(strings: bytes, at: int) -> str:
    return strings[at : at + NAME_BYTES].partition(b"\0")[0].decode("ascii", "replace")


def _ask(ifname: str, request: bytes) -> bytes:
    """One ioctl: the kernel answers in the buffer of the request. Raises OSError."""
    buffer = ctypes.create_string_buffer(request, len(request))
    # struct ifreq: a name of 16 bytes, then a pointer to the request.
    ifreq = struct.pack("16sP16x", ifname.encode(), ctypes.addressof(buffer))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        fcntl.ioctl(asked, SIOCETHTOOL, ifreq)
    return buffer.raw
