"""etcd killed, frozen, emptied, compacted, without its leader: the follower is in step again within five seconds."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from overlayd.errors import StoreError
from overlayd.store.access import StoreSettings
from overlayd.store.client import Store
from overlayd.store.follow import Follower
from overlayd.store.pages import Pages
from overlayd.store.protocol import KeyValue
from overlayd.store.servers import Compacted
from overlayd.store.watch import EtcdWatch
from tests.testbed.etcd import Member
from tests.testbed.polling import eventually
from tests.unit.store.conftest import Etcd, serving, value

IN_STEP_S = 5.0
# Enough reports that the pauses between attempts are as long as they get.
REPORTS = 6


@contextmanager
def counting(store: Store) -> Iterator[tuple[Follower, list[str | None]]]:
    """A follower that has seen etcd, and the problem of every view that it has published."""
    problems: list[str | None] = []
    follower = Follower(store, "/net/", lambda: problems.append(follower.view.problem))
    follower.start()
    try:
        eventually("following", lambda: follower.view.connected)
        yield follower, problems
    finally:
        follower.stop()


def check_in_step(etcd: Etcd, seen: Follower, fault: str) -> None:
    """Another host writes something; how long until it is seen."""
    began = time.monotonic()
    etcd.ctl("put", "/net/new", fault)
    eventually("it is seen", lambda: value(seen, "new") == fault.encode(), timeout_s=IN_STEP_S)
    print(f"in step {time.monotonic() - began:.2f} s after etcd answered: {fault}")  # noqa: T201
    assert seen.view.connected


def test_killed_and_started_again(etcd: Etcd, store: Store) -> None:
    with counting(store) as (seen, problems):
        etcd.stop()
        began, cpu = time.monotonic(), time.process_time()
        eventually("it has tried for a while", lambda: len([one for one in problems if one]) >= REPORTS)
        assert time.process_time() - cpu < 0.2 * (time.monotonic() - began)
        etcd.start()
        check_in_step(etcd, seen, "killed")


def test_frozen_and_thawed(etcd: Etcd, store: Store) -> None:
    with counting(store) as (seen, problems):
        etcd.freeze()
        eventually("it has noticed", lambda: any(problems), timeout_s=12)
        etcd.thaw()
        etcd.wait()
        check_in_step(etcd, seen, "frozen")


def test_frozen_so_shortly_that_nobody_notices(etcd: Etcd, store: Store) -> None:
    with counting(store) as (seen, problems):
        etcd.freeze()
        etcd.thaw()
        check_in_step(etcd, seen, "frozen for a moment")
        assert not any(problems)


def test_restarted_empty(etcd: Etcd, store: Store) -> None:
    for number in range(20):
        store.put("/net/old", str(number).encode())
    with counting(store) as (seen, problems):
        etcd.stop()
        eventually("it has tried for a while", lambda: len([one for one in problems if one]) >= REPORTS)
        etcd.lose_data()
        etcd.start()
        check_in_step(etcd, seen, "emptied")
        assert set(seen.view.entries) == {"new"}


class Read(Pages):
    """Pages that were read to their end before anybody else sees the first."""

    def __init__(self, pages: Pages) -> None:
        self._pages = list(pages)
        self.revision = pages.revision

    def __iter__(self) -> Iterator[list[KeyValue]]:
        return iter(self._pages)


class Interrupted(Store):
    """A store whose first list is followed by changes of others, and by a compaction that forgets them."""

    def __init__(self, etcd: Etcd) -> None:
        super().__init__(StoreSettings(endpoints=etcd.endpoints))
        self._etcd = etcd
        self.lists = 0

    def pages(self, parts: Sequence[str]) -> Pages:
        found = Read(super().pages(parts))
        self.lists += 1
        if self.lists == 1:
            for number in range(3):
                self._etcd.ctl("put", "/net/a", str(number))
            self._etcd.compact()
        return found


def test_compacted_between_list_and_watch(etcd: Etcd, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    store = Interrupted(etcd)
    try:
        with counting(store) as (seen, problems):
            eventually("the change is seen", lambda: value(seen, "a") == b"2", timeout_s=IN_STEP_S)
            check_in_step(etcd, seen, "compacted")
            assert store.lists == 2
            assert not any(problems)
            assert "listing again" in caplog.text
    finally:
        store.close()


def test_a_watch_from_a_compacted_revision_says_so(etcd: Etcd, store: Store) -> None:
    for number in range(3):
        store.put("/net/a", str(number).encode())
    etcd.compact()
    with pytest.raises(Compacted, match="compacted up to 4"):
        list(EtcdWatch(store, ["/net/"], revision=2))


def test_compacted_under_a_watch_that_stands(etcd: Etcd, store: Store) -> None:
    with counting(store) as (seen, problems):
        store.put("/net/a", b"1")
        etcd.compact()
        check_in_step(etcd, seen, "compacted while watching")
        assert not any(problems)


def store_on(etcd: Etcd, member: Member) -> Store:
    """A store that is connected to this member: they take turns by chance."""
    for _ in range(100):
        store = etcd.store()
        store.get("/net/a")
        if str(store.servers.endpoint) == member.client_url:
            return store
        store.close()
    raise AssertionError(f"a hundred stores and none at {member.client_url}")


@pytest.mark.parametrize("fault", [Member.kill, Member.freeze], ids=["killed", "frozen"])
def test_a_leader_is_lost(tmp_path: Path, fault: Callable[[Member], None]) -> None:
    with serving(tmp_path, hosts=["127.0.0.1"] * 3) as etcd, ExitStack() as stack:
        leader = etcd.leader()
        followers = [stack.enter_context(counting(store_on(etcd, member)))[0] for member in etcd.members]
        fault(leader)
        etcd.wait()
        for seen in followers:
            check_in_step(etcd, seen, f"leader {fault.__name__}")


def problem_of_a_call(store: Store) -> str:
    try:
        store.get("/net/old")
    except StoreError as error:
        return error.message
    return ""


def test_a_call_that_a_slow_etcd_does_not_answer_in_time_ends_no_watch(
    etcd: Etcd, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("overlayd.store.servers.CALL_TIMEOUT_S", 0.5)
    with counting(store) as (seen, problems):
        used = store.servers._connection
        etcd.freeze()
        # A signal takes its time to stop a process.
        eventually("a call gets no answer", lambda: "DEADLINE_EXCEEDED" in problem_of_a_call(store))
        etcd.thaw()
        check_in_step(etcd, seen, "slow")
        # The same connection, and so the same watch: nothing was listed again.
        assert (store.servers._connection is used, any(problems)) == (True, False)
