"""Which netlink messages wake the daemon."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from overlayd.kernel.monitor import NFT_SUBSYSTEM, is_relevant, is_rule_change

RTM_NEWROUTE, RTM_NEWNEIGH, RTM_DELNEIGH = 24, 28, 29
NUD_REACHABLE, NUD_PERMANENT = 0x02, 0x80


def neighbour(kind: int, state: int) -> bytes:
    """A message about a neighbour in that state."""
    body = struct.pack("=B3xiHBB", 2, 4, state, 0, 1)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def test_a_route_matters() -> None:
    assert is_relevant(struct.pack("=IHHII", 28, RTM_NEWROUTE, 0, 0, 0) + bytes(12))


def test_a_learnt_neighbour_does_not_matter_and_a_permanent_one_does() -> None:
    noise = neighbour(RTM_NEWNEIGH, NUD_REACHABLE)
    assert not is_relevant(noise)
    assert is_relevant(neighbour(RTM_DELNEIGH, NUD_PERMANENT))
    assert is_relevant(noise + neighbour(RTM_NEWNEIGH, NUD_PERMANENT))


@given(st.binary(max_size=200))
def test_any_bytes_are_judged(datagram: bytes) -> None:
    assert is_relevant(datagram) in (True, False)


def nftables(*kinds: int) -> bytes:
    """Messages of nftables of those kinds."""
    return b"".join(struct.pack("=IHHII4x", 20, NFT_SUBSYSTEM << 8 | kind, 0, 0, 0) for kind in kinds)


def test_a_rule_matters_and_the_elements_of_a_set_do_not() -> None:
    new_rule, new_element, deleted_element, new_generation = 6, 12, 14, 15
    assert is_rule_change(nftables(new_rule, new_generation))
    assert is_rule_change(nftables(new_element, new_rule))
    assert not is_rule_change(nftables(new_element, deleted_element, new_generation))


@given(st.binary(max_size=200))
def test_any_bytes_are_judged_as_nftables_too(datagram: bytes) -> None:
    assert is_rule_change(datagram) in (True, False)
