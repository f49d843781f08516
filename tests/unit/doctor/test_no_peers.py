"""A host without peers, whose rules let in nobody yet."""

from __future__ import annotations

from overlayd.doctor.checks import firewall
from overlayd.doctor.finding import State
from overlayd.doctor.trace import parse
from tests.unit.doctor.values import but


def test_what_keeps_strangers_out_is_no_problem_of_a_host_without_peers() -> None:
    text = (
        "*raw\n:PREROUTING ACCEPT [0:0]\n"
        "-A PREROUTING -p udp -m udp --dport 8472 -m set ! --match-set OVERLAYD-PEERS4 src -j DROP\nCOMMIT\n"
    )
    sets = {"OVERLAYD-PEERS4": frozenset[str]()}
    alone = but(firewall={"tables": parse(text), "sets": sets}, etcd={"leases": ()})
    finding = firewall.backend_port(alone)
    assert finding is not None
    assert finding.state is State.OK
