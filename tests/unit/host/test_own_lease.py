"""What becomes of this host's lease when etcd loses it, gives it to another host, or is away."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from overlayd.errors import LeaseLost, StoreError
from overlayd.host.own_lease import OwnLease
from overlayd.leases import previous_lease
from overlayd.leases.held_lease import HeldLease
from tests.unit.host.values import DirectedBackend, context, lease

HELD = HeldLease(lease=lease(1), etcd_lease_id=7)


class Registry:
    """A registry that answers `reclaim` as a test says."""

    def __init__(self) -> None:
        self.view = SimpleNamespace(connected=True)
        self.answer: HeldLease | Exception = HELD
        self.asked: list[HeldLease] = []

    def reclaim(self, held: HeldLease, *, ttl_s: int) -> HeldLease:  # noqa: ARG002
        """The answer."""
        self.asked.append(held)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def own(tmp_path: Path, registry: Registry) -> OwnLease:
    """One that is held already."""
    here = context(DirectedBackend(), tmp_path)
    cast("Any", here.settings).lease_ttl_s = 60
    made = OwnLease(here, cast("Any", registry))
    made._held = HELD
    return made


def remembered(folder: Path) -> int:
    return previous_lease.recall(folder, folder / "subnet.env").etcd_lease_id


def test_nothing_is_asked_while_etcd_is_away(own: OwnLease, registry: Registry) -> None:
    registry.view.connected = False
    assert own.reclaim(gone=False) is HELD
    assert registry.asked == []


def test_a_lease_that_was_written_again_is_remembered(own: OwnLease, registry: Registry, tmp_path: Path) -> None:
    registry.answer = replace(HELD, etcd_lease_id=8)
    assert own.reclaim(gone=True) is registry.answer is own.held
    assert registry.asked == [replace(HELD, etcd_lease_id=-1)]
    assert remembered(tmp_path) == 8


def test_etcd_that_goes_away_meanwhile_takes_nothing_away(own: OwnLease, registry: Registry) -> None:
    registry.answer = StoreError("etcd does not answer")
    assert own.reclaim(gone=False) is HELD


def test_a_lost_lease_is_not_taken_back_by_its_etcd_lease(own: OwnLease, registry: Registry, tmp_path: Path) -> None:
    registry.answer = LeaseLost("another host has it")
    with pytest.raises(LeaseLost):
        own.reclaim(gone=False)
    assert remembered(tmp_path) == 0


def test_before_it_is_acquired_there_is_none(tmp_path: Path, registry: Registry) -> None:
    with pytest.raises(RuntimeError):
        _ = OwnLease(context(DirectedBackend(), tmp_path), cast("Any", registry)).held
