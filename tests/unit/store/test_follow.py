"""A prefix followed through all that etcd does."""

from __future__ import annotations

import threading

from overlayd.store.client import Store
from overlayd.store.follow import Follower
from tests.testbed.polling import until
from tests.unit.store.conftest import Etcd, following


def keys(follower: Follower) -> set[str]:
    return set(follower.view.entries)


def test_what_is_there_and_what_comes_and_goes_is_seen(store: Store) -> None:
    store.put("/net/a", b"1")
    store.put("/other", b"1")
    with following(store) as seen:
        until(lambda: keys(seen) == {"a"})
        store.put("/net/b", b"2")
        until(lambda: keys(seen) == {"a", "b"})
        before = store.get("/net/a")
        assert before is not None
        store.delete("/net/a", mod_revision=before.mod_revision)
        until(lambda: keys(seen) == {"b"})


def test_while_etcd_is_away_the_last_view_stays_and_then_goes_on(etcd: Etcd, store: Store) -> None:
    store.put("/net/a", b"1")
    with following(store) as seen:
        until(lambda: keys(seen) == {"a"})
        etcd.stop()
        until(lambda: not seen.view.connected)
        assert keys(seen) == {"a"}
        assert "etcd at" in str(seen.view.problem)
        etcd.start()
        store.put("/net/b", b"2")
        until(lambda: seen.view.connected and keys(seen) == {"a", "b"})


def test_a_frozen_etcd_is_noticed(etcd: Etcd, store: Store) -> None:
    with following(store) as seen:
        until(lambda: seen.view.connected)
        etcd.freeze()
        try:
            until(lambda: not seen.view.connected)
        finally:
            etcd.thaw()
        until(lambda: seen.view.connected)


def test_an_etcd_that_came_back_empty_is_followed_from_its_new_beginning(etcd: Etcd, store: Store) -> None:
    for value in range(20):
        store.put("/net/a", str(value).encode())
    with following(store) as seen:
        until(lambda: keys(seen) == {"a"})
        etcd.stop()
        etcd.lose_data()
        etcd.start()
        until(lambda: seen.view.connected and not keys(seen))
        # A watch from the old revision would wait for twenty more changes.
        store.put("/net/b", b"1")
        until(lambda: keys(seen) == {"b"})


def test_stopping_while_etcd_is_away_ends_the_thread(etcd: Etcd, store: Store) -> None:
    with following(store) as seen:
        until(lambda: seen.view.connected)
        etcd.stop()
        until(lambda: not seen.view.connected)
    assert not {thread.name for thread in threading.enumerate()} & {"etcd-watch", "etcd-health"}
