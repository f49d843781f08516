"""What this kernel can do, found out without changing anything on this host.

Whether a kernel can make a device is only known once it has made one: so a thread enters a network namespace of its own
and makes the device there; namespace and device are gone when the thread ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

from overlayd.kernel import decode, links, tun
from overlayd.kernel.messages import attribute, word
from overlayd.kernel.namespaces import in_new_namespace

# What the kernel wants to be told of a device of each kind.
_DEVICES: dict[str, bytes] = {
    "vxlan": word(decode.IFLA_VXLAN_ID, 1) + attribute(decode.IFLA_VXLAN_PORT, (4789).to_bytes(2, "big")),
    "ipip": b"",
    "wireguard": b"",
}
_NAME = "probe0"
WHEN_NEEDED = "loaded when needed"


def module_state(name: str) -> str | None:
    """How a module is there: `in the kernel`, `built in`, `loaded when needed`; None where no file shows it."""
    if (Path("/sys/module") / name).exists():
        return "in the kernel"
    folder = Path("/lib/modules") / os.uname().release
    for file, how in (("modules.builtin", "built in"), ("modules.dep", WHEN_NEEDED)):
        try:
            lines = (folder / file).read_text().splitlines()
        except OSError:
            continue
        # Compressed or not: kernel/drivers/net/vxlan/vxlan.ko.xz: …
        if any(Path(line.partition(":")[0]).name.partition(".")[0].replace("-", "_") == name for line in lines):
            return how
    return None


def makes_device(kind: str) -> bool:
    """Whether the kernel makes a device of this kind; `tun` too. Raises OSError where it cannot be tried."""
    return in_new_namespace(_makes_tun if kind == "tun" else lambda: _makes_link(kind))


def _makes_link(kind: str) -> bool:
    try:
        links.add(_NAME, kind, data=_DEVICES[kind])
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENODEV):
            return False
        raise OSError(error.errno, f"{kind}: {error.strerror}") from error
    return True


def _makes_tun() -> bool:
    try:
        descriptor = os.open(tun.DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # Not persistent: it goes with the descriptor.
        fcntl.ioctl(descriptor, tun.TUNSETIFF, struct.pack("16sH22x", _NAME.encode(), tun.IFF_TUN | tun.IFF_NO_PI))
    finally:
        os.close(descriptor)
    return True
