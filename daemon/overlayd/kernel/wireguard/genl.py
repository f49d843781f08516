"""The kernel's WireGuard, by generic netlink: linux/wireguard.h, linux/genetlink.h, Linux 5.6."""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection, Iterable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from overlayd.kernel.messages import (
    FAMILY,
    NETLINK_GENERIC,
    NLM_F_DUMP_INTR,
    ask,
    attribute,
    attributes,
    byte,
    change,
    dump,
    listed,
    nested,
    opened,
    text,
    word,
)
from overlayd.kernel.state import WireguardLink, WireguardPeer
from overlayd.kernel.wireguard.device import NO_KEY, Device, format_key, parse_key
from overlayd.lib.addresses import IPAddress, IPNetwork

GENL_ID_CTRL, CTRL_CMD_GETFAMILY = 16, 3
CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME = 1, 2
GENL_NAME, VERSION = "wireguard", 1
CMD_GET_DEVICE, CMD_SET_DEVICE = 0, 1
DEVICE_IFNAME, DEVICE_PRIVATE_KEY, DEVICE_LISTEN_PORT, DEVICE_PEERS = 2, 3, 6, 8
PEER_PUBLIC_KEY, PEER_PRESHARED_KEY, PEER_FLAGS, PEER_ENDPOINT, PEER_KEEPALIVE, PEER_ALLOWEDIPS = 1, 2, 3, 4, 5, 9
PEER_REMOVE_ME, PEER_REPLACE_ALLOWEDIPS = 0x1, 0x2
ALLOWEDIP_FAMILY, ALLOWEDIP_IPADDR, ALLOWEDIP_CIDR_MASK = 1, 2, 3
# An IPv6 network takes 40 bytes, and the length of the attribute with all of them has 16 bits.
ALLOWED_IPS_AT_ONCE = 1000
# A dump during which the device changed is begun again (NLM_F_DUMP_INTR), but not for ever.
TRIES = 5
HEADER = struct.Struct("=BBH")  # genlmsghdr: command, version, reserved
_SHORT = struct.Struct("=H")
_PORT = struct.Struct("!H")


class Kernel:
    """The transport to the kernel's devices; its socket opens with the first call. See Transport.

    ENOENT where the kernel has no WireGuard, ENODEV where it has no such device.
    """

    def __init__(self) -> None:
        """Opens nothing yet."""
        self._socket: socket.socket | None = None
        self._family: int | None = None

    def close(self) -> None:
        """Close the socket, if it is open."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def get(self, name: str) -> Device:
        """See Transport."""
        end, family = self._opened()
        answers: list[tuple[int, bytes]] = []
        for _attempt in range(TRIES):
            answers = list(dump(family, get_message(name), over=end))
            if not any(flags & NLM_F_DUMP_INTR for flags, _answer in answers):
                break
        return parse(name, (answer for _flags, answer in answers))

    def set_link(self, link: WireguardLink) -> None:
        """See Transport."""
        self._change(link_message(link))

    def set_peer(self, peer: WireguardPeer) -> None:
        """See Transport."""
        for message in peer_messages(peer):
            self._change(message)

    def remove_peer(self, peer: WireguardPeer) -> None:
        """See Transport."""
        self._change(removal_message(peer))

    def _change(self, message: bytes) -> None:
        end, family = self._opened()
        change(family, 0, message, over=end)

    def _opened(self) -> tuple[socket.socket, int]:
        """The socket, and the number that the kernel gave the family. Raises OSError."""
        if self._socket is None:
            self._socket = opened(NETLINK_GENERIC)
        if self._family is None:
            request = HEADER.pack(CTRL_CMD_GETFAMILY, 1, 0) + text(CTRL_ATTR_FAMILY_NAME, GENL_NAME)
            answer = attributes(ask(GENL_ID_CTRL, request, over=self._socket), HEADER.size)
            (self._family,) = _SHORT.unpack(answer[CTRL_ATTR_FAMILY_ID])
        return self._socket, self._family


def get_message(name: str) -> bytes:
    """The request for a device's configuration, from the generic netlink header on, as all messages of this module."""
    return _message(CMD_GET_DEVICE, name)


def link_message(link: WireguardLink) -> bytes:
    """The request that gives a device its key and port. Raises ValueError for a key that is none."""
    return _message(
        CMD_SET_DEVICE,
        link.name,
        attribute(DEVICE_PRIVATE_KEY, _key_bytes(link.private_key)),
        attribute(DEVICE_LISTEN_PORT, _SHORT.pack(link.listen_port)),
    )


