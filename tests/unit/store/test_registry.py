"""Leases in a real etcd: acquired, kept, lost and found again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, IPv4Network, IPv6Address

import pytest

from overlayd.errors import LeaseLost, NetworkConfigError, StoreError, SubnetsExhausted
from overlayd.leases.held_lease import HeldLease, PreviousLease
from overlayd.leases.keys import Keys, lease_name
from overlayd.leases.lease import FamilyLease, Lease
from overlayd.leases.network_config import NetworkConfig, parse_network_config
from overlayd.leases.registry import Registry
from overlayd.leases.subnets import Subnets
from overlayd.store.client import Store
from tests.testbed.polling import until
from tests.unit.store.conftest import Etcd, value

PREFIX = "/coreos.com/network"
TTL_S = 60
CONFIG = parse_network_config('{"Network": "10.42.0.0/24", "SubnetLen": 28}')


DUAL = parse_network_config(
    '{"Network": "10.42.0.0/24", "SubnetLen": 28, "EnableIPv6": true, "IPv6Network": "fd42::/60", "IPv6SubnetLen": 64}'
)


def wanted(host: int) -> Callable[[Subnets], Lease]:
    def make(subnets: Subnets) -> Lease:
        v4 = FamilyLease(subnet=subnets.v4, public_ip=IPv4Address(f"198.18.0.{host}")) if subnets.v4 else None
        v6 = FamilyLease(subnet=subnets.v6, public_ip=IPv6Address(f"2001:db8::{host}")) if subnets.v6 else None
        return Lease(v4=v4, v6=v6, backend_type="host-gw")

    return make


@contextmanager
def registry(store: Store, prefix: str = PREFIX) -> Iterator[Registry]:
    made = Registry(store, Keys(prefix), lambda: None)
    made.start()
    try:
        until(lambda: made.view.connected)
        yield made
    finally:
        made.stop()


def acquire(
    one: Registry, host: int, preferred: str | None = None, *, config: NetworkConfig = CONFIG, lease_id: int = 0
) -> HeldLease:
    before = Subnets(v4=IPv4Network(preferred) if preferred else None)
    return one.acquire(
        config,
        wanted(host),
        public_ip=IPv4Address(f"198.18.0.{host}"),
        previous=PreviousLease(subnets=before, etcd_lease_id=lease_id),
        ttl_s=TTL_S,
    )


def key(subnets: Subnets) -> str:
    return f"{PREFIX}/subnets/{lease_name(subnets)}"


def at(subnet: str) -> Subnets:
    return Subnets(v4=IPv4Network(subnet))


def test_the_same_host_gets_the_same_subnet_again(store: Store) -> None:
    with registry(store) as one:
        first = acquire(one, 1)
        again = acquire(one, 1)
        assert again == first
        assert acquire(one, 2).lease.subnets != first.lease.subnets


def test_a_previous_subnet_is_taken_if_it_is_free(store: Store) -> None:
    with registry(store) as one:
        assert acquire(one, 1, "10.42.0.80/28").lease.subnets == at("10.42.0.80/28")
        assert acquire(one, 2, "10.42.0.80/28").lease.subnets != at("10.42.0.80/28")


def test_hosts_that_start_together_get_distinct_subnets(etcd: Etcd) -> None:
    # Fifteen subnets, fifteen hosts, one moment: most of them lose a race, none fails.
    with ExitStack() as stack:
        stores = [etcd.store() for _ in range(15)]
        for connected in stores:
            stack.callback(connected.close)
        registries = [Registry(connected, Keys(PREFIX), lambda: None) for connected in stores]
        pool = stack.enter_context(ThreadPoolExecutor(15))
        held = list(pool.map(acquire, registries, range(1, 16)))
    assert len({holding.lease.subnets for holding in held}) == 15


def test_when_all_are_taken_it_says_so(store: Store) -> None:
    with registry(store) as one:
        for host in range(1, 16):
            acquire(one, host)
        with pytest.raises(SubnetsExhausted, match="all 15 subnets"):
            acquire(one, 99)


def test_a_reservation_is_used_and_never_becomes_a_lease(store: Store) -> None:
    subnet = at("10.42.0.32/28")
    store.put(key(subnet), wanted(1)(subnet).value())
    with registry(store) as one:
        held = acquire(one, 1)
        assert held.lease.subnets == subnet
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
        assert acquire(one, 2, str(held.lease.subnets)).lease.subnets == held.lease.subnets
        until(lambda: "198.18.0.2" in str(one.lease_table().leases))
        with pytest.raises(LeaseLost, match=r"leased to 198\.18\.0\.2 now"):
            one.reclaim(held, ttl_s=TTL_S)


def test_a_changed_value_is_written_again_and_a_good_one_is_left_alone(store: Store) -> None:
    with registry(store) as one:
        held = acquire(one, 1)
        until(lambda: bool(one.lease_table().leases))
        before = store.get(key(held.lease.subnets))
        assert one.reclaim(held, ttl_s=TTL_S) is held
        assert store.get(key(held.lease.subnets)) == before
        store.put(key(held.lease.subnets), b'{"PublicIP": "198.18.0.1", "BackendType": "vxlan"}')
        until(lambda: "vxlan" in str(one.lease_table().leases))
        assert one.reclaim(held, ttl_s=TTL_S).lease == held.lease


def test_garbage_from_others_is_skipped_and_its_subnet_left_alone(store: Store) -> None:
    store.put(f"{PREFIX}/subnets/10.42.0.16-28", b"{")
    store.put(f"{PREFIX}/subnets/nonsense", b"\xff")
    with registry(store) as one:
        until(lambda: len(one.lease_table().malformed) == 2)
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
        until(lambda: b"28" in (value(one, "config") or b""))
        assert one.network_config() == CONFIG


def test_without_etcd_every_call_is_a_store_error(etcd: Etcd, store: Store) -> None:
    etcd.stop()
    one = Registry(store, Keys(PREFIX), lambda: None)
    with pytest.raises(StoreError, match=etcd.endpoint):
        acquire(one, 1)
    with pytest.raises(StoreError, match="not reached yet"):
        one.network_config()


def test_peers_are_kept_for_a_while_when_etcd_has_lost_its_data(etcd: Etcd, store: Store) -> None:
    with registry(store) as one:
        first, second = acquire(one, 1), acquire(one, 2)
        until(lambda: len(one.lease_table().leases) == 2)
        etcd.stop()
        etcd.lose_data()
        etcd.start()
        until(lambda: one.view.connected and not one.view.entries)
        assert {lease.subnets for lease in one.lease_table().leases.values()} == {
            first.lease.subnets,
            second.lease.subnets,
        }
        # The first host writes its lease again; a third takes the second's subnet, which ends the second's claim.
        assert one.reclaim(first, ttl_s=TTL_S).lease == first.lease
        acquire(one, 3, str(second.lease.subnets))
        until(lambda: len(one.view.entries) == 2)
        assert {str(lease.public_ip) for lease in one.lease_table().leases.values()} == {"198.18.0.1", "198.18.0.3"}


def test_a_dual_stack_host_gets_a_pair_and_the_same_again(store: Store) -> None:
    with registry(store) as one:
        first = acquire(one, 1, config=DUAL)
        assert DUAL.fits(first.lease.subnets)
        assert acquire(one, 1, config=DUAL) == first
        assert store.get(key(first.lease.subnets)) is not None


def test_dual_stack_hosts_that_start_together_share_neither_subnet(etcd: Etcd) -> None:
    with ExitStack() as stack:
        stores = [etcd.store() for _ in range(10)]
        for connected in stores:
            stack.callback(connected.close)
        registries = [Registry(connected, Keys(PREFIX), lambda: None) for connected in stores]
        pool = stack.enter_context(ThreadPoolExecutor(10))
        held = list(pool.map(lambda one, host: acquire(one, host, config=DUAL), registries, range(1, 11)))
    assert len({holding.lease.subnets.v4 for holding in held}) == 10
    assert len({holding.lease.subnets.v6 for holding in held}) == 10


def test_a_host_that_becomes_dual_stack_keeps_its_ipv4_subnet_and_gives_up_the_old_key(store: Store) -> None:
    with registry(store) as one:
        before = acquire(one, 1)
        after = acquire(one, 1, config=DUAL)
        assert after.lease.subnets.v4 == before.lease.subnets.v4
        assert store.get(key(before.lease.subnets)) is None
        back = acquire(one, 1)
        assert back.lease.subnets == before.lease.subnets
        assert len(store.list_prefix(f"{PREFIX}/subnets/")[0]) == 1


def test_another_range_gives_another_subnet_and_frees_the_first(store: Store) -> None:
    elsewhere = parse_network_config('{"Network": "10.43.0.0/24", "SubnetLen": 28}')
    with registry(store) as one:
        before = acquire(one, 1)
        after = acquire(one, 1, config=elsewhere)
        assert elsewhere.fits(after.lease.subnets)
        assert store.get(key(before.lease.subnets)) is None


def test_a_reservation_outside_the_range_is_left_where_it_is(store: Store) -> None:
    elsewhere = at("10.99.0.0/28")
    store.put(key(elsewhere), wanted(1)(elsewhere).value())
    with registry(store) as one:
        assert CONFIG.fits(acquire(one, 1).lease.subnets)
    assert store.get(key(elsewhere)) is not None


def test_a_host_with_a_new_address_is_known_by_its_etcd_lease(store: Store) -> None:
    with registry(store) as one:
        before = acquire(one, 1)
        after = acquire(one, 2, lease_id=before.etcd_lease_id)
        assert after.lease.subnets == before.lease.subnets
        assert after.etcd_lease_id == before.etcd_lease_id
        kept = store.get(key(before.lease.subnets))
        assert kept is not None
        assert b"198.18.0.2" in kept.value
        assert acquire(one, 3, lease_id=12345).lease.subnets != before.lease.subnets


def test_a_lease_that_had_gone_is_lost_if_a_wider_one_took_its_place(store: Store) -> None:
    with registry(store) as one:
        held = acquire(one, 1, "10.42.0.80/28")
        store.revoke(held.etcd_lease_id)
        wider = at("10.42.0.64/27")
        store.put(key(wider), wanted(2)(wider).value())
        until(lambda: list(one.view.entries) == [f"subnets/{lease_name(wider)}"])
        with pytest.raises(LeaseLost, match=r"10\.42\.0\.64/27 was leased to another host"):
            one.reclaim(held, ttl_s=TTL_S)


@pytest.mark.parametrize("name", ["10.42.0.32-028", "10.42.0.32-28&fd42:0:0:2::-64"])
def test_a_lease_of_ours_under_another_key_moves_to_its_own(store: Store, name: str) -> None:
    # The second is that of a dual-stack host which published no IPv6 address.
    value = wanted(1)(at("10.42.0.32/28")).value()
    store.create(f"{PREFIX}/subnets/{name}", value, lease_id=store.grant(TTL_S))
    with registry(store) as one:
        held = acquire(one, 1)
        assert held.lease.subnets == at("10.42.0.32/28")
        found, _revision = store.list_prefix(f"{PREFIX}/subnets/")
        assert [kv.key for kv in found] == [key(at("10.42.0.32/28"))]
        until(lambda: f"subnets/{held.lease.key_name}" in one.view.entries)
        assert one.reclaim(held, ttl_s=TTL_S) == held


def test_one_lease_under_two_keys_is_one_lease(store: Store) -> None:
    for name in ("10.42.0.32-028", "10.42.0.32-28"):
        store.put(f"{PREFIX}/subnets/{name}", wanted(1)(at("10.42.0.32/28")).value())
    with registry(store) as one:
        lease_table = one.lease_table()
        assert list(lease_table.leases) == ["10.42.0.32-28"]
        assert "10.42.0.32-28 once more" in lease_table.malformed["10.42.0.32-028"]


def test_no_subnet_is_taken_that_holds_the_hosts_own_address(store: Store) -> None:
    # Fifteen subnets, fourteen hosts, and one subnet that holds the underlay's address of each.
    own = IPv4Network("10.42.0.17/32")
    with registry(store) as one:
        held = [
            one.acquire(
                CONFIG,
                wanted(host),
                public_ip=IPv4Address(f"198.18.0.{host}"),
                previous=PreviousLease(subnets=at("10.42.0.16/28")),
                ttl_s=TTL_S,
                avoid=[own],
            )
            for host in range(1, 15)
        ]
        assert at("10.42.0.16/28") not in [holding.lease.subnets for holding in held]
        with pytest.raises(SubnetsExhausted):
            one.acquire(
                CONFIG,
                wanted(99),
                public_ip=IPv4Address("198.18.0.99"),
                previous=PreviousLease(),
                ttl_s=TTL_S,
                avoid=[own],
            )


@pytest.mark.parametrize("prefix", ["", "coreos.com/network"])
def test_a_network_may_be_at_the_root_of_etcd_or_at_a_key_without_a_slash(store: Store, prefix: str) -> None:
    store.put(f"{prefix}/config", b'{"Network": "10.42.0.0/24", "SubnetLen": 28}')
    with registry(store, prefix) as one:
        assert one.network_config() == CONFIG
        held = acquire(one, 1)
        until(lambda: held.lease.key_name in one.lease_table().leases)
        assert store.get(f"{prefix}/subnets/{held.lease.key_name}") is not None


def test_two_who_write_over_each_others_lease_do_so_less_and_less_often(
    etcd: Etcd, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = Lease(
        v4=FamilyLease(subnet=IPv4Network("10.42.0.16/28"), public_ip=IPv4Address("198.18.0.1")), backend_type="ipip"
    )
    with registry(etcd.store()) as one:
        held = acquire(one, 1, "10.42.0.16/28")
        refused = 0
        for _time in range(20):
            etcd.ctl("put", key(held.lease.subnets), theirs.value().decode())
            with contextlib.suppress(StoreError):
                one.reclaim(held, ttl_s=TTL_S)
                continue
            refused += 1
        # Where the watch has not told of theirs yet, nothing is to be done.
        assert 1 <= caplog.text.count("; written again") <= 8
        assert refused >= 8
        assert "again and again" in one.warnings[-1]
