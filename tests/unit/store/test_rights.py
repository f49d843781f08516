"""The rights that a host's user needs in etcd, and what happens where one is missing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from ipaddress import IPv4Address

import pytest

from overlayd.errors import StoreDenied, StoreError
from overlayd.leases.keys import Keys
from overlayd.leases.presence import Identity, Presence
from overlayd.leases.registry import Registry
from overlayd.store.client import Store
from tests.testbed.polling import until
from tests.unit.store.conftest import PASSWORD, Etcd
from tests.unit.store.test_registry import CONFIG, PREFIX, TTL_S, acquire, registry

CONFIG_RIGHT = ("read", f"{PREFIX}/config")
SUBNETS_RIGHT = ("--prefix=true", "readwrite", f"{PREFIX}/subnets/")
HOSTS_RIGHT = ("--prefix=true", "readwrite", f"{PREFIX}/hosts/")
ADDRESS = IPv4Address("198.18.0.1")


def guard(etcd: Etcd, *rights: Sequence[str]) -> Store:
    """Give etcd users, one of them with these rights; a store of that user's."""
    etcd.enable_auth("overlayd", PASSWORD, prefix="/other/")
    for right in rights:
        etcd.ctl("role", "grant-permission", "network", *right)
    etcd.ctl("put", f"{PREFIX}/config", '{"Network": "10.42.0.0/24", "SubnetLen": 28}')
    etcd.ctl("put", f"{PREFIX}/secret", "of others")
    return etcd.store(username="overlayd", password=PASSWORD)


def test_a_host_needs_to_read_the_config_and_to_write_subnets_and_hosts(etcd: Etcd) -> None:
    store = guard(etcd, CONFIG_RIGHT, SUBNETS_RIGHT, HOSTS_RIGHT)
    with registry(store) as one:
        assert one.network_config() == CONFIG
        assert set(one.view.entries) == {"config"}
        held = acquire(one, 1)
        until(lambda: held.lease.key_name in one.lease_table().leases)
        # Both watches stand: a change of either part is seen.
        etcd.ctl("put", f"{PREFIX}/config", '{"Network": "10.42.0.0/24", "SubnetLen": 29}')
        until(lambda: one.network_config() != CONFIG)
        store.revoke(held.etcd_lease_id)
        until(lambda: not one.lease_table().leases)
        assert one.reclaim(held, ttl_s=TTL_S).lease == held.lease
    presence = Presence(store, Keys(PREFIX), ADDRESS, Identity(hostname="alpha", id="a"))
    presence.claim()
    assert store.get(f"{PREFIX}/hosts/{ADDRESS}") is not None
    presence.release()
    with pytest.raises(StoreDenied):
        store.put(f"{PREFIX}/config", b"{}")
    with pytest.raises(StoreDenied):
        store.get(f"{PREFIX}/secret")


def test_without_the_right_on_hosts_presence_is_done_without_and_said_once(
    etcd: Etcd, caplog: pytest.LogCaptureFixture
) -> None:
    store = guard(etcd, CONFIG_RIGHT, SUBNETS_RIGHT)
    caplog.set_level(logging.INFO)
    with registry(store) as one:
        assert acquire(one, 1).lease
    presence = Presence(store, Keys(PREFIX), ADDRESS, Identity(hostname="alpha", id="a"))
    presence.claim()
    presence.release()
    assert caplog.text.count("two hosts with one address would not be noticed") == 1


@pytest.mark.parametrize("missing", [CONFIG_RIGHT, SUBNETS_RIGHT], ids=["config", "subnets"])
def test_a_host_that_may_not_read_says_which_rights_it_needs(
    etcd: Etcd, missing: Sequence[str], caplog: pytest.LogCaptureFixture
) -> None:
    store = guard(etcd, *({CONFIG_RIGHT, SUBNETS_RIGHT} - {tuple(missing)}))
    with pytest.raises(StoreDenied, match="PERMISSION_DENIED") as caught:
        list(store.pages([f"{PREFIX}/config", f"{PREFIX}/subnets/"]))
    for right in ("read PREFIX/config", "readwrite", "PREFIX/subnets/", "PREFIX/hosts/"):
        assert right in str(caught.value.hint)
    one = Registry(store, Keys(PREFIX), lambda: None)
    one.start()
    try:
        until(lambda: "PERMISSION_DENIED" in str(one.view.problem))
        # The daemon's log, and what it waits for, say what to do about it.
        assert "etcd refuses this host" in caplog.text
        with pytest.raises(StoreError, match="PERMISSION_DENIED") as waiting:
            one.network_config()
        assert "read PREFIX/config" in str(waiting.value.hint)
    finally:
        one.stop()


def test_a_host_that_may_read_and_not_write_the_leases_says_so(etcd: Etcd) -> None:
    store = guard(etcd, CONFIG_RIGHT, ("--prefix=true", "read", f"{PREFIX}/subnets/"))
    with registry(store) as one, pytest.raises(StoreDenied, match=r"may not write below .*/subnets/"):
        acquire(one, 1)
