"""A host without peers, whose rules let in nobody yet."""

from __future__ import annotations

from dataclasses import replace

from overlayd.doctor.checks import firewall
from overlayd.doctor.finding import State
from tests.unit.doctor.values import rules


def test_what_keeps_strangers_out_is_no_problem_of_a_host_without_peers() -> None:
    text = (
        "*raw\n:PREROUTING ACCEPT [0:0]\n"
        "-A PREROUTING -p udp -m udp --dport 8472 -m set ! --match-set OVERLAYD-PEERS4 src -j DROP\nCOMMIT\n"
    )
    sets = {"OVERLAYD-PEERS4": frozenset[str]()}
    alone = rules(text, etcd={"leases": ()})
    alone = replace(alone, firewall=replace(alone.firewall, sets=sets))
    finding = firewall.backend_port(alone)
    assert finding is not None
    assert finding.state is State.OK
