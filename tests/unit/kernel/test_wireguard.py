"""WireGuard's two languages: what is written is what is read back; and what counts as a difference."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.generic.wireguard import wgmsg

from overlayd.kernel.diff import Operation, OperationKind, diff
from overlayd.kernel.messages import NLM_F_DUMP_INTR
from overlayd.kernel.state import KernelState, TunLink, WireguardLink, WireguardPeer
from overlayd.kernel.wireguard import genl, uapi
from overlayd.kernel.wireguard.device import NO_KEY, Device, format_key, parse_key
from overlayd.lib.addresses import IPNetwork, ip_address, ip_network

NAME = "overlay-wg"
keys = st.binary(min_size=32, max_size=32).filter(any).map(format_key)
networks: st.SearchStrategy[IPNetwork] = st.one_of(
    st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(lambda pair: IPv4Network(pair, strict=False)),
    st.tuples(st.integers(0, 2**128 - 1), st.integers(0, 128)).map(lambda pair: IPv6Network(pair, strict=False)),
)
# An IPv4 address in IPv6's clothes is shown as IPv4 by some; no lease has one.
addresses = st.one_of(st.integers(1, 2**32 - 1).map(IPv4Address), st.integers(2**120, 2**128 - 1).map(IPv6Address))
ports = st.integers(1, 65535)
links = st.builds(
    WireguardLink, name=st.just(NAME), private_key=keys, listen_port=ports, mtu_bytes=st.integers(68, 65535)
)
peers = st.builds(
    WireguardPeer,
    link=st.just(NAME),
    public_key=keys,
    endpoint=st.none() | st.tuples(addresses, ports),
    allowed_ips=st.frozensets(networks, max_size=4),
    preshared_key=st.none() | keys,
    keepalive_s=st.integers(0, 65535),
)
some_peers = st.lists(peers, max_size=5, unique_by=lambda peer: peer.public_key)


@given(links, some_peers)
def test_the_text_protocol_says_back_what_it_was_told(link: WireguardLink, told: list[WireguardPeer]) -> None:
    requests = [uapi.set_link(link), *map(uapi.set_peer, told)]
    lines = [line for request in requests for line in request.splitlines() if line]
    kept = [line for line in lines if line not in ("set=1", "replace_allowed_ips=true")]
    # What a device adds of its own.
    kept += ["last_handshake_time_sec=1700000000", "rx_bytes=1", "errno=0", "", ""] if told else ["errno=0", "", ""]
    assert uapi.parse(NAME, "\n".join(kept)) == Device(
        private_key=link.private_key, listen_port=link.listen_port, peers=tuple(told)
    )


def decoded(message: bytes) -> Any:
    """A message as pyroute2 reads it."""
    found = wgmsg(struct.pack("=IHHII", 16 + len(message), 0, 0, 0, 0) + message)
    found.decode()
    return found


def heard(messages: Iterable[bytes]) -> Device:
    """The device that has been told this, as pyroute2 reads it."""
    device, peers = Device(), dict[str, WireguardPeer]()
    for message in map(decoded, messages):
        assert message.get_attr("WGDEVICE_A_IFNAME") == NAME
        if key := message.get_attr("WGDEVICE_A_PRIVATE_KEY"):
            port = message.get_attr("WGDEVICE_A_LISTEN_PORT")
            device = replace(device, private_key=key.decode(), listen_port=port)
        for found in message.get_attr("WGDEVICE_A_PEERS") or ():
            key = found.get_attr("WGPEER_A_PUBLIC_KEY").decode()
            networks = frozenset(ip_network(one["addr"]) for one in found.get_attr("WGPEER_A_ALLOWEDIPS") or ())
            if key in peers:
                peers[key] = replace(peers[key], allowed_ips=peers[key].allowed_ips | networks)
                continue
            psk, where = found.get_attr("WGPEER_A_PRESHARED_KEY").decode(), found.get_attr("WGPEER_A_ENDPOINT")
            peers[key] = WireguardPeer(
                link=NAME,
                public_key=key,
                endpoint=(ip_address(where["addr"]), where["port"]) if where else None,
                allowed_ips=networks,
                preshared_key=None if psk == NO_KEY else psk,
                keepalive_s=found.get_attr("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL"),
            )
    return replace(device, peers=tuple(peers.values()))


@given(links, some_peers)
def test_generic_netlink_says_back_what_it_was_told(link: WireguardLink, told: list[WireguardPeer]) -> None:
    messages = [genl.link_message(link), *(message for peer in told for message in genl.peer_messages(peer))]
    device = Device(private_key=link.private_key, listen_port=link.listen_port, peers=tuple(told))
    assert genl.parse(NAME, messages) == device
    assert heard(messages) == device


def test_a_peer_that_goes_on_in_the_next_message_is_one() -> None:
    first, second = (
        WireguardPeer(
            link=NAME,
            public_key=format_key(b"\1" * 32),
            endpoint=(IPv4Address("198.18.1.2"), 51820),
            allowed_ips=frozenset({IPv4Network(network)}),
        )
        for network in ("10.5.2.0/24", "10.5.3.0/24")
    )
    (found,) = genl.parse(NAME, [message for one in (first, second) for message in genl.peer_messages(one)]).peers
    assert found == replace(first, allowed_ips=first.allowed_ips | second.allowed_ips)


@pytest.mark.parametrize(("count", "messages"), [(0, 1), (1, 1), (1000, 1), (1001, 2), (2500, 3)])
def test_more_allowed_ips_than_one_message_has_room_for_go_into_several(count: int, messages: int) -> None:
    networks = frozenset(IPv6Network((number << 64, 64)) for number in range(count))
    peer = replace(PEER, allowed_ips=networks, preshared_key=format_key(b"\5" * 32), keepalive_s=25)
    told = genl.peer_messages(peer)
    assert len(told) == messages
    assert max(map(len, told)) < 0x10000
    first, *others = (message.get_attr("WGDEVICE_A_PEERS")[0] for message in map(decoded, told))
    assert first.get_attr("WGPEER_A_FLAGS") == genl.PEER_REPLACE_ALLOWEDIPS
    # Anything else of a further message would undo what the first one said.
    for other in others:
        assert [name for name, _value in other["attrs"]] == ["WGPEER_A_PUBLIC_KEY", "WGPEER_A_ALLOWEDIPS"]
    assert heard(told).peers == genl.parse(NAME, told).peers == (peer,)


def test_the_family_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []
    told: list[tuple[int, bytes]] = []

    def ask(_kind: int, request: bytes, **_over: object) -> bytes:
        asked.append(request)
        # Of the real answer: the name, and the number.
        return struct.pack("=BBxxHH10sxxHHHxx", 1, 2, 14, 2, b"wireguard", 6, 1, 37)

    def change(kind: int, _flags: int, request: bytes, **_over: object) -> None:
        told.append((kind, request))

    monkeypatch.setattr(genl, "ask", ask)
    monkeypatch.setattr(genl, "change", change)
    kernel = genl.Kernel()
    try:
        kernel.set_link(LINK)
        kernel.set_peer(PEER)
        kernel.remove_peer(PEER)
    finally:
        kernel.close()
    messages = [genl.link_message(LINK), *genl.peer_messages(PEER), genl.removal_message(PEER)]
    assert told == [(37, message) for message in messages]
    assert len(asked) == 1


def test_a_dump_that_a_change_came_between_is_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(PEER, public_key=format_key(b"\4" * 32))
    # Until it changed, the device had one peer; the second dump finds both.
    dumps = [[(NLM_F_DUMP_INTR, PEER)], [(0, PEER), (0, other)]]

    def dump(_kind: int, _request: bytes, **_over: object) -> Iterator[tuple[int, bytes]]:
        for flags, peer in dumps.pop(0):
            yield flags, genl.peer_messages(peer)[0]

    monkeypatch.setattr(genl.Kernel, "_opened", lambda _kernel: (None, 37))
    monkeypatch.setattr(genl, "dump", dump)
    assert genl.Kernel().get(NAME).peers == (PEER, other)
    assert not dumps


@pytest.mark.parametrize("key", ["", "AAAA", "not base64"])
def test_a_message_is_not_made_of_what_is_no_key(key: str) -> None:
    for made in (genl.peer_messages, genl.removal_message):
        with pytest.raises(ValueError, match="not a WireGuard key"):
            made(replace(PEER, public_key=key))
    with pytest.raises(ValueError, match="not a WireGuard key"):
        genl.link_message(replace(LINK, private_key=key))


@pytest.mark.parametrize("answer", ["", "\n\n", "private_key=00\n\n", "listen_port=1\n"])
def test_an_answer_cut_short_is_none(answer: str) -> None:
    with pytest.raises(ValueError, match="errno"):
        uapi.parse(NAME, answer)


def test_a_refusal_is_an_error_with_its_number() -> None:
    with pytest.raises(OSError, match="refused") as caught:
        uapi.check("errno=-22\n\n")
    assert caught.value.errno == 22


@given(st.text(max_size=60) | st.binary(min_size=30, max_size=34).map(lambda key: base64.b64encode(key).decode()))
def test_a_key_is_32_bytes_or_none(text: str) -> None:
    key = parse_key(text)
    assert key is None or (len(key) == 32 and parse_key(format_key(key)) == key)


LINK = WireguardLink(name=NAME, private_key=format_key(b"\2" * 32), listen_port=51820, mtu_bytes=1420)
PEER = WireguardPeer(
    link=NAME,
    public_key=format_key(b"\1" * 32),
    endpoint=(IPv4Address("198.18.1.2"), 51820),
    allowed_ips=frozenset({IPv4Network("10.5.2.0/24")}),
)
ELSEWHERE = (IPv4Address("198.18.9.9"), 40000)


def state(peer: WireguardPeer, link: WireguardLink = LINK) -> KernelState:
    return KernelState(frozenset({link, peer}))


def test_an_endpoint_given_before_may_have_moved() -> None:
    moved = replace(PEER, endpoint=ELSEWHERE)
    assert diff(state(replace(PEER, roams=True)), state(moved)) == ()
    assert diff(state(PEER), state(moved)) == (Operation(OperationKind.CHANGE, PEER),)
    wanted = replace(PEER, roams=True, keepalive_s=5)
    assert [operation.verb for operation in diff(state(wanted), state(moved))] == [OperationKind.CHANGE]
    assert [o.verb for o in diff(state(replace(PEER, roams=True)), state(replace(PEER, endpoint=None)))] == [
        OperationKind.CHANGE
    ]


@pytest.mark.parametrize(
    "change",
    [{"private_key": format_key(b"\3" * 32)}, {"listen_port": 1}, {"mtu_bytes": 1280}, {"up": False}],
)
def test_a_device_is_changed_in_place_and_keeps_its_peers(change: dict[str, object]) -> None:
    actual = state(PEER, replace(LINK, **change))  # type: ignore[arg-type]
    assert diff(state(PEER), actual) == (Operation(OperationKind.CHANGE, LINK),)


def test_peers_come_after_their_device_and_go_with_it() -> None:
    assert [operation.name for operation in diff(state(PEER), KernelState())] == ["link add", "peer add"]
    assert [operation.name for operation in diff(KernelState(), state(PEER))] == ["link delete"]
    other = replace(PEER, public_key=format_key(b"\4" * 32))
    assert [operation.name for operation in diff(state(other), state(PEER))] == ["peer add", "peer delete"]


def test_a_device_of_another_kind_under_the_name_is_replaced() -> None:
    actual = KernelState(frozenset({TunLink(name=NAME, mtu_bytes=1420)}))
    assert [operation.name for operation in diff(state(PEER), actual)] == ["link delete", "link add", "peer add"]
