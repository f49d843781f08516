"""Reservations and releases, in a real etcd."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest

from overlayd.errors import ConfigError
from overlayd.leases import reservations
from overlayd.leases.keys import Keys
from overlayd.leases.network_config import parse_network_config
from overlayd.leases.presence import Identity, Presence
from overlayd.leases.subnets import Subnets
from overlayd.lib.addresses import IPAddress
from overlayd.store.client import Store
from overlayd.store.protocol import KeyValue

PREFIX = "/coreos.com/network"
CONFIG = parse_network_config('{"Network": "10.42.0.0/24", "SubnetLen": 28, "Backend": {"Type": "vxlan"}}')
DUAL = parse_network_config(
    '{"Network": "10.42.0.0/24", "SubnetLen": 28, "EnableIPv6": true, "IPv6Network": "fd42::/60"}'
)
SUBNET = Subnets(v4=IPv4Network("10.42.0.32/28"))
KEY = f"{PREFIX}/subnets/10.42.0.32-28"
HOST: dict[int, IPAddress] = {4: IPv4Address("198.18.0.1")}


@contextmanager
def living(store: Store) -> Iterator[None]:
    """While an overlayd lives at the host's address."""
    presence = Presence(store, Keys(PREFIX), HOST[4], Identity(hostname="alpha", id="a"))
    presence.claim()
    try:
        yield
    finally:
        presence.release()


def lease_of_flannel(store: Store) -> KeyValue:
    """What a flanneld holds: an etcd lease of a day, and nothing that says whether it lives."""
    value = b'{"PublicIP":"198.18.0.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1}}'
    store.create(KEY, value, lease_id=store.grant(86400))
    found = store.get(KEY)
    assert found is not None
    return found


def test_the_lease_of_a_host_that_says_nothing_is_released_only_by_force(store: Store) -> None:
    before = lease_of_flannel(store)
    with pytest.raises(
        ConfigError, match=r"leased to 198\.18\.0\.1 for 23:59:\d\d more, .*flanneld there would end"
    ) as no:
        reservations.release(store, Keys(PREFIX), SUBNET, force=False)
    assert "--force" in str(no.value.hint)
    assert store.get(KEY) == before
    reservations.release(store, Keys(PREFIX), SUBNET, force=True)
    assert store.get(KEY) is None


def test_the_lease_of_a_host_that_says_nothing_is_reserved_only_by_force(store: Store) -> None:
    before = lease_of_flannel(store)
    with pytest.raises(ConfigError, match="a flanneld would make its lease again") as no:
        reservations.reserve(store, Keys(PREFIX), CONFIG, SUBNET, HOST)
    assert "stop flanneld there first" in str(no.value.hint)
    assert store.get(KEY) == before
    reservations.reserve(store, Keys(PREFIX), CONFIG, SUBNET, HOST, force=True)
    kept = store.get(KEY)
    assert kept is not None
    assert kept.lease_id == 0


def test_this_hosts_own_lease_is_released_without_force(store: Store) -> None:
    before = lease_of_flannel(store)
    reservations.release(store, Keys(PREFIX), SUBNET, force=False, own=before.lease_id)
    assert store.get(KEY) is None


def test_a_reservation_hangs_on_no_etcd_lease_and_reads_as_flannels(store: Store) -> None:
    assert reservations.reserve(store, Keys(PREFIX), CONFIG, SUBNET, HOST) == KEY
    kept = store.get(KEY)
    assert kept is not None
    assert (kept.lease_id, kept.value) == (0, b'{"PublicIP":"198.18.0.1","PublicIPv6":null}')
    # Twice is once.
    assert reservations.reserve(store, Keys(PREFIX), CONFIG, SUBNET, HOST) == KEY
    assert store.get(KEY) == kept


def test_a_lease_becomes_a_reservation_as_it_stands(store: Store) -> None:
    value = b'{"PublicIP":"198.18.0.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1}}'
    lease_id = store.grant(60)
    store.create(KEY, value, lease_id=lease_id)
    with living(store):
        reservations.reserve(store, Keys(PREFIX), CONFIG, SUBNET, HOST)
    store.revoke(lease_id)
    kept = store.get(KEY)
    assert kept is not None
    assert (kept.lease_id, kept.value) == (0, value)


@pytest.mark.parametrize("taken", ["10.42.0.32-28", "10.42.0.32-29", "10.42.0.0-26"])
def test_what_another_host_has_is_refused_and_the_host_named(store: Store, taken: str) -> None:
    store.put(f"{PREFIX}/subnets/{taken}", b'{"PublicIP":"198.18.0.9"}')
    with pytest.raises(ConfigError, match=r"held by 198\.18\.0\.9"):
        reservations.reserve(store, Keys(PREFIX), CONFIG, SUBNET, HOST)


@pytest.mark.parametrize("subnet", ["10.42.0.0/28", "10.42.0.32/27", "10.43.0.32/28"])
def test_what_nobody_could_lease_is_refused_with_what_there_is(store: Store, subnet: str) -> None:
    with pytest.raises(ConfigError, match=r"/28 from 10\.42\.0\.16 to 10\.42\.0\.240"):
        reservations.reserve(store, Keys(PREFIX), CONFIG, Subnets(v4=IPv4Network(subnet)), HOST)


def test_a_pair_is_reserved_with_both_addresses(store: Store) -> None:
    pair = Subnets(v4=SUBNET.v4, v6=IPv6Network("fd42:0:0:5::/64"))
    with pytest.raises(ConfigError, match="no IPv6 address"):
        reservations.reserve(store, Keys(PREFIX), DUAL, pair, HOST)
    both = {**HOST, 6: IPv6Address("2001:db8::1")}
    assert reservations.reserve(store, Keys(PREFIX), DUAL, pair, both) == f"{KEY}&fd42:0:0:5::-64"


def test_a_lease_in_use_is_released_only_by_force(store: Store) -> None:
    lease_id = store.grant(60)
    store.create(KEY, b'{"PublicIP":"198.18.0.1"}', lease_id=lease_id)
    with living(store):
        (entry,) = reservations.entries(store, Keys(PREFIX))
        assert entry.host is not None
        assert (entry.host.hostname, entry.problem) == ("alpha", None)
        assert 0 < (entry.ends_in_s or 0) <= 60
        with pytest.raises(ConfigError, match="in use by alpha"):
            reservations.release(store, Keys(PREFIX), SUBNET, force=False)
        reservations.release(store, Keys(PREFIX), SUBNET, force=True)
    assert store.get(KEY) is None
    assert reservations.live_hosts(store, Keys(PREFIX)) == {}
    with pytest.raises(ConfigError, match="nobody holds"):
        reservations.release(store, Keys(PREFIX), SUBNET, force=False)


def test_garbage_is_listed_with_what_is_wrong(store: Store) -> None:
    store.put(KEY, b"{")
    (entry,) = reservations.entries(store, Keys(PREFIX))
    assert (entry.lease, entry.ends_in_s) == (None, None)
    assert "not JSON" in str(entry.problem)
    reservations.release(store, Keys(PREFIX), SUBNET, force=False)
    assert reservations.entries(store, Keys(PREFIX)) == []
