"""Whatever is in etcd, readers raise only the exception that their docstring names."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from overlayd.errors import NetworkConfigError
from overlayd.leases.followed_config import read_network_config
from overlayd.leases.followed_leases import FollowedLeases
from overlayd.leases.keys import SUBNETS, Keys, MalformedLease, parse_lease_name
from overlayd.leases.lease import Lease, parse_lease
from overlayd.leases.lease_table import LeaseTable, LeaseTableReader
from overlayd.leases.network_config import parse_network_config
from overlayd.leases.presence import parse_identity
from overlayd.store.follow import View
from overlayd.store.protocol import KeyValue
from overlayd.store.rpc import etcdrpc
from overlayd.store.watch import _change
from tests.unit.fuzz.documents import damaged, documents, encoded, joined, raw, values
from tests.unit.fuzz.leases import any_values, keys, tables

T = TypeVar("T")

KEYS = Keys("/n")


def printable(text: str) -> bool:
    """Whether a text is safe for a log and a terminal: short, in one line, and without control characters."""
    return text.isprintable() and len(text) < 500


def tried(call: Callable[[], T], kind: type[Exception]) -> tuple[T | None, Any]:
    """The result of a call, or the one kind of error that it may raise."""
    try:
        return call(), None
    except kind as error:
        return None, error


@given(keys() | st.text(), any_values())
@example("10.5.2.0-24", b'{"PublicIP":"198.18.1.2","BackendType":"\\ud800"}')
@example("10.5.2.0-24&fd42:0:0:2::%eth0-64", b'{"PublicIP":"198.18.1.2"}')
@example("10.5.2.0-24", b'{"PublicIP":"' + b"x" * 10_000 + b'"}')
@settings(max_examples=400)
def test_any_key_and_value_is_a_lease_or_malformed(name: str, value: bytes) -> None:
    lease, problem = tried(lambda: parse_lease(name, value), MalformedLease)
    if lease is None:
        assert printable(str(problem))
        return
    assert lease.family_leases
    assert printable(lease.backend_type)
    for family_lease in lease.family_leases:
        assert family_lease.subnet.version == family_lease.public_ip.version
        # No zone (RFC 4007), which has a meaning only on the host that wrote it.
        assert "%" not in f"{family_lease.subnet}{family_lease.public_ip}"
    assert parse_lease_name(lease.key_name) == lease.subnets


@given(tables())
@settings(max_examples=200)
def test_a_lease_table_counts_every_entry_once_and_has_no_lease_under_two_names(entries: dict[str, KeyValue]) -> None:
    lease_table = LeaseTableReader().read(entries.items())
    assert lease_table.leases.keys() | lease_table.malformed.keys() == entries.keys()
    assert not lease_table.leases.keys() & lease_table.malformed.keys()
    assert lease_table.reserved <= lease_table.leases.keys()
    names = [lease.key_name for lease in lease_table.leases.values()]
    assert len(names) == len(set(names))
    assert all(map(printable, lease_table.malformed.values()))


@given(st.lists(st.tuples(tables(), st.integers(0, 3)), min_size=1, max_size=4))
def test_a_lease_table_is_made_whatever_etcd_shows_next(shown: list[tuple[dict[str, KeyValue], int]]) -> None:
    leases = FollowedLeases(KEYS)
    for entries, revision in shown:
        named = {f"{SUBNETS}{name}": kv for name, kv in entries.items()}
        lease_table = leases.read(View(entries=named, revision=revision, connected=True))
        assert isinstance(lease_table, LeaseTable)
        assert LeaseTableReader().read(entries.items()).leases.items() <= lease_table.leases.items()


@given(st.binary(max_size=40), any_values(), st.integers(0, 1), st.integers(0, 2**63 - 1))
def test_any_event_of_a_watch_is_a_change(key: bytes, value: bytes, kind: int, number: int) -> None:
    event = etcdrpc.WatchResponse().events.add()
    event.type = kind
    event.kv.key, event.kv.value, event.kv.mod_revision, event.kv.lease = key, value, number, number
    change = _change(event)
    assert change.revision == number
    assert (change.now is None) == (kind == 1)
    assert change.now is None or (change.now.key, change.now.value) == (change.key, value)


NETWORKS = ("10.5.0.0/16", "10.5.0.0/28", "0.0.0.0/0", "10.5.7.7/16", "10.5.0.0/255.255.0.0", "10.5.0.0", "224.0.0.0/8")
NETWORKS6 = ("fd42::/48", "::/0", "fd42::%eth0/48", "fd42::/124", "fe80::/10", "FD42::1/48")
BOUNDS = ("10.5.4.0", "10.5.250.0", "fd42:0:0:5::", "fd42:0:0:5::%eth0", "0.0.0.0", "::")
CONFIG_KEYS = (
    *("Network", "SubnetLen", "SubnetMin", "SubnetMax", "EnableIPv4", "EnableIPv6", "EnableNFTables"),
    *("IPv6Network", "IPv6SubnetLen", "IPv6SubnetMin", "IPv6SubnetMax", "Backend"),
)
GOOD = st.sampled_from(
    [
        *map(json.dumps, (*NETWORKS, *NETWORKS6, *BOUNDS)),
        *("24", "26", "30", "64", "126", "true", "false", '{"Type":"vxlan"}', '{"type":"UDP","TYPE":"vxlan"}'),
    ]
)
BEGIN = ('"Network":"10.5.0.0/16"', '"EnableIPv6":true', '"EnableIPv4":false,"EnableIPv6":true', '"Network":"::/0"')


def configs() -> st.SearchStrategy[bytes]:
    """Network configs: objects whose first member is valid, and any bytes."""
    member = st.tuples(st.sampled_from(CONFIG_KEYS).map(json.dumps), GOOD | values())
    some = st.builds(
        lambda first, rest: encoded("{" + first + "," + joined(rest)[1:]),
        st.sampled_from(BEGIN),
        st.lists(member, min_size=1, max_size=4),
    )
    return some | some | documents(CONFIG_KEYS, GOOD) | damaged(some) | raw()


@given(configs())
@example(b'{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd42::%eth0/48"}')
@settings(max_examples=400)
def test_any_network_config_is_whole_or_refused(raw_config: bytes) -> None:
    kv = KeyValue(key=KEYS.config, value=raw_config, mod_revision=1, lease_id=0)
    config, problem = tried(lambda: read_network_config(kv, KEYS), NetworkConfigError)
    if config is None:
        assert printable(problem.message)
        return
    assert config.pools
    assert config == parse_network_config(raw_config) or b"NaN" in raw_config
    for pool in config.pools:
        assert pool.subnet_count() >= 1
        for end in (pool.subnet_min, pool.subnet_max):
            assert end in pool.network
            assert int(end) % (1 << pool.host_bits) == 0
        assert pool.network.prefixlen + 2 <= pool.subnet_len
        assert "%" not in f"{pool.network}{pool.subnet_min}{pool.subnet_max}"
    assert printable(config.backend_type)


@given(raw() | documents(("Hostname", "ID", "Version"), values(), least=1))
@example(b'{"Hostname":"a\\u001b[2Jb","ID":"\\ud800"}')
def test_any_presence_key_yields_a_host_name_and_an_id(value: bytes) -> None:
    identity = parse_identity(value)
    assert identity.hostname
    assert identity.id
    assert printable(identity.hostname)
    assert printable(identity.id)


@pytest.mark.parametrize("depth", [*range(900, 1010, 2), 100_000])
def test_no_depth_of_nesting_raises_an_undocumented_error(depth: int) -> None:
    inner = b"[" * depth + b"]" * depth
    for field in (b"BackendType", b"BackendData", b"PublicIP"):
        with contextlib.suppress(MalformedLease):
            assert isinstance(parse_lease("10.5.2.0-24", b'{"PublicIP":"198.18.1.2","%s":%s}' % (field, inner)), Lease)
    for field in (b"SubnetLen", b"Backend", b"SubnetMin", b"EnableIPv6", b"X"):
        with contextlib.suppress(NetworkConfigError):
            parse_network_config(b'{"Network":"10.5.0.0/16","%s":%s}' % (field, inner))
    assert parse_identity(b'{"Hostname":%s,"ID":%s}' % (inner, inner)).id
