"""Whatever is written below the prefix: what is kept of it is bounded, and what was there first is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from overlayd.errors import NetworkConfigError, StoreError
from overlayd.leases.keys import MalformedLease, parse_lease_name
from overlayd.leases.lease import parse_lease
from overlayd.leases.lease_table import LISTED_AT_MOST, LeaseTableReader
from overlayd.store import pages
from overlayd.store.bounded_keys import BoundedKeys, Bounds
from overlayd.store.client import Store
from overlayd.store.follow import Follower
from overlayd.store.protocol import KeyValue
from overlayd.store.rpc import etcdrpc
from tests.testbed.polling import until
from tests.unit.store.conftest import Etcd, following, value
from tests.unit.store.test_registry import PREFIX, acquire, key, registry

GOOD = b'{"PublicIP":"198.18.0.1","BackendType":"vxlan"}'


def kv(name: str, revision: int, *, created: int | None = None, value: bytes = GOOD) -> KeyValue:
    return KeyValue(
        key=f"/n/subnets/{name}",
        value=value,
        mod_revision=revision,
        lease_id=0,
        create_revision=revision if created is None else created,
    )


@contextmanager
def bounded(store: Store, **bounds: int) -> Iterator[Follower]:
    follower = Follower(store, "/net/", lambda: None, bounds=Bounds(**bounds))  # type: ignore[arg-type]
    follower.start()
    try:
        until(lambda: follower.view.connected)
        yield follower
    finally:
        follower.stop()


def test_the_oldest_keys_are_kept_and_the_others_counted(store: Store) -> None:
    # Not in the order of their names.
    for name in ("z", "y", "x"):
        store.put(f"/net/{name}", b"good")
    for number in range(20):
        store.put(f"/net/flood{number}", b"bad")
    with bounded(store, keys=5) as seen:
        assert seen.view.left_out == 18
        assert {"x", "y", "z"} <= set(seen.view.entries)
        # Others that come do not push them out, nor do changes of those that are left out.
        for number in range(40):
            store.put(f"/net/flood{number}", b"worse")
        store.put("/net/z", b"better")
        until(lambda: value(seen, "z") == b"better" and seen.view.left_out == 38)
        assert len(seen.view.entries) == 5
        # What goes is not counted any more.
        for number in range(40):
            found = store.get(f"/net/flood{number}")
            assert found is not None
            store.delete(found.key, mod_revision=found.mod_revision)
        until(lambda: set(seen.view.entries) == {"x", "y", "z"} and seen.view.left_out == 0)


def test_room_that_comes_free_is_filled_with_what_was_left_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overlayd.store.follow.LIST_AGAIN_S", 0.0)
    for number in range(10):
        store.put(f"/net/{number}", b"1")
    with bounded(store, keys=5) as seen:
        assert set(seen.view.entries) == set("01234")
        first = store.get("/net/0")
        assert first is not None
        store.delete("/net/0", mod_revision=first.mod_revision)
        until(lambda: set(seen.view.entries) == set("12345"))
        assert seen.view.left_out == 4


def test_a_value_that_is_too_large_is_not_kept_only_its_size(store: Store) -> None:
    store.put("/net/listed", b"x" * 300_000)
    with bounded(store) as seen:
        store.put("/net/watched", b"x" * 300_000)
        until(lambda: "watched" in seen.view.entries)
        for name in ("listed", "watched"):
            found = seen.view.entries[name]
            assert (found.value, found.dropped_bytes) == (b"", 300_000)
        store.put("/net/listed", b"small")
        until(lambda: value(seen, "listed") == b"small")


def test_all_values_together_are_bounded_and_the_youngest_goes() -> None:
    kept = BoundedKeys(Bounds(all_values_bytes=1000))
    for number in range(20):
        kept.add(str(number), kv(str(number), number + 1, value=b"x" * 100))
    assert list(kept.entries) == list(map(str, range(10)))
    kept.put("0", kv("0", 50, created=1, value=b"x" * 500))
    assert list(kept.entries) == ["1", "2", "3", "4", "5", "0"]
    assert kept.left_out == 14


def test_the_network_config_is_kept_however_many_leases_are_older() -> None:
    kept = BoundedKeys(Bounds(keys=5, value_bytes=100, always={"config": 1000}))
    for number in range(20):
        kept.add(f"subnets/{number}", kv(str(number), number + 1))
    for change in range(3):
        kept.put("config", kv("config", 100 + 2 * change, value=b"x" * 1000))
        kept.put("subnets/new", kv("new", 101 + 2 * change))
        assert kept.entries["config"].value == b"x" * 1000
        kept.delete("config")


def test_names_that_are_too_long_are_counted_and_not_kept(store: Store) -> None:
    for number in range(3):
        store.put(f"/net/{number}{'x' * 1000}", b"1")
    with bounded(store) as seen:
        store.put(f"/net/{'y' * 100_000}", b"1")
        store.put("/net/a", b"1")
        until(lambda: "a" in seen.view.entries)
        assert (set(seen.view.entries), seen.view.left_out) == ({"a"}, 4)


def test_lists_come_in_pages_whatever_their_size(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "PAGE", 7)
    store.put("/net/config", b"0")
    for number in range(50):
        store.put(f"/net/subnets/{number:02}", str(number).encode())
    listed = store.pages(["/net/config", "/net/subnets/"])
    answers = list(listed)
    assert max(map(len, answers)) == 7
    found = [one for answer in answers for one in answer]
    assert [one.value for one in found] == [b"0", *(str(number).encode() for number in range(50))]
    assert listed.count == 51


def test_values_that_do_not_fit_into_one_answer_are_listed_all_the_same(store: Store) -> None:
    for number in range(20):
        store.put(f"/net/{number:02}", b"x" * 1_400_000)
    found, _revision = store.list_prefix("/net/")
    assert [len(one.value) for one in found] == [1_400_000] * 20


def test_a_value_that_no_answer_may_hold_is_listed_without_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    etcd = Etcd(tmp_path_factory.mktemp("large"), flags=["--max-request-bytes=20000000"])
    try:
        etcd.start()
        store = etcd.store()
        store.put("/net/a", b"1")
        store.put("/net/b", b"x" * 12_000_000)
        store.put("/net/c", b"3")
        found, _revision = store.list_prefix("/net/")
        assert [(one.value, one.dropped_bytes > 0) for one in found] == [(b"1", False), (b"", True), (b"3", False)]
        with following(store) as seen:
            # Larger than a watch may tell: listed again.
            store.put("/net/d", b"x" * 12_000_000)
            until(lambda: "d" in seen.view.entries and seen.view.connected)
            store.put("/net/e", b"5")
            until(lambda: "e" in seen.view.entries)
    finally:
        etcd.end()


def test_a_page_that_goes_back_is_no_list_for_ever(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "PAGE", 2)
    for number in range(5):
        store.put(f"/net/{number}", b"1")
    real = store.servers.call

    def again(operation: str, method: object, request: object, **how: object) -> object:
        first = etcdrpc.TxnRequest(success=[pages._range(b"/net/", b"/net0", 2)])
        return real(operation, method, first, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(store.servers, "call", again)
    with pytest.raises(StoreError, match="the next page begins before the end of the last one"):
        store.list_prefix("/net/")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("10.5.2.0-24" + "0" * 200, GOOD, "211 characters"),
        ("10.5.2.0-24", GOOD.ljust(70_000), "70000 bytes"),
        ("10.5.2.0-24", json.dumps({"PublicIP": "198.18.0.1", "BackendData": {"a": [[]] * 40}}).encode(), "32 parts"),
        (
            "10.5.2.0-24",
            json.dumps({"PublicIP": "198.18.0.1", "BackendData": {"a": [[]] * 20}}).encode(),
            None,
        ),
    ],
)
def test_what_is_too_large_for_a_lease_is_none(name: str, value: bytes, said: str | None) -> None:
    if said is None:
        parse_lease(name, value)
        return
    with pytest.raises(MalformedLease, match=said) as caught:
        parse_lease(name, value)
    assert len(str(caught.value)) < 500


def test_a_long_key_is_no_subnet() -> None:
    with pytest.raises(MalformedLease):
        parse_lease_name("10.5.2.0-24&" + "0" * 120 + "::-64")


def test_an_entry_is_parsed_once_however_often_others_change(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []

    def counted(name: str, value: bytes, *, created: int) -> object:
        parsed.append(name)
        return parse_lease(name, value, created=created)

    monkeypatch.setattr("overlayd.leases.lease_table.parse_lease", counted)
    reader, entries = (
        LeaseTableReader(),
        {f"10.5.{number}.0-24": kv(f"10.5.{number}.0-24", number + 1) for number in range(100)},
    )
    assert len(reader.read(entries.items()).leases) == 100
    # The same values in new objects, as after another list.
    entries = {name: kv(name, number + 1) for number, name in enumerate(entries)}
    entries["10.5.7.0-24"] = kv("10.5.7.0-24", 200, created=8)
    assert len(reader.read(entries.items()).leases) == 100
    assert len(parsed) == 101
    del entries["10.5.8.0-24"]
    assert len(reader.read(entries.items()).leases) == 99
    assert len(reader._read) == 99


def test_the_status_lists_some_of_what_is_no_lease_and_counts_the_rest() -> None:
    entries = {f"no lease {number:04}\x1b[2J": kv("x", number + 1) for number in range(1000)}
    skipped = LeaseTableReader().read(entries.items(), left_out=7).skipped
    assert len(skipped) == LISTED_AT_MOST + 2
    assert skipped[-2:] == (
        ("950 more", "are not leases either"),
        ("7 more", "were not looked at: too many keys, or names too long"),
    )
    assert all(text.isprintable() and len(text) < 500 for one in skipped for text in one)


def test_one_line_a_problem_and_what_is_mended_is_forgotten(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    with registry(store) as one:
        for number in range(50):
            store.put(f"{PREFIX}/subnets/bad{number:02}", b"{")
        until(lambda: len(one.view.entries) == 50)
        one.lease_table()
        assert caplog.text.count("not a lease, skipped") == 10
        assert "more keys are not leases, skipped" in caplog.text
        caplog.clear()
        # The same fault again and again, in new writes.
        for number in range(50):
            store.put(f"{PREFIX}/subnets/bad00", str(number).encode())
        until(lambda: value(one, "subnets/bad00") == b"49")
        one.lease_table()
        assert "not a lease" not in caplog.text
        found = store.get(f"{PREFIX}/subnets/bad00")
        assert found is not None
        store.delete(found.key, mod_revision=found.mod_revision)
        until(lambda: len(one.view.entries) == 49)
        one.lease_table()
        assert len(one._leases._logged) == 49


def test_a_host_among_too_many_keys_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overlayd.leases.lease_writes.NAMES_AT_MOST", 5)
    for number in range(6):
        store.put(f"{PREFIX}/subnets/bad{number}", b"{")
    with registry(store) as one, pytest.raises(StoreError, match="6 keys below"):
        acquire(one, 1)


def test_a_subnet_that_is_taken_beyond_the_bound_is_taken(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overlayd.leases.registry.BOUNDS", Bounds(keys=3))
    for number in range(1, 15):
        store.put(f"{PREFIX}/subnets/10.42.0.{number * 16}-28", b"{")
    with registry(store) as one:
        assert str(acquire(one, 1).lease.subnets) == "10.42.0.240/28"


def test_a_lease_that_others_delete_all_the_time_ends_in_a_word(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with registry(store) as one:
        held = acquire(one, 1)
        until(lambda: bool(one.view.entries))
        store.put(key(held.lease.subnets), b"{")
        until(lambda: value(one, f"subnets/{held.lease.key_name}") == b"{")
        monkeypatch.setattr(store, "replace", lambda *_words, **_named: False)
        with pytest.raises(StoreError, match="changes all the time"):
            one.reclaim(held, ttl_s=60)


def test_a_config_that_is_too_large_is_refused_by_its_size(store: Store) -> None:
    with registry(store) as one:
        store.put(f"{PREFIX}/config", b'{"Network": "10.42.0.0/16"}'.ljust(300_000))
        until(lambda: "config" in one.view.entries)
        with pytest.raises(NetworkConfigError, match="300000 bytes, at most 262144 are read"):
            one.network_config()
