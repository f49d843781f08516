"""The lease is prolonged in time, and it is said when etcd has it no longer. Time is a value here."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from overlayd.errors import StoreError
from overlayd.leases.held_lease import HeldLease
from overlayd.leases.lease import FamilyLease, Lease
from overlayd.leases.renewal import LIVENESS, REFRESHED, LeaseRenewal, interval_s
from overlayd.monitoring.liveness import Liveness
from tests.testbed.clock import Clock

TTL_S = 86400.0


class EtcdLeases:
    """The etcd leases that exist, and how often each was prolonged."""

    def __init__(self) -> None:
        self.prolonged = {1: 0, 2: 0}
        self.away = False

    def refresh(self, held: HeldLease) -> bool:
        if self.away:
            raise StoreError("etcd is away")
        if held.etcd_lease_id in self.prolonged:
            self.prolonged[held.etcd_lease_id] += 1
        return held.reserved or held.etcd_lease_id in self.prolonged


class Renewal:
    """A renewal whose clocks stand, without a thread."""

    def __init__(self, ttl_s: float = TTL_S) -> None:
        self.etcd, self.clock, self.gone = EtcdLeases(), Clock(1000.0), list[str]()
        self.liveness = Liveness(slack_s=1)
        self.of = LeaseRenewal(
            self.etcd.refresh,
            lambda: self.gone.append("gone"),
            ttl_s=ttl_s,
            liveness=self.liveness,
            clock=self.clock,
            epoch_clock=lambda: 1_700_000_000.0 + self.clock.now,
        )

    def state(self) -> tuple[bool, str | None]:
        """Whether the lease is gone, and the problem."""
        return self.of.gone, self.of.problem


def held(etcd_lease_id: int) -> HeldLease:
    part = FamilyLease(subnet=IPv4Network("10.42.1.0/24"), public_ip=IPv4Address("198.18.0.1"))
    return HeldLease(lease=Lease(v4=part, backend_type="host-gw"), etcd_lease_id=etcd_lease_id)


@pytest.mark.parametrize(
    ("ttl_s", "margin_s", "expected"),
    [
        (60, 0, 20),
        (86400, 0, 3600),
        (86400, 3600, 3600),
        (4000, 3600, 400),
        # A margin that cannot be kept.
        (60, 60, 20),
        (60, 3600, 20),
    ],
)
def test_a_lease_is_prolonged_three_times_in_its_ttl_and_before_the_margin(
    ttl_s: float, margin_s: float, expected: float
) -> None:
    assert interval_s(ttl_s, margin_s) == expected


def test_a_lease_that_is_prolonged_has_no_problem_however_long_it_is_held() -> None:
    renewal = Renewal()
    lease = held(1)
    renewal.of.keep(lease)
    for _hour in range(100):
        renewal.clock.now += 3600
        renewal.of.renew()
        # The daemon gives it the same lease in each round.
        renewal.of.keep(lease)
        assert renewal.of.problem is None
    assert renewal.etcd.prolonged[1] == 100
    assert REFRESHED.values[""] == 1_700_000_000.0 + renewal.clock.now
    assert renewal.gone == []


def test_a_lease_that_etcd_has_no_longer_is_told_once_until_there_is_another() -> None:
    renewal = Renewal()
    renewal.of.keep(held(9))
    renewal.of.renew()
    renewal.of.renew()
    assert renewal.gone == ["gone"]
    assert renewal.state() == (True, "etcd has no such lease any more")
    renewal.of.keep(held(2))
    assert renewal.state() == (False, None)
    renewal.of.renew()
    assert renewal.etcd.prolonged[2] == 1


def test_while_etcd_is_away_the_lease_counts_until_its_ttl_is_over() -> None:
    renewal = Renewal(ttl_s=60)
    renewal.of.keep(held(1))
    renewal.etcd.away = True
    renewal.clock.now += 60
    with pytest.raises(StoreError):
        renewal.of.renew()
    assert renewal.state() == (False, None)
    renewal.clock.now += 1
    assert renewal.state() == (False, "not prolonged for longer than its TTL of 60 s")
    renewal.etcd.away = False
    renewal.of.renew()
    assert renewal.state() == (False, None)


def test_a_reservation_has_no_end() -> None:
    renewal = Renewal(ttl_s=60)
    renewal.of.keep(held(0))
    renewal.clock.now += 10**6
    assert renewal.of.problem is None


def test_what_etcd_says_of_a_lease_that_was_replaced_meanwhile_does_not_count() -> None:
    renewal = Renewal()
    second = held(2)

    def refresh(_held: HeldLease) -> bool:
        renewal.of.keep(second)
        return False

    renewal.of._refresh = refresh
    renewal.of.keep(held(1))
    renewal.of.renew()
    assert not renewal.of.gone
    assert renewal.gone == []


def test_without_a_lease_nothing_is_asked_and_the_thread_is_alive() -> None:
    renewal = Renewal()
    assert renewal.of.problem == "no subnet is held"
    renewal.of.renew()
    assert renewal.etcd.prolonged == {1: 0, 2: 0}
    assert LIVENESS in renewal.liveness.rounds()
