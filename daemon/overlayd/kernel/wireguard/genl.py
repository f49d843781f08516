"""The kernel's WireGuard, by generic netlink: linux/wireguard.h, Linux 5.6."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from overlayd.kernel.pyroute import NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkError, WireGuard, wgmsg
from overlayd.kernel.state import WireguardLink, WireguardPeer
from overlayd.kernel.wireguard.device import NO_KEY, Device
from overlayd.lib.addresses import IPNetwork, ip_address, ip_network

VERSION = 1
CMD_GET_DEVICE, CMD_SET_DEVICE = 0, 1
PEER_REMOVE_ME, PEER_REPLACE_ALLOWEDIPS = 0x1, 0x2


class Kernel:
    """The transport to the kernel's devices; its socket opens with the first call. See Transport."""

    def __init__(self) -> None:
        """Opens nothing yet."""
        self._socket: Any = None

    def close(self) -> None:
        """Close the socket, if it is open."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def get(self, name: str) -> Device:
        """See Transport."""
        return parse(name, self._request(get_message(name), NLM_F_REQUEST | NLM_F_DUMP))

    def set_link(self, link: WireguardLink) -> None:
        """See Transport."""
        self._request(link_message(link), NLM_F_REQUEST | NLM_F_ACK)

    def set_peer(self, peer: WireguardPeer) -> None:
        """See Transport."""
        self._request(peer_message(peer), NLM_F_REQUEST | NLM_F_ACK)

    def remove_peer(self, peer: WireguardPeer) -> None:
        """See Transport."""
        self._request(removal_message(peer), NLM_F_REQUEST | NLM_F_ACK)

    def _request(self, message: wgmsg, flags: int) -> list[Any]:
        def call() -> list[Any]:
            if self._socket is None:
                self._socket = WireGuard()
            return list(self._socket.nlm_request(message, msg_type=self._socket.prid, msg_flags=flags))

        return _as_oserror(call)


def get_message(name: str) -> wgmsg:
    """The request for a device's configuration."""
    return _message(CMD_GET_DEVICE, name)


def link_message(link: WireguardLink) -> wgmsg:
    """The request that gives a device its key and port."""
    return _message(
        CMD_SET_DEVICE,
        link.name,
        ("WGDEVICE_A_PRIVATE_KEY", link.private_key),
        ("WGDEVICE_A_LISTEN_PORT", link.listen_port),
    )


def peer_message(peer: WireguardPeer) -> wgmsg:
    """The request that makes a peer, or changes one, to exactly this."""
    words: list[tuple[str, Any]] = [
        ("WGPEER_A_PUBLIC_KEY", peer.public_key),
        ("WGPEER_A_FLAGS", PEER_REPLACE_ALLOWEDIPS),
        ("WGPEER_A_PRESHARED_KEY", peer.preshared_key or NO_KEY),
    ]
    if peer.endpoint is not None:
        address, port = peer.endpoint
        where = {"addr": str(address), "port": port}
        words.append(("WGPEER_A_ENDPOINT", {**where, "flowinfo": 0, "scope_id": 0} if address.version == 6 else where))
    words += [
        ("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL", peer.keepalive_s),
        ("WGPEER_A_ALLOWEDIPS", [_allowed_ip(network) for network in sorted(peer.allowed_ips, key=str)]),
    ]
    return _message(CMD_SET_DEVICE, peer.link, ("WGDEVICE_A_PEERS", [{"attrs": words}]))


def removal_message(peer: WireguardPeer) -> wgmsg:
    """The request that removes a peer."""
    words = [("WGPEER_A_PUBLIC_KEY", peer.public_key), ("WGPEER_A_FLAGS", PEER_REMOVE_ME)]
    return _message(CMD_SET_DEVICE, peer.link, ("WGDEVICE_A_PEERS", [{"attrs": words}]))


def parse(name: str, answers: Iterable[Any]) -> Device:
    """The device that a dump describes. A peer may go on in the next message: its key again, and more allowed IPs."""
    device, peers = Device(), dict[str, WireguardPeer]()
    for answer in answers:
        private_key = _key(answer.get_attr("WGDEVICE_A_PRIVATE_KEY"))
        device = replace(
            device,
            private_key=private_key or device.private_key,
            listen_port=answer.get_attr("WGDEVICE_A_LISTEN_PORT") or device.listen_port,
        )
        for found in answer.get_attr("WGDEVICE_A_PEERS") or ():
            peer = _peer(name, found)
            before = peers.get(peer.public_key)
            peers[peer.public_key] = (
                replace(before, allowed_ips=before.allowed_ips | peer.allowed_ips) if before else peer
            )
    return replace(device, peers=tuple(peers.values()))


def _peer(name: str, found: Any) -> WireguardPeer:
    endpoint = found.get_attr("WGPEER_A_ENDPOINT")
    return WireguardPeer(
        link=name,
        public_key=_key(found.get_attr("WGPEER_A_PUBLIC_KEY")) or NO_KEY,
        endpoint=(ip_address(endpoint["addr"]), endpoint["port"]) if endpoint else None,
        allowed_ips=frozenset(ip_network(one["addr"]) for one in found.get_attr("WGPEER_A_ALLOWEDIPS") or ()),
        preshared_key=_key(found.get_attr("WGPEER_A_PRESHARED_KEY")),
        keepalive_s=found.get_attr("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL") or 0,
    )


def _key(found: bytes | None) -> str | None:
    """A key in base64; None for zeros, which mean that there is none."""
    key = found.decode() if found else NO_KEY
    return None if key == NO_KEY else key


def _message(command: int, name: str, *words: tuple[str, Any]) -> wgmsg:
    message = wgmsg()
    message["cmd"], message["version"] = command, VERSION
    message["attrs"] = [("WGDEVICE_A_IFNAME", name), *words]
    return message


def _allowed_ip(network: IPNetwork) -> dict[str, Any]:
    return {
        "attrs": [
            ("WGALLOWEDIP_A_FAMILY", socket.AF_INET if network.version == 4 else socket.AF_INET6),
            ("WGALLOWEDIP_A_IPADDR", network.network_address.packed),
            ("WGALLOWEDIP_A_CIDR_MASK", network.prefixlen),
        ]
    }


def _as_oserror(call: Callable[[], list[Any]]) -> list[Any]:
    try:
        return call()
    except NetlinkError as error:
        code = error.code or errno.EIO
        raise OSError(code, os.strerror(code)) from error
