"""Which netlink messages wake the daemon."""

from __future__ import annotations

import socket
import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlayd.kernel import batch, monitor
from overlayd.kernel.diff import Operation, OperationKind
from overlayd.kernel.expected import Expected, Verdict
from overlayd.kernel.interfaces import Bridges, InterfaceList
from overlayd.kernel.messages import attribute, packed
from overlayd.kernel.monitor import NFT_SUBSYSTEM, Monitor, judge, judge_rules
from overlayd.kernel.state import FdbEntry, KernelObject, Link, Neighbour, Route

RTM_NEWLINK, RTM_DELLINK, RTM_NEWADDR, RTM_NEWROUTE, RTM_NEWNEIGH, RTM_DELNEIGH = 16, 17, 20, 24, 28, 29
NO_BRIDGES = Bridges(of_guests=(), wired=())
NUD_REACHABLE, NUD_PERMANENT = 0x02, 0x80


def neighbour(kind: int, state: int) -> bytes:
    """A message about a neighbour in that state."""
    body = struct.pack("=B3xiHBB", 2, 4, state, 0, 1)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


LINK = Link(name="lo", mtu_bytes=65536)
INDEX = socket.if_nametoindex("lo")
ROUTE = Route(dst=IPv4Network("10.5.2.0/24"), link="lo", via=IPv4Address("10.5.2.0"), onlink=True)
ROUTE6 = Route(dst=IPv6Network("fd42:0:0:2::/64"), link="lo", via=IPv6Address("fd42:0:0:2::"), onlink=True)
BLACKHOLE = Route(dst=IPv4Network("10.5.1.0/24"), link=None, metric=2**31)
NEIGHBOUR = Neighbour(link="lo", address=IPv4Address("10.5.2.0"), mac="02:00:00:00:00:02")
FDB = FdbEntry(link="lo", mac="02:00:00:00:00:02", dst=IPv4Address("198.18.1.2"))
OBJECTS = (ROUTE, ROUTE6, BLACKHOLE, NEIGHBOUR, FDB)
NEW, DELETE = OperationKind.ADD, OperationKind.DELETE


def expected(*objects: KernelObject) -> Expected:
    made = Expected()
    made.replace([LINK, *objects])
    return made


def about(item: KernelObject, verb: OperationKind = NEW) -> bytes:
    """The kernel's message that an object came or went: it repeats what was written."""
    with pytest.MonkeyPatch.context() as patch:
        sent: list[bytes] = []
        patch.setattr(batch, "_exchange", lambda _end, messages, _codes: sent.extend(messages))
        batch.write([Operation(verb, item)])
    (message,) = sent
    return packed(message.kind, 0, message.body)  # type: ignore[attr-defined]


def link_message(kind: int, index: int) -> bytes:
    return packed(kind, 0, struct.pack("=BxHiII", 0, 1, index, 1, 0))


def test_as_long_as_nothing_is_expected_all_matters_but_what_the_kernel_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = Expected()
    assert judge(packed(RTM_NEWROUTE, 0, bytes(12)), nothing) == Verdict.NEWS
    assert judge(link_message(RTM_NEWLINK, 77), nothing) == Verdict.NEWS
    monkeypatch.setattr(socket, "if_indextoname", lambda _index: "eth0")
    noise = neighbour(RTM_NEWNEIGH, NUD_REACHABLE)
    assert judge(noise, nothing) == Verdict.NOISE
    assert judge(neighbour(RTM_DELNEIGH, NUD_PERMANENT), nothing) == Verdict.NEWS
    assert judge(noise + neighbour(RTM_NEWNEIGH, NUD_PERMANENT), nothing) == Verdict.NEWS


@pytest.mark.parametrize("item", OBJECTS, ids=lambda item: item.noun)
def test_what_is_expected_is_noise_when_it_comes_and_lost_when_it_goes(item: KernelObject) -> None:
    whole = expected(*OBJECTS)
    assert judge(about(item), whole) == Verdict.NOISE
    assert whole.take_lost() == []
    assert judge(about(item, DELETE) + about(item, DELETE), whole) == Verdict.LOST
    assert (whole.take_lost(), whole.take_lost()) == ([item], [])
    without = expected(*(one for one in OBJECTS if one is not item))
    assert judge(about(item), without) == Verdict.NEWS
    # What is deleted and not expected was deleted by us.
    assert judge(about(item, DELETE), without) == Verdict.NOISE
    without.add([item])
    assert judge(about(item), without) == Verdict.NOISE
    # What is lost and then not expected any more is not written again.
    judge(about(item, DELETE), without)
    without.remove([item])
    assert without.take_lost() == []


@pytest.mark.parametrize(
    "item",
    [
        replace(ROUTE, via=IPv4Address("10.5.3.0")),
        replace(ROUTE, metric=7),
        replace(NEIGHBOUR, mac="02:00:00:00:00:03"),
        replace(FDB, dst=IPv4Address("198.18.1.3")),
    ],
    ids=str,
)
def test_something_else_in_its_place_is_news(item: KernelObject) -> None:
    assert judge(about(item), expected(*OBJECTS)) == Verdict.NEWS


def test_an_entry_of_ours_that_is_not_permanent_any_more_is_written_again_or_news() -> None:
    for item, verdict in ((NEIGHBOUR, Verdict.LOST), (FDB, Verdict.NEWS)):
        message = bytearray(about(item))
        message[16 + 8 : 16 + 10] = struct.pack("=H", NUD_REACHABLE)
        assert judge(bytes(message), expected(*OBJECTS)) == verdict
        assert judge(bytes(message), expected(ROUTE)) == Verdict.NOISE


