"""Our messages to the kernel's WireGuard are compared with those of wg(8); and wg reads our answers.

No kernel with WireGuard is needed: played_kernel.py answers wg. So these tests cannot show that a kernel makes the
device (`ip link add type wireguard`) and accepts our messages as it accepts wg's.
"""

from __future__ import annotations

import base64
import errno
import os
import shutil
import struct
import sys
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

import pytest

from overlayd.kernel.messages import attribute, listed
from overlayd.kernel.state import WireguardLink, WireguardPeer
from overlayd.kernel.wireguard import genl
from overlayd.kernel.wireguard.device import Device
from tests.testbed.netns.played_kernel import PlayedKernel

NAME = "overlay-wg"
PRIVATE, PSK, *PUBLIC = (base64.b64encode(bytes([72]) + bytes([n]) * 30 + b"\x40").decode() for n in range(1, 6))
LINK = WireguardLink(name=NAME, private_key=PRIVATE, listen_port=51820, mtu_bytes=1420)
PEERS = (
    WireguardPeer(
        link=NAME,
        public_key=PUBLIC[0],
        endpoint=(IPv4Address("198.18.1.2"), 51820),
        allowed_ips=frozenset({IPv4Network("10.5.2.0/24")}),
        preshared_key=PSK,
        keepalive_s=25,
    ),
    WireguardPeer(
        link=NAME,
        public_key=PUBLIC[1],
        endpoint=(IPv6Address("2001:db8:1::3"), 4500),
        allowed_ips=frozenset({IPv4Network("10.5.3.0/24"), IPv6Network("fd42:0:0:3::/64")}),
        preshared_key=PSK,
    ),
)

# linux/wireguard.h: which attributes contain others. The kernel ignores the numbers of list elements.
NESTED = {(): {8: "peers"}, ("peers",): {0: "peer"}, ("peers", "peer"): {9: "ips"}, ("peers", "peer", "ips"): {0: "ip"}}
LISTS = (("peers",), ("peers", "peer", "ips"))


def tree(payload: bytes, path: tuple[str, ...] = ()) -> list[object]:
    """The attributes of a payload, each with its number and value, sorted by number."""
    found: list[object] = []
    at = 0
    while at < len(payload):
        length, kind = struct.unpack_from("=HH", payload, at)
        number = 0 if path in LISTS else kind & 0x3FFF
        value = payload[at + 4 : at + length]
        within = NESTED.get(path, {}).get(number)
        assert bool(kind & 0x8000) == bool(within)
        found.append((number, tree(value, (*path, within)) if within else value))
        at += (length + 3) & ~3
    return sorted(found, key=str)


def all_heard(*words: str) -> list[bytes]:
    """The messages that `wg set` sends to the kernel."""
    kernel = PlayedKernel()
    kernel.run(["wg", "set", NAME, *words])
    return kernel.heard


def heard(*words: str) -> bytes:
    """The one message that `wg set` sends to the kernel."""
    (request,) = all_heard(*words)
    return request


def peer_numbers(message: bytes) -> set[int]:
    """The numbers of the attributes of a message's one peer."""
    (peers,) = (value for kind, value in listed(message, 4) if kind == 8)
    ((_number, peer),) = listed(peers)
    return {kind for kind, _value in listed(peer)}


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A folder with the keys as files, as wg needs them."""
    assert shutil.which("wg"), "the kernel tests need wg: run `make system`"
    (tmp_path / "private").write_text(PRIVATE)
    (tmp_path / "psk").write_text(PSK)
    return tmp_path


def words(peer: WireguardPeer, psk: Path) -> list[str]:
    """A peer on wg's command line."""
    assert peer.endpoint
    address, port = peer.endpoint
    endpoint = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
    allowed = ",".join(sorted(map(str, peer.allowed_ips)))
    found = ["peer", peer.public_key, "preshared-key", str(psk), "endpoint", endpoint, "allowed-ips", allowed]
    return [*found, "persistent-keepalive", str(peer.keepalive_s)]


def test_a_device_is_configured_as_wg_configures_it(secret: Path) -> None:
    told = heard("private-key", str(secret / "private"), "listen-port", "51820")
    assert genl.link_message(LINK) == told


@pytest.mark.parametrize("peer", PEERS, ids=["ipv4", "ipv6"])
def test_a_peer_is_configured_as_wg_configures_it(secret: Path, peer: WireguardPeer) -> None:
    told = heard(*words(peer, secret / "psk"))
    (made,) = genl.peer_messages(peer)
    assert made[:4] == told[:4]
    assert tree(made[4:]) == tree(told[4:])


def test_a_peer_loses_its_allowed_ips_as_wg_takes_them(secret: Path) -> None:
    peer = replace(PEERS[0], allowed_ips=frozenset())
    told = heard(*words(peer, secret / "psk"))
    (made,) = genl.peer_messages(peer)
    assert tree(made[4:]) == tree(told[4:])


