"""The order of faults in a drill: the same for the same seed, and never two faults on one part of the lab."""

from __future__ import annotations

import itertools

import pytest

from tests.testbed.netns.faults.fault import LabFault
from tests.testbed.netns.faults.plan import AT_ONCE, Step, plan

FAULTS = [
    LabFault(name=f"{kind} {host}", start=lambda: None, hosts=frozenset(host), takes=frozenset({f"{part} {host}"}))
    for host in "abc"
    for kind, part in (("killed", "daemon"), ("frozen", "daemon"), ("pulled", "cable"))
]
SEEDS = range(20)


def told(steps: list[Step]) -> list[tuple[float, str, bool]]:
    return [(step.at_s, step.fault.name, step.starts) for step in steps]


def test_a_seed_brings_the_same_order_back_and_another_seed_another() -> None:
    orders = [told(plan(FAULTS, seed, seconds=60)) for seed in SEEDS]
    assert orders == [told(plan(FAULTS, seed, seconds=60)) for seed in SEEDS]
    assert all(one != other for one, other in itertools.combinations(orders, 2))


@pytest.mark.parametrize("seed", SEEDS)
def test_faults_at_a_time_take_different_parts_and_each_that_starts_ends(seed: int) -> None:
    running: list[LabFault] = []
    for step in plan(FAULTS, seed, seconds=120):
        if step.starts:
            assert not any(step.fault.takes & other.takes for other in running)
            running.append(step.fault)
            assert len(running) <= AT_ONCE
        else:
            running.remove(step.fault)
    assert running == []


@pytest.mark.parametrize("seed", SEEDS)
def test_the_first_faults_of_an_order_are_the_same_when_only_they_are_asked_for(seed: int) -> None:
    started = [step.fault.name for step in plan(FAULTS, seed, seconds=120) if step.starts]
    few = plan(FAULTS, seed, seconds=120, at_most=7)
    assert [step.fault.name for step in few if step.starts] == started[:7]
    assert {step.at_s for step in few} <= {step.at_s for step in plan(FAULTS, seed, seconds=120)}


def test_each_kind_comes_about_as_often_as_each_other() -> None:
    names = [step.fault.name for step in plan(FAULTS, 1, seconds=2000) if step.starts]
    counts = [names.count(fault.name) for fault in FAULTS]
    assert max(counts) - min(counts) <= 2


def test_a_fault_excuses_the_connections_of_its_hosts_and_those_between_hosts_that_it_cuts() -> None:
    power = LabFault(name="power", start=lambda: None, hosts=frozenset("a"))
    cut = LabFault(name="cut", start=lambda: None, cut=frozenset("ab"))
    pairs = [("a", "b"), ("b", "a"), ("a", "c"), ("b", "c")]
    assert [power.may_break(*pair) for pair in pairs] == [True, True, True, False]
    assert [cut.may_break(*pair) for pair in pairs] == [True, True, False, False]
