"""The cross-platform configuration protocol of userspace WireGuard (wireguard.com/xplatform), as text. Pure: no I/O.

Lines of `key=value`, keys in hexadecimal; an empty line ends a request, and so it does an answer, whose last line is
`errno=…`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from overlayd.kernel.state import WireguardLink, WireguardPeer
from overlayd.kernel.wireguard.device import NO_KEY, Device, format_key, parse_key
from overlayd.lib.addresses import IPAddress, ip_address, ip_network

GET = "get=1\n\n"


def set_link(link: WireguardLink) -> str:
    """The request that gives a device its key and port."""
    return f"set=1\nprivate_key={_hex(link.private_key)}\nlisten_port={link.listen_port}\n\n"


def set_peer(peer: WireguardPeer) -> str:
    """The request that makes a peer, or changes one, to exactly this."""
    lines = [f"public_key={_hex(peer.public_key)}", f"preshared_key={_hex(peer.preshared_key or NO_KEY)}"]
    if peer.endpoint is not None:
        address, port = peer.endpoint
        lines.append(f"endpoint=[{address}]:{port}" if address.version == 6 else f"endpoint={address}:{port}")
    lines += [f"persistent_keepalive_interval={peer.keepalive_s}", "replace_allowed_ips=true"]
    lines += [f"allowed_ip={network}" for network in sorted(peer.allowed_ips, key=str)]
    return "\n".join(["set=1", *lines, "", ""])


def remove_peer(peer: WireguardPeer) -> str:
    """The request that removes a peer."""
    return f"set=1\npublic_key={_hex(peer.public_key)}\nremove=true\n\n"


def check(answer: str) -> None:
    """Raise OSError with the errno of the answer, unless the request was carried out."""
    for key, value in _lines(answer):
        if key == "errno":
            code = abs(int(value))
            if code:
                raise OSError(code, "the device refused")
            return
    raise ValueError("the answer has no errno")


def parse(name: str, answer: str) -> Device:
    """The device that an answer to GET describes. Raises OSError as `check` does, ValueError for what is no answer."""
    check(answer)
    device, peers = Device(), list[WireguardPeer]()
    for key, value in _lines(answer):
        match key:
            case "private_key":
                device = replace(device, private_key=_base64(value))
            case "listen_port":
                device = replace(device, listen_port=int(value))
            case "public_key":
                peers.append(
                    WireguardPeer(link=name, public_key=_base64(value) or "", endpoint=None, allowed_ips=frozenset())
                )
            case _ if peers:
                peers[-1] = _with(peers[-1], key, value)
    return replace(device, peers=tuple(peers))


def _with(peer: WireguardPeer, key: str, value: str) -> WireguardPeer:
    """The peer with one more line about it; what we never set is not looked at."""
    match key:
        case "preshared_key":
            return replace(peer, preshared_key=_base64(value))
        case "endpoint":
            return replace(peer, endpoint=_endpoint(value))
        case "persistent_keepalive_interval":
            return replace(peer, keepalive_s=int(value))
        case "allowed_ip":
            return replace(peer, allowed_ips=peer.allowed_ips | {ip_network(value)})
    return peer


def _lines(answer: str) -> Iterator[tuple[str, str]]:
    for line in answer.splitlines():
        key, equals, value = line.partition("=")
        if equals:
            yield key, value


def _endpoint(text: str) -> tuple[IPAddress, int]:
    address, _, port = text.rpartition(":")
    return ip_address(address.strip("[]")), int(port)


def _hex(key: str) -> str:
    found = parse_key(key)
    if found is None:
        raise ValueError("not a WireGuard key")
    return found.hex()


def _base64(text: str) -> str | None:
    """A key in base64; None for zeros, which mean that there is none."""
    key = format_key(bytes.fromhex(text))
    return None if key == NO_KEY else key
