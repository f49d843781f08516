"""The table of leases while etcd changes, and after it lost its data."""

from __future__ import annotations

import pytest

from overlayd.leases.followed_leases import GRACE_S, NAMED_AT_ONCE, FollowedLeases
from overlayd.leases.keys import CONFIG, SUBNETS, Keys
from overlayd.store.follow import View
from overlayd.store.protocol import KeyValue
from tests.testbed.clock import Clock

KEYS = Keys("/n")


def view(revision: int, *names: str) -> View:
    """What is followed, with the leases of these names; each is another host's."""
    entries = {
        f"{SUBNETS}{name}": KeyValue(
            key=KEYS.lease(name),
            value=f'{{"PublicIP":"198.18.0.{number}"}}'.encode() if not name.startswith("bad") else b"{",
            mod_revision=1,
            lease_id=1,
        )
        for number, name in enumerate(names, 1)
    }
    entries[CONFIG] = KeyValue(key=KEYS.config, value=b"{}", mod_revision=1, lease_id=0)
    return View(entries=entries, revision=revision, connected=True)


def test_peers_that_etcd_lost_are_kept_for_a_minute() -> None:
    clock = Clock()
    leases = FollowedLeases(KEYS, clock=clock)
    assert set(leases.read(view(100, "10.42.1.0-24", "10.42.2.0-24")).leases) == {"10.42.1.0-24", "10.42.2.0-24"}
    after = view(7)
    assert set(leases.read(after).leases) == {"10.42.1.0-24", "10.42.2.0-24"}
    clock.now += GRACE_S
    # A host of another address takes one of the subnets: that one is contradicted. The first host is there again.
    assert set(leases.read(view(8, "10.42.1.0-24")).leases) == {"10.42.1.0-24", "10.42.2.0-24"}
    after = view(9, "10.42.1.0-24")
    assert "10.42.2.0-24" in leases.read(after).leases
    clock.now += 1
    assert set(leases.read(after).leases) == {"10.42.1.0-24"}


def test_a_lease_that_is_deleted_while_etcd_is_whole_is_gone_at_once() -> None:
    leases = FollowedLeases(KEYS, clock=Clock())
    leases.read(view(100, "10.42.1.0-24", "10.42.2.0-24"))
    assert set(leases.read(view(101, "10.42.1.0-24")).leases) == {"10.42.1.0-24"}


def test_the_same_view_is_read_once() -> None:
    leases = FollowedLeases(KEYS, clock=Clock())
    now = view(100, "10.42.1.0-24")
    assert leases.read(now) is leases.read(now)


def test_keys_that_are_no_leases_are_logged_once_and_some_of_them_by_name(caplog: pytest.LogCaptureFixture) -> None:
    leases = FollowedLeases(KEYS, clock=Clock())
    names = [f"bad{number}" for number in range(NAMED_AT_ONCE + 5)]
    for revision in (1, 2):
        assert len(leases.read(view(revision, *names)).malformed) == len(names)
    assert caplog.text.count("not a lease, skipped") == NAMED_AT_ONCE
    assert caplog.text.count("more keys are not leases, skipped") == 1
