"""WireGuard devices of either kind: the kernel's, and those of wireguard-go where the kernel has no WireGuard."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from overlayd.errors import KernelRefused
from overlayd.kernel import links
from overlayd.kernel.state import WireguardLink, WireguardPeer
from overlayd.kernel.wireguard import userspace
from overlayd.kernel.wireguard.device import Device, Transport
from overlayd.kernel.wireguard.genl import Kernel
from overlayd.kernel.wireguard.userspace import Userspace

KIND = "wireguard"


class Devices:
    """All devices of this network namespace, each by its own transport. For one thread, one pass over the kernel."""

    def __init__(self) -> None:
        """Nothing is opened before it is needed."""
        self._kernel = Kernel()
        self._userspace = Userspace()

    def close(self) -> None:
        """Close what was opened."""
        self._kernel.close()

    def get(self, name: str, kind: str | None) -> Device | None:
        """The configuration of a link of that kind; None if it is no WireGuard device, or no process serves it.

        Raises KernelRefused where a process serves it but does not answer: packets may flow, so nothing is replaced.
        """
        transport: Transport
        match kind:
            case "wireguard":
                transport = self._kernel
            case "tun":
                transport = self._userspace
            case _:
                return None
        try:
            return transport.get(name)
        except TimeoutError as error:
            raise KernelRefused(
                "read", f"{name} by {userspace.PROGRAM}", errno.ETIMEDOUT, hint=f"does it hang? pgrep -af {name}"
            ) from error
        except (OSError, ValueError):
            return None

    def make(self, name: str) -> None:
        """Make a new device, by wireguard-go where the kernel cannot.

        Raises OSError, UnsupportedError where neither can, KernelRefused where wireguard-go failed.
        """
        try:
            links.add(name, KIND)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            userspace.make(name)

    def set_link(self, link: WireguardLink) -> None:
        """Give a device its key and port. Raises OSError."""
        self._transport(link.name).set_link(link)

    def write_peer(self, peer: WireguardPeer, *, present: bool) -> None:
        """Make a peer exactly this, or remove it. Raises OSError."""
        transport = self._transport(peer.link)
        if present:
            transport.set_peer(peer)
        else:
            transport.remove_peer(peer)

    def _transport(self, name: str) -> Transport:
        # The rule of wg(8): a socket that answers first, then the kernel.
        return self._userspace if userspace.serves(name) else self._kernel


@contextlib.contextmanager
def devices() -> Iterator[Devices]:
    """The devices, for the length of the block."""
    opened = Devices()
    try:
        yield opened
    finally:
        opened.close()
