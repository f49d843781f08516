"""WireGuard's two languages: what is written is what is read back; and what counts as a difference."""

from __future__ import annotations

import base64
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.generic.wireguard import wgmsg

from overlayd.kernel.diff import Operation, OperationKind, diff
from overlayd.kernel.state import KernelState, TunLink, WireguardLink, WireguardPeer
from overlayd.kernel.wireguard import genl, uapi
from overlayd.kernel.wireguard.device import Device, format_key, parse_key
from overlayd.lib.addresses import IPNetwork

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


def decoded(message: wgmsg) -> wgmsg:
    """A message as the other end reads it."""
    message.encode()
    again = wgmsg(bytes(message.data))
    again.decode()
    return again


@given(links, some_peers)
def test_generic_netlink_says_back_what_it_was_told(link: WireguardLink, told: list[WireguardPeer]) -> None:
    messages = [genl.link_message(link), *map(genl.peer_message, told)]
    assert genl.parse(NAME, map(decoded, messages)) == Device(
        private_key=link.private_key, listen_port=link.listen_port, peers=tuple(told)
    )


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
    (found,) = genl.parse(NAME, [decoded(genl.peer_message(one)) for one in (first, second)]).peers
    assert found == replace(first, allowed_ips=first.allowed_ips | second.allowed_ips)


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