def peer_messages(peer: WireguardPeer) -> list[bytes]:
    """The requests that make a peer, or change one, to exactly this: one, if it has not too many allowed IPs.

    The first replaces the allowed IPs, each further one adds some, as linux/wireguard.h tells. Raises ValueError for a
    key that is none.
    """
    networks = sorted(peer.allowed_ips, key=str)
    public_key = attribute(PEER_PUBLIC_KEY, _key_bytes(peer.public_key))
    settings = [
        word(PEER_FLAGS, PEER_REPLACE_ALLOWEDIPS),
        attribute(PEER_PRESHARED_KEY, _key_bytes(peer.preshared_key or NO_KEY)),
        attribute(PEER_KEEPALIVE, _SHORT.pack(peer.keepalive_s)),
    ]
    if peer.endpoint is not None:
        settings.append(attribute(PEER_ENDPOINT, _endpoint_bytes(*peer.endpoint)))
    messages = [_peer_message(peer, public_key, *settings, *_allowed_ips(networks[:ALLOWED_IPS_AT_ONCE]))]
    for at in range(ALLOWED_IPS_AT_ONCE, len(networks), ALLOWED_IPS_AT_ONCE):
        messages.append(_peer_message(peer, public_key, *_allowed_ips(networks[at : at + ALLOWED_IPS_AT_ONCE])))
    return messages


def removal_message(peer: WireguardPeer) -> bytes:
    """The request that removes a peer. Raises ValueError for a key that is none."""
    key = attribute(PEER_PUBLIC_KEY, _key_bytes(peer.public_key))
    return _peer_message(peer, key, word(PEER_FLAGS, PEER_REMOVE_ME))


def parse(name: str, answers: Iterable[bytes]) -> Device:
    """The device that a dump describes. A peer may go on in the next message: its key again, and more allowed IPs."""
    device, peers = Device(), dict[str, WireguardPeer]()
    for answer in answers:
        found = attributes(answer, HEADER.size)
        device = replace(
            device,
            private_key=_key(found.get(DEVICE_PRIVATE_KEY)) or device.private_key,
            listen_port=_short(found.get(DEVICE_LISTEN_PORT)) or device.listen_port,
        )
        for _number, one in listed(found.get(DEVICE_PEERS, b"")):
            peer = _peer(name, one)
            before = peers.get(peer.public_key)
            peers[peer.public_key] = (
                replace(before, allowed_ips=before.allowed_ips | peer.allowed_ips) if before else peer
            )
    return replace(device, peers=tuple(peers.values()))


def _peer(name: str, message: bytes) -> WireguardPeer:
    found = attributes(message)
    return WireguardPeer(
        link=name,
        public_key=_key(found.get(PEER_PUBLIC_KEY)) or NO_KEY,
        endpoint=_endpoint(found.get(PEER_ENDPOINT)),
        allowed_ips=frozenset(_network(one) for _number, one in listed(found.get(PEER_ALLOWEDIPS, b""))),
        preshared_key=_key(found.get(PEER_PRESHARED_KEY)),
        keepalive_s=_short(found.get(PEER_KEEPALIVE)),
    )


def _network(message: bytes) -> IPNetwork:
    found = attributes(message)
    base, length = found[ALLOWEDIP_IPADDR], found[ALLOWEDIP_CIDR_MASK][0]
    return IPv4Network((base, length)) if len(base) == 4 else IPv6Network((base, length))


def _endpoint(data: bytes | None) -> tuple[IPAddress, int] | None:
    """Address and port of a sockaddr_in or a sockaddr_in6 (ip(7), ipv6(7))."""
    if not data:
        return None
    (port,) = _PORT.unpack_from(data, 2)
    if _short(data[:2]) == socket.AF_INET:
        return IPv4Address(data[4:8]), port
    return IPv6Address(data[8:24]), port


def _endpoint_bytes(address: IPAddress, port: int) -> bytes:
    if address.version == 4:
        return _SHORT.pack(socket.AF_INET) + _PORT.pack(port) + address.packed + bytes(8)
    # The flow before the address, and the scope behind it, are 0.
    return _SHORT.pack(socket.AF_INET6) + _PORT.pack(port) + bytes(4) + address.packed + bytes(4)


def _key(found: bytes | None) -> str | None:
    """A key in base64; None for zeros, which mean that there is none."""
    return format_key(found) if found and any(found) else None


def _key_bytes(key: str) -> bytes:
    found = parse_key(key)
    if found is None:
        raise ValueError("not a WireGuard key")
    return found


def _short(data: bytes | None) -> int:
    """A number of two bytes; 0 where there is none."""
    found: int = _SHORT.unpack(data)[0] if data else 0
    return found


def _message(command: int, name: str, *parts: bytes) -> bytes:
    return b"".join([HEADER.pack(command, VERSION, 0), text(DEVICE_IFNAME, name), *parts])


def _peer_message(peer: WireguardPeer, *parts: bytes) -> bytes:
    return _message(CMD_SET_DEVICE, peer.link, nested(DEVICE_PEERS, [nested(0, parts)]))


def _allowed_ips(networks: Collection[IPNetwork]) -> list[bytes]:
    """The attribute with these networks; nothing for none, as wg(8) does."""
    return [nested(PEER_ALLOWEDIPS, [_allowed_ip(network) for network in networks])] if networks else []


def _allowed_ip(network: IPNetwork) -> bytes:
    return nested(
        0,
        [
            attribute(ALLOWEDIP_FAMILY, _SHORT.pack(FAMILY[network.version])),
            attribute(ALLOWEDIP_IPADDR, network.network_address.packed),
            byte(ALLOWEDIP_CIDR_MASK, network.prefixlen),
        ],
    )