@pytest.mark.parametrize("kind", [RTM_NEWNEIGH, RTM_DELNEIGH])
def test_a_neighbour_of_ours_that_somebody_deletes_is_lost_though_it_has_neither_state_nor_mac(kind: int) -> None:
    # As Linux 6.18 tells of `ip neigh del`: in state NUD_FAILED, without a link address.
    for address, verdict in (("10.5.2.0", Verdict.LOST), ("10.5.2.77", Verdict.NOISE)):
        body = struct.pack("=B3xiHBB", 2, INDEX, 0x20, 0, 1) + attribute(1, IPv4Address(address).packed)
        assert judge(packed(kind, 0, body), expected(*OBJECTS)) == verdict


def test_while_nothing_is_expected_all_neighbours_on_our_own_links_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = neighbour(RTM_NEWNEIGH, NUD_REACHABLE)
    for name, verdict in (("overlay.1", Verdict.NEWS), ("eth0", Verdict.NOISE)):
        monkeypatch.setattr(socket, "if_indextoname", lambda _index, name=name: name)
        assert judge(noise, Expected()) == verdict


def test_where_a_link_has_gone_meanwhile_all_stays_news() -> None:
    made = Expected()
    made.replace([Link(name="overlay.77", mtu_bytes=1450), *OBJECTS])
    assert judge(about(ROUTE), made) == Verdict.NEWS


def test_a_link_that_a_route_of_others_leads_to_matters_too() -> None:
    made = Expected()
    made.replace([BLACKHOLE], beside=["lo", "gone0"])
    assert judge(link_message(RTM_NEWLINK, INDEX), made) == Verdict.NEWS


def test_a_link_matters_where_something_of_ours_is_on_it_and_wakes_in_any_case() -> None:
    for kind in (RTM_NEWLINK, RTM_DELLINK):
        assert judge(link_message(kind, INDEX), expected(ROUTE)) == Verdict.NEWS
        assert judge(link_message(kind, INDEX + 4711), expected(ROUTE)) == Verdict.ELSEWHERE


def test_a_route_of_others_is_news_and_one_of_another_table_is_not() -> None:
    message = bytearray(about(ROUTE))
    protocol_at, table_at = 16 + 5, 16 + 4
    message[protocol_at] = 4
    assert judge(bytes(message), expected(*OBJECTS)) == Verdict.NEWS
    message[table_at] = 255
    assert judge(bytes(message), expected(*OBJECTS)) == Verdict.ELSEWHERE


@given(st.binary(max_size=200))
def test_any_bytes_are_judged(datagram: bytes) -> None:
    assert judge(datagram, expected(*OBJECTS)) in Verdict


@given(
    st.sampled_from([16, 17, 20, 21, 24, 25, 28, 29]),
    st.sampled_from([2, 7, 10, 0]),
    st.binary(max_size=60),
)
def test_any_body_is_judged(kind: int, family: int, body: bytes) -> None:
    assert judge(packed(kind, 0, bytes([family]) + body), expected(*OBJECTS)) in Verdict


def nftables(*kinds: int) -> bytes:
    """Messages of nftables of those kinds."""
    return b"".join(struct.pack("=IHHII4x", 20, NFT_SUBSYSTEM << 8 | kind, 0, 0, 0) for kind in kinds)


def test_a_rule_matters_and_the_elements_of_a_set_do_not() -> None:
    new_rule, new_element, deleted_element, new_generation = 6, 12, 14, 15
    assert judge_rules(nftables(new_rule, new_generation)) == Verdict.ELSEWHERE
    assert judge_rules(nftables(new_element, new_rule)) == Verdict.ELSEWHERE
    assert judge_rules(nftables(new_element, deleted_element, new_generation)) == Verdict.NOISE


@given(st.binary(max_size=200))
def test_any_bytes_are_judged_as_nftables_too(datagram: bytes) -> None:
    assert judge_rules(datagram) in Verdict


@pytest.mark.parametrize(
    ("datagram", "again"),
    [
        (link_message(RTM_NEWLINK, INDEX), True),
        (link_message(RTM_DELLINK, 4711), True),
        (packed(RTM_NEWADDR, 0, struct.pack("=BBBBi", 2, 24, 0, 0, INDEX)), True),
        (neighbour(RTM_NEWNEIGH, NUD_PERMANENT), False),
        (packed(RTM_NEWROUTE, 0, b""), False),
    ],
    ids=["a link", "a link that goes", "an address", "a neighbour", "a route"],
)
def test_interfaces_are_read_again_after_news_of_a_link_or_an_address(
    datagram: bytes, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = list[int]()

    def read_list() -> InterfaceList:
        reads.append(1)
        return InterfaceList(all=(), bridges=NO_BRIDGES)

    monkeypatch.setattr(monitor, "read_list", read_list)
    watched = Monitor(lambda: None)
    # As long as changes are not reported, they are read each time.
    watched.interfaces()
    watched.interfaces()
    assert len(reads) == 2
    watched.start()
    try:
        watched.interfaces()
        before = len(reads)
        watched.interfaces()
        assert len(reads) == before
        watched._judge(datagram)
        watched.interfaces()
        assert len(reads) == before + again
    finally:
        watched.stop()
