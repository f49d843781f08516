"""The configuration of a WireGuard device, and what a transport to one must do. Pure: no I/O."""

from __future__ import annotations

import base64
import binascii
from dataclasses import field
from typing import Protocol

from overlayd.kernel.state import WireguardLink, WireguardPeer
from overlayd.lib.quick_dataclass import dataclass

KEY_BYTES = 32
# The kernel and wireguard-go read and write this where there is no key.
NO_KEY = base64.b64encode(bytes(KEY_BYTES)).decode()


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device's configuration as it is now. `private_key` is base64; None and 0 where none was given yet."""

    private_key: str | None = field(default=None, repr=False)
    listen_port: int = 0
    peers: tuple[WireguardPeer, ...] = ()


class Transport(Protocol):
    """The way to one kind of device: generic netlink to the kernel's, a socket to that of wireguard-go.

    Every method raises OSError, with the errno that the device gave, or one of a connection that failed.
    """

    def get(self, name: str) -> Device:
        """The device's configuration."""
        ...

    def set_link(self, link: WireguardLink) -> None:
        """Give the device its key and port; its peers stay."""
        ...

    def set_peer(self, peer: WireguardPeer) -> None:
        """Make the peer exactly this, whether or not the device has it. Its allowed IPs are taken from other peers."""
        ...

    def remove_peer(self, peer: WireguardPeer) -> None:
        """Remove the peer; no error if there is none."""
        ...


def parse_key(text: object) -> bytes | None:
    """The 32 bytes of a key in base64, as wg(8) writes them; None if it is none."""
    if not isinstance(text, str):
        return None
    try:
        found = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return None
    return found if len(found) == KEY_BYTES else None


def format_key(key: bytes) -> str:
    """A key in base64: of all ways to write the same bytes the one that wg(8) does."""
    return base64.b64encode(key).decode()
