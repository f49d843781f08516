"""TUN devices (tun(4), Documentation/networking/tuntap.rst), by ioctl: netlink cannot make them."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct

from overlayd.kernel import modules

DEVICE = "/dev/net/tun"
TUNSETIFF = 0x400454CA
TUNSETPERSIST = 0x400454CB
TUNSETOFFLOAD = 0x400454D0
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000  # no four bytes of packet information before each packet
IFF_VNET_HDR = 0x4000  # but struct virtio_net_hdr


def open_queue(name: str, *, header: bool = False) -> int:
    """A non-blocking descriptor that reads and writes whole IP packets of device `name`.

    With `header`, struct virtio_net_hdr is before each (Linux 2.6.27). The device is made where it is not there, and
    stays when the descriptor is closed. The kernel cuts and finishes what is read (no TUN_F_…). Raises
    UnsupportedError, and OSError (EBUSY: another process has it open).
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
        # The device keeps what another program asked for.
        fcntl.ioctl(descriptor, TUNSETOFFLOAD, 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def make(name: str) -> None:
    """Make the device. Raises as `open_queue` does, and EEXIST where one of that name is there: it is another's."""
    if name in (there for _index, there in socket.if_nameindex()):
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
    os.close(open_queue(name))