def test_many_allowed_ips_go_into_several_messages_as_wg_divides_them(secret: Path) -> None:
    peer = replace(PEERS[0], allowed_ips=frozenset(IPv6Network((number << 64, 64)) for number in range(1, 2500)))
    told, made = all_heard(*words(peer, secret / "psk")), genl.peer_messages(peer)
    # The messages of wg are smaller, so it has more of them.
    assert len(told) > len(made) > 1
    assert genl.parse(NAME, told) == genl.parse(NAME, made) == Device(peers=(peer,))
    assert peer_numbers(made[0]) == peer_numbers(told[0])
    assert [peer_numbers(one) for one in made[1:]] == [peer_numbers(told[1])] * (len(made) - 1)


def test_a_peer_is_removed_as_wg_removes_it(secret: Path) -> None:
    told = heard("peer", PUBLIC[0], "remove")
    assert tree(genl.removal_message(PEERS[0])[4:]) == tree(told[4:])


def test_a_device_is_requested_as_wg_requests_it() -> None:
    kernel = PlayedKernel(device=genl.link_message(LINK))
    kernel.run(["wg", "showconf", NAME])
    assert kernel.heard == [genl.get_message(NAME)]


def test_what_wg_writes_is_what_we_read(secret: Path) -> None:
    everything = ["private-key", str(secret / "private"), "listen-port", "51820"]
    told = heard(*everything, *(word for peer in PEERS for word in words(peer, secret / "psk")))
    assert genl.parse(NAME, [told]) == Device(private_key=PRIVATE, listen_port=51820, peers=PEERS)


def whole() -> bytes:
    """The device with its peers, as a kernel describes it: our messages in one."""
    messages = [message for peer in PEERS for message in genl.peer_messages(peer)]
    peers = b"".join(value for message in messages for kind, value in listed(message, 4) if kind == 8)
    return struct.pack("=BBxx", 0, 1) + genl.link_message(LINK)[4:] + attribute(0x8000 | 8, peers)


def test_what_we_write_is_what_wg_reads() -> None:
    shown = PlayedKernel(device=whole()).run(["wg", "showconf", NAME])
    assert [line for line in shown.splitlines() if line] == [
        "[Interface]",
        "ListenPort = 51820",
        f"PrivateKey = {PRIVATE}",
        "[Peer]",
        f"PublicKey = {PUBLIC[0]}",
        f"PresharedKey = {PSK}",
        "AllowedIPs = 10.5.2.0/24",
        "Endpoint = 198.18.1.2:51820",
        "PersistentKeepalive = 25",
        "[Peer]",
        f"PublicKey = {PUBLIC[1]}",
        f"PresharedKey = {PSK}",
        "AllowedIPs = 10.5.3.0/24, fd42:0:0:3::/64",
        "Endpoint = [2001:db8:1::3]:4500",
    ]


PROGRAM = """
import errno, sys
from tests.kernel.test_wireguard_netlink import LINK, PEERS
from overlayd.kernel.wireguard.genl import Kernel
kernel = Kernel()
try:
    kernel.set_link(LINK)
    for peer in PEERS:
        kernel.set_peer(peer)
    kernel.remove_peer(PEERS[0])
    found = kernel.get(LINK.name)
    print(found.private_key == LINK.private_key, found.listen_port, found.peers == PEERS)
except OSError as error:
    print(errno.errorcode[error.errno])
kernel.close()
"""


def transported(kernel: PlayedKernel) -> str:
    """The result of our own transport with that kernel, in a process of its own."""
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": f"{root / 'daemon'}:{root}"}
    return kernel.run([sys.executable, "-c", PROGRAM], env=env).strip()


def test_our_transport_sends_and_receives_all_of_it() -> None:
    kernel = PlayedKernel(device=whole())
    assert transported(kernel) == "True 51820 True"
    assert kernel.heard == [
        genl.link_message(LINK),
        *(message for peer in PEERS for message in genl.peer_messages(peer)),
        genl.removal_message(PEERS[0]),
        genl.get_message(NAME),
    ]


def test_a_refusal_of_the_kernel_keeps_its_errno() -> None:
    assert transported(PlayedKernel(refuses=errno.EADDRINUSE)) == "EADDRINUSE"


def test_a_kernel_without_wireguard_or_without_the_device_says_so() -> None:
    kernel = genl.Kernel()
    try:
        for _attempt in range(2):
            with pytest.raises(OSError) as caught:  # noqa: PT011
                kernel.get("overlay-none")
            assert caught.value.errno in (errno.ENOENT, errno.ENODEV)
    finally:
        kernel.close()
