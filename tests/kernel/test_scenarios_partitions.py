"""Hosts are cut from each other, and from etcd; when that is over, all is as before and no subnet is held twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from tests.testbed.netns.families import BY_FAMILY, FAMILIES, all_reach, few_subnets
from tests.testbed.netns.faults import kinds, power, subnets
from tests.testbed.netns.faults.cost import cost_of
from tests.testbed.netns.faults.fault import LabFault
from tests.testbed.netns.lab import Host, Lab, laboratory
from tests.testbed.netns.traffic import pings_all
from tests.testbed.polling import eventually
from tests.testbed.records import Recorder

BACKEND = {"Type": "vxlan"}
HEALED_S = 30.0


@pytest.fixture(scope="module", params=BY_FAMILY)
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Hosts a, b and c, in a network that has four subnets."""
    with laboratory(tmp_path_factory.mktemp("partition"), BACKEND, **FAMILIES[request.param]) as lab:
        few_subnets(lab, BACKEND, 4)
        for name in "abc":
            lab.host(name)
        eventually("all reach each other", partial(all_reach, *lab.hosts), timeout_s=HEALED_S)
        yield lab


@contextmanager
def while_it_lasts(fault: LabFault) -> Iterator[None]:
    fault.start()
    try:
        yield
    finally:
        fault.stop()


def nothing_held_twice(lab: Lab) -> bool:
    return not subnets.held_twice(subnets.in_etcd(lab.etcd))


def key_of(host: Host) -> str:
    return str(host.subnets[0].network_address)


def test_hosts_that_were_cut_from_each_other_reach_each_other_again_and_a_third_loses_nothing(
    lab: Lab, record_property: Recorder
) -> None:
    a, b, c = lab.hosts
    before = [host.subnets for host in lab.hosts]
    with cost_of("two hosts cut from each other", "vxlan", lab.hosts, record_property) as cost:
        with while_it_lasts(kinds.of_partition(lab, (a, b))):
            eventually("a does not reach b", lambda: not pings_all(a, b))
            assert all_reach(a, c)
            assert all_reach(b, c)
        cost.over()
        eventually("all reach each other again", partial(all_reach, a, b, c), timeout_s=HEALED_S)
    assert cost.lost_between(a, b) != []
    assert (cost.lost_between(a, c), cost.lost_between(b, c)) == ([], [])
    assert [host.subnets for host in lab.hosts] == before


def test_a_host_cut_from_etcd_loses_no_packet_and_keeps_its_subnet(lab: Lab, record_property: Recorder) -> None:
    a, b, c = lab.hosts
    before = [host.subnets for host in lab.hosts]
    with cost_of("a host cut from etcd", "vxlan", lab.hosts, record_property) as cost:
        with while_it_lasts(kinds.of_store_connection(lab, a)):
            eventually("a knows it", lambda: not a.status()["etcd_connected"])
            # Also when its daemon is started meanwhile.
            b.stop()
            b.start()
        cost.over()
        eventually("all are ready", lambda: all(map(power.is_ready, (a, b, c))), timeout_s=HEALED_S)
    assert cost.lost == []
    assert [host.subnets for host in lab.hosts] == before
    assert nothing_held_twice(lab)


@pytest.mark.slow
def test_a_subnet_whose_host_was_cut_from_etcd_too_long_is_another_hosts_and_not_held_twice_after(lab: Lab) -> None:
    a, b, c = lab.hosts
    cut = lab.host("cut", lease_ttl_s=5)
    before = cut.subnets
    eventually("all reach it", partial(all_reach, *lab.hosts), timeout_s=HEALED_S)
    heir = lab.host("heir", lease_ttl_s=5, start=False)
    try:
        with while_it_lasts(kinds.of_store_connection(lab, cut)):
            heir.start(ready=False)
            eventually("no subnet is free", lambda: "are taken" in str(heir.status().get("problem")))
            # It goes on when the lease of the host that is cut off has ended: this is the only free one then.
            eventually("the heir has it", lambda: heir.status()["state"] == "ready", timeout_s=HEALED_S)
            heir.start_container()
            assert heir.subnets == before
            eventually("others reach the heir", partial(all_reach, a, b, c, heir), timeout_s=HEALED_S)
        # Back again, it finds its subnet taken, gives it up, and waits, as no other is free.
        eventually("it says so", lambda: "LEASE LOST" in cut.log.read_text(), timeout_s=HEALED_S)
        eventually("it waits", lambda: cut.status()["state"] == "waiting")
        assert nothing_held_twice(lab)
        assert all_reach(a, b, c, heir)
        lab.remove_host(heir)
        eventually("it goes on by itself when one is free", partial(power.is_ready, cut), timeout_s=HEALED_S)
        eventually("all reach it", partial(all_reach, *lab.hosts), timeout_s=HEALED_S)
        assert cut.subnets == before
    finally:
        for host in {heir, cut} & set(lab.hosts):
            lab.remove_host(host)
        eventually(
            "its lease has ended",
            lambda: str(before[0].network_address) not in str(subnets.in_etcd(lab.etcd)),
            timeout_s=HEALED_S,
        )
