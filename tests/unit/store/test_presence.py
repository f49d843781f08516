"""Presence in a real etcd: who is there, who only seems to be, and who takes over from whom."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv6Address

import pytest

from overlayd.errors import AddressTaken
from overlayd.leases.keys import Keys
from overlayd.leases.presence import TTL_S, Identity, Presence, parse_identity, probed_address
from overlayd.store.client import Store
from overlayd.store.protocol import KeyValue

PREFIX = "/net"
ADDRESS = IPv4Address("198.18.0.1")
KEY = f"{PREFIX}/hosts/{ADDRESS}"
ALPHA = Identity(hostname="alpha", id="a")
BETA = Identity(hostname="beta", id="b")


def presence(store: Store, identity: Identity) -> Presence:
    return Presence(store, Keys(PREFIX), ADDRESS, identity)


def held(store: Store) -> KeyValue:
    found = store.get(KEY)
    assert found is not None
    return found


def test_a_key_without_an_etcd_lease_is_nobodys_sign_of_life(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    for value in (ALPHA.value(), b"{", b""):
        store.put(KEY, value)
        mine = presence(store, BETA)
        mine.claim()
        found = held(store)
        assert (parse_identity(found.value), store.granted_ttl(found.lease_id)) == (BETA, TTL_S)
        mine.release()
        assert store.get(KEY) is None
    assert caplog.text.count("taken over") == 3


def test_a_key_whose_etcd_lease_is_of_a_year_is_none_either(store: Store) -> None:
    store.create(KEY, ALPHA.value(), lease_id=store.grant(365 * 86400))
    mine = presence(store, BETA)
    mine.claim()
    assert store.granted_ttl(held(store).lease_id) == TTL_S
    mine.release()


def test_a_key_that_is_kept_alive_is_a_host_and_the_hint_says_how_to_end_it(store: Store) -> None:
    theirs = presence(store, ALPHA)
    theirs.claim()
    with pytest.raises(AddressTaken, match="published by host alpha") as taken:
        presence(store, BETA).claim()
    assert f"etcdctl del {KEY}" in str(taken.value.hint)
    theirs.release()
    mine = presence(store, BETA)
    mine.claim()
    mine.release()


def test_a_key_that_was_written_over_is_noticed_though_its_etcd_lease_lives(store: Store) -> None:
    mine = presence(store, ALPHA)
    mine.claim()
    try:
        store.put(KEY, BETA.value())
        mine._refresh()
        assert (parse_identity(held(store).value), mine.problem) == (ALPHA, None)
        # By another host, that is.
        found = held(store)
        store.replace(KEY, BETA.value(), mod_revision=found.mod_revision, lease_id=store.grant(TTL_S))
        mine._refresh()
        assert "published by host beta" in str(mine.problem)
        store.revoke(held(store).lease_id)
        mine._refresh()
        assert (parse_identity(held(store).value), mine.problem) == (ALPHA, None)
    finally:
        mine.release()


def test_a_restarted_host_goes_on_with_its_own_key(store: Store) -> None:
    first = presence(store, ALPHA)
    first.claim()
    before = held(store)
    again = presence(store, ALPHA)
    again.claim()
    assert held(store) == before
    again.release()
    first.release()


def test_whatever_stands_there_is_named_in_a_short_line(store: Store) -> None:
    value = json.dumps({"Hostname": "x\n\x1b[2J" * 10_000, "ID": ["deep"] * 1000}).encode()
    store.create(KEY, value, lease_id=store.grant(TTL_S))
    with pytest.raises(AddressTaken) as taken:
        presence(store, BETA).claim()
    assert taken.value.message.isprintable()
    assert len(taken.value.message) < 1000


def test_a_host_tells_of_a_container_that_peers_may_ask_and_of_another_one_later(store: Store) -> None:
    mine = presence(store, ALPHA)
    mine.claim()
    try:
        assert probed_address(held(store).value, 4) is None
        mine.containers = (IPv4Address("10.5.1.2"), IPv6Address("fd00::2"))
        mine._refresh()
        assert probed_address(held(store).value, 4) == IPv4Address("10.5.1.2")
        assert probed_address(held(store).value, 6) == IPv6Address("fd00::2")
        assert (parse_identity(held(store).value), mine.problem) == (ALPHA, None)
        revision = held(store).mod_revision
        mine._refresh()
        assert held(store).mod_revision == revision
        mine.containers = ()
        mine._refresh()
        assert probed_address(held(store).value, 4) is None
    finally:
        mine.release()


@pytest.mark.parametrize("value", [b"", b"{", b"[]", b"null", b'{"Containers": 7}', b'{"Containers": ["x", 3, null]}'])
def test_whatever_a_host_says_of_its_containers_is_read_without_harm(value: bytes) -> None:
    assert probed_address(value, 4) is None
