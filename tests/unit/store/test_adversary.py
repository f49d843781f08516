"""Whatever a writer of etcd writes among the leases: good ones are served, and each message is one short line."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from overlayd.errors import StoreError
from overlayd.store.client import Store
from overlayd.store.rpc import etcdrpc
from tests.testbed.polling import eventually, until
from tests.unit.store.test_registry import PREFIX, TTL_S, acquire, key, registry

SUBNETS = f"{PREFIX}/subnets/".encode()
GOOD = b'{"PublicIP":"198.18.0.9","BackendType":"vxlan"}'
LEASE = {"PublicIP": "198.18.0.9", "BackendType": "vxlan"}

KEYS = (
    b"",
    b"\0",
    b"10.42.0.16-28\0",
    b"10.42.0.16-28\xff",
    b"10.42.0.16-28\xfe",
    b"10.42.0.16%2F28",
    b"10.42.0.16-28/config",
    b"../config",
    b"10.42.0.16-28&",
    b"10.42.0.16-28&&fd42::-64",
    b"10.42.0.16-99999999999999999999",
    b"10.42.0.16-2\xc2\xb2",
    b"\x1b[2J\r\n<3>overlayd: ready",
    b"0.0.0.0-0&::-0",
    b"1" * 5000,
)
VALUES = (
    b"",
    b"null",
    b"[]",
    b"{",
    b"\xff\xfe\0",
    b"[" * 60_000,
    b'{"a":' * 10_000,
    b"1" * 60_000,
    b'{"PublicIP":1e999}',
    *(
        json.dumps({**LEASE, **wrong}).encode()
        for wrong in (
            {"PublicIP": ["198.18.0.9"]},
            {"PublicIP": "198.18.0.9%eth0"},
            {"PublicIP": "198.18.0.9\n<3>"},
            {"PublicIP": None},
            {"PublicIPv6": 7},
            {"BackendType": {"a": 1}},
            {"BackendType": "vx\x1b[2Jlan"},
            {"BackendType": "x" * 10_000},
            {"BackendData": [1]},
            {"BackendData": {str(number): number for number in range(100)}},
        )
    ),
)


def put(store: Store, name: bytes, value: bytes, *, lease: int = 0) -> None:
    request = etcdrpc.PutRequest(key=SUBNETS + name, value=value, lease=lease)
    store.servers.call("put", lambda c: c.kv.Put, request)


def strange() -> Iterator[tuple[bytes, bytes]]:
    yield from ((name, GOOD) for name in KEYS)
    yield from ((b"10.42.0.%d-28" % (16 * number), value) for number, value in enumerate(VALUES, 1))


def test_good_leases_are_served_among_whatever_else_is_written(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with registry(store) as one:
        for name, value in strange():
            put(store, name, value)
        # At the end, so that everything else has been seen.
        put(store, b"10.43.0.0-24", GOOD)
        until(lambda: "10.43.0.0-24" in one.lease_table().leases)
        seen = one.lease_table()
        assert not {name for name in seen.leases if "\0" in name or "\ufffd" in name or "%" in name}
        for words in seen.skipped:
            assert all(one.isprintable() for one in words)
            assert len("".join(words)) < 700
        for record in caplog.records:
            assert all(str(value).isprintable() for value in getattr(record, "fields", {}).values()), vars(record)
    # The same as a list, and when all is deleted again.
    with registry(store) as other:
        assert set(other.lease_table().leases) == set(seen.leases)
        for name, _value in strange():
            store.servers.call("delete", lambda c: c.kv.DeleteRange, etcdrpc.DeleteRangeRequest(key=SUBNETS + name))
        until(lambda: set(other.view.entries) == {"subnets/10.43.0.0-24"})
        assert other.view.left_out == 0


@pytest.mark.parametrize("number", [2**63 - 1, -1, -(2**63)])
def test_an_etcd_lease_of_any_number_is_one(store: Store, number: int) -> None:
    try:
        store.servers.call("grant", lambda c: c.leases.LeaseGrant, etcdrpc.LeaseGrantRequest(ID=number, TTL=60))
    except StoreError:
        pytest.skip("etcd gives no such lease")
    with registry(store) as one:
        held = acquire(one, 1)
        # Our own key on somebody's etcd lease, which then ends.
        put(store, held.lease.key_name.encode(), held.lease.value(), lease=number)
        name = f"subnets/{held.lease.key_name}"
        until(lambda: name in one.view.entries and one.view.entries[name].lease_id == number)
        mended = one.reclaim(held, ttl_s=TTL_S)
        assert mended.lease == held.lease
        store.revoke(number)
        eventually("it is gone", lambda: store.get(key(held.lease.subnets)) is None)
        until(lambda: not one.view.entries)
        again = one.reclaim(mended, ttl_s=TTL_S)
        assert (again.lease, again.etcd_lease_id in (0, number)) == (held.lease, False)
