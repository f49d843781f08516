"""Leases in a real etcd: acquired, kept, lost and found again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, IPv4Network

import pytest

from overlayd.errors import LeaseLost, NetworkConfigError, StoreError, SubnetsExhausted
from overlayd.lease import Lease
from overlayd.network import parse_network_config
from overlayd.registry import Holding, Registry
from overlayd.store.client import Store
from tests.polling import until
from tests.unit.store.conftest import Etcd

PREFIX = "/coreos.com/network"
TTL_S = 60
CONFIG = parse_network_config('{"Network": "10.42.0.0/24", "SubnetLen": 28}')


def wanted(host: int) -> Callable[[IPv4Network], Lease]:
    return lambda subnet: Lease(subnet=subnet, public_ip=IPv4Address(f"198.18.0.{host}"), backend_type="host-gw")


@contextmanager
def registry(store: Store) -> Iterator[Registry]:
    made = Registry(store, PREFIX, lambda: None)
    made.start()
    try:
        until(lambda: made.view.connected)
        yield made
    finally:
        made.stop()


def acquire(one: Registry, host: int, preferred: str | None = None) -> Holding:
    before = IPv4Network(preferred) if preferred else None
    return one.acquire(CONFIG, wanted(host), preferred=before, ttl_s=TTL_S)


def key(subnet: IPv4Network) -> str:
    return f"{PREFIX}/subnets/{subnet.network_address}-{subnet.prefixlen}"


def test_the_same_host_gets_the_same_subnet_again(store: Store) -> None:
    with registry(store) as one:
        first = acquire(one, 1)
        again = acquire(one, 1)
        assert again == first
        assert acquire(one, 2).lease.subnet != first.lease.subnet


def test_a_previous_subnet_is_taken_if_it_is_free(store: Store) -> None:
    with registry(store) as one:
        assert acquire(one, 1, "10.42.0.80/28").lease.subnet == IPv4Network("10.42.0.80/28")
        assert acquire(one, 2, "10.42.0.80/28").lease.subnet != IPv4Network("10.42.0.80/28")


def test_hosts_that_start_together_get_distinct_subnets(etcd: Etcd) -> None:
    # Fifteen subnets, fifteen hosts, one moment: most of them lose a race, none fails.
    with ExitStack() as stack:
        stores = [etcd.store() for _ in range(15)]
        for connected in stores:
            stack.callback(connected.close)
        registries = [Registry(connected, PREFIX, lambda: None) for connected in stores]
        pool = stack.enter_context(ThreadPoolExecutor(15))
        held = list(pool.map(acquire, registries, range(1, 16)))
    assert len({holding.lease.subnet for holding in held}) == 15


def test_when_all_are_taken_it_says_so(store: Store) -> None:
    with registry(store) as one:
        for host in range(1, 16):
            acquire(one, host)
        with pytest.raises(SubnetsExhausted, match="all 15 subnets"):
            acquire(one, 99)


def test_a_reservation_is_used_and_never_becomes_a_lease(store: Store) -> None:
    subnet = IPv4Network("10.42.0.32/28")
    store.put(key(subnet), wanted(1)(subnet).value())
    with registry(store) as one:
        held = acquire(one, 1)
        assert held.lease.subnet == subnet
        assert held.reserved
        assert one.refresh(held)
    kept = store.get(key(subnet))
    assert kept is not None
    assert kept.lease_id == 0


def test_a_revoked_lease_is_reclaimed_on_the_same_subnet(store: Store) -> None:
    with registry(store) as one:
        held = acquire(one, 1)
        store.revoke(held.etcd_lease_id)
        assert not one.refresh(held)
        until(lambda: not one.view.entries)
        mended = one.reclaim(held, ttl_s=TTL_S)
        assert mended.lease == held.lease
        assert mended.etcd_lease_id != held.etcd_lease_id
        assert one.refresh(mended)


def test_a_subnet_that_another_host_has_now_is_lost(store: Store) -> None:
    with registry(store) as one:
        held = acquire(one, 1)
        store.revoke(held.etcd_lease_id)
        assert acquire(one, 2, str(held.lease.subnet)).lease.subnet == held.lease.subnet
        until(lambda: "198.18.0.2" in str(one.census().leases))
        with pytest.raises(LeaseLost, match=r"leased to 198\.18\.0\.2 now"):
            one.reclaim(held, ttl_s=TTL_S)


def test_a_changed_value_is_written_again_and_a_good_one_is_left_alone(store: Store) -> None:
    with registry(store) as one:
        held = acquire(one, 1)
        until(lambda: bool(one.census().leases))
        before = store.get(key(held.lease.subnet))
        assert one.reclaim(held, ttl_s=TTL_S) is held
        assert store.get(key(held.lease.subnet)) == before
        store.put(key(held.lease.subnet), b'{"PublicIP": "198.18.0.1", "BackendType": "vxlan"}')
        until(lambda: "vxlan" in str(one.census().leases))
        assert one.reclaim(held, ttl_s=TTL_S).lease == held.lease


def test_garbage_from_others_is_skipped_and_its_subnet_left_alone(store: Store) -> None:
    store.put(f"{PREFIX}/subnets/10.42.0.16-28", b"{")
    store.put(f"{PREFIX}/subnets/nonsense", b"\xff")
    with registry(store) as one:
        until(lambda: len(one.census().malformed) == 2)
        for host in range(1, 15):
            acquire(one, host)
        with pytest.raises(SubnetsExhausted):
            acquire(one, 15)


def test_a_network_config_that_is_missing_or_wrong_says_where(store: Store) -> None:
    with registry(store) as one:
        with pytest.raises(NetworkConfigError, match=r"no network config in etcd under /coreos\.com"):
            one.network_config()
        store.put(f"{PREFIX}/config", b'{"Network": "10.42.0.0/30"}')
        until(lambda: "config" in one.view.entries)
        with pytest.raises(NetworkConfigError, match="too small"):
            one.network_config()
        store.put(f"{PREFIX}/config", b'{"Network": "10.42.0.0/24", "SubnetLen": 28}')
        until(lambda: b"28" in one.view.entries["config"].value)
        assert one.network_config() == CONFIG


def test_without_etcd_every_call_is_a_store_error(etcd: Etcd, store: Store) -> None:
    etcd.stop()
    one = Registry(store, PREFIX, lambda: None)
    with pytest.raises(StoreError, match=etcd.endpoint):
        acquire(one, 1)
    with pytest.raises(StoreError, match="not reached yet"):
        one.network_config()


def test_peers_are_kept_for_a_while_when_etcd_has_lost_its_memory(etcd: Etcd, store: Store) -> None:
    with registry(store) as one:
        first, second = acquire(one, 1), acquire(one, 2)
        until(lambda: len(one.census().leases) == 2)
        etcd.stop()
        etcd.lose_data()
        etcd.start()
        until(lambda: one.view.connected and not one.view.entries)
        assert {lease.subnet for lease in one.census().leases.values()} == {first.lease.subnet, second.lease.subnet}
        # The first host writes its lease again; a third takes the second's subnet, which ends the second's claim.
        assert one.reclaim(first, ttl_s=TTL_S).lease == first.lease
        acquire(one, 3, str(second.lease.subnet))
        until(lambda: len(one.view.entries) == 2)
        assert {str(lease.public_ip) for lease in one.census().leases.values()} == {"198.18.0.1", "198.18.0.3"}
