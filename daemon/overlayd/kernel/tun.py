"""TUN devices (tun(4), Documentation/networking/tuntap.rst), by ioctl: netlink cannot make them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from enum import IntFlag

from overlayd.kernel import modules

DEVICE = "/dev/net/tun"
TUNSETIFF = 0x400454CA
TUNSETPERSIST = 0x400454CB
TUNSETOFFLOAD = 0x400454D0
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000  # no four bytes of packet information before each packet
IFF_VNET_HDR = 0x4000  # but struct virtio_net_hdr


class Offload(IntFlag):
    """What the kernel leaves to the reader of a device: TUN_F_… of linux/if_tun.h."""

    NONE = 0
    CSUM = 0x01
    TSO = 0x02
    USO = 0x20 | 0x40  # for IPv4 and IPv6: one without the other is refused


MOST = Offload.CSUM | Offload.TSO | Offload.USO
# The most first. USO came with Linux 6.2.
_OFFLOADS = (MOST, Offload.CSUM | Offload.TSO, Offload.NONE)


def open_queue(name: str, *, header: bool = False) -> int:
    """A non-blocking descriptor that reads and writes whole IP packets of device `name`.

    With `header`, struct virtio_net_hdr is before each (Linux 2.6.27). The device is made where it is not there, and
    stays when the descriptor is closed. The kernel leaves nothing to its reader. Raises UnsupportedError, and OSError
    (EBUSY: another process has it open).
    """
    try:
        descriptor = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise modules.lacking(
            f"{DEVICE}: {error.strerror}: no TUN devices here",
            "tun",
            instead="use backend vxlan or host-gw; in a container, add --device /dev/net/tun",
        ) from error
    try:
        flags = IFF_TUN | IFF_NO_PI | (IFF_VNET_HDR if header else 0)
        # struct ifreq: a name of 16 bytes, then the flags.
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        fcntl.ioctl(descriptor, TUNSETPERSIST, 1)
        # Offloads are the device's, and stay when their reader was killed.
        fcntl.ioctl(descriptor, TUNSETOFFLOAD, Offload.NONE)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def offload(descriptor: int, most: Offload = MOST) -> Offload:
    """Let the kernel leave to the reader of an open device what it can, of `most`; what that is."""
    for wanted in _OFFLOADS:
        if wanted in most:
            with contextlib.suppress(OSError):
                fcntl.ioctl(descriptor, TUNSETOFFLOAD, wanted)
                return wanted
    return Offload.NONE


def close_queue(descriptor: int) -> None:
    """Close it; the kernel leaves nothing to whoever opens the device next."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(descriptor, TUNSETOFFLOAD, Offload.NONE)
    os.close(descriptor)


def make(name: str) -> None:
    """Make the device. Raises as `open_queue` does, and EEXIST where one of that name is there: it is another's."""
    if name in (there for _index, there in socket.if_nameindex()):
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
    os.close(open_queue(name))
