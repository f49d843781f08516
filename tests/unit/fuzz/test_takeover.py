"""Whatever is in etcd, a host's own routes and links stay."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlayd import backends
from overlayd.kernel.converge import conflicts_of, with_flannel_routes, without_conflicts
from overlayd.kernel.diff import diff
from overlayd.kernel.state import KernelState, Route
from overlayd.lib.addresses import is_within
from tests.unit.fuzz.leases import rivals, tables
from tests.unit.fuzz.test_plans import PLANNED, peers_of, versions
from tests.unit.kernel.damage import as_seen, foreign_interfaces, foreign_routes
from tests.unit.kernel.model import holding
from tests.unit.kernel.scenes import UNDERLAY, Peer, Scene

# Apart from the subnets, addresses, MACs and keys from which the other leases are drawn.
GOOD = {77: Peer(number=77), 78: Peer(number=78)}


@pytest.mark.parametrize("kind", PLANNED)
@given(data=st.data(), foreign=st.lists(foreign_routes(), max_size=4))
@settings(max_examples=60)
def test_others_keep_their_routes_and_links_and_good_peers_are_served_as_before(
    kind: str, data: st.DataObject, foreign: list[Route]
) -> None:
    scene = Scene(kind=kind, versions=data.draw(versions(kind)), peers=GOOD)
    backend: Any = scene.backend()
    own, good = scene.own_lease(), [replace(peer, created=1) for peer in scene.peer_leases()]
    names = {peer.key_name for peer in good}
    entries = {**data.draw(tables(most=4)), **data.draw(rivals(backends.published_type(kind)))}
    hostile = [replace(one, created=2) for one in peers_of(entries, own) if one.key_name not in names]
    kernel = holding([UNDERLAY, *foreign_interfaces()], KernelState())
    kernel.foreign = {route.key: route for route in foreign}
    before, interfaces = dict(kernel.foreign), dict(kernel.interfaces)

    plan = backend.plan(own, data.draw(st.permutations([*good, *hostile])))
    alone = backend.plan(own, good)
    for name in names:
        assert plan.peers.get(name) == alone.peers.get(name)
        assert plan.paths.get(name) == alone.paths.get(name)
        assert plan.problems.get(name) == alone.problems.get(name)
    assert plan.base == alone.base

    conflicts = conflicts_of(plan, kernel.ours(), as_seen(before.values()))
    for operation in diff(without_conflicts(plan, conflicts).state(), with_flannel_routes(kernel.ours(), conflicts)):
        kernel.apply(operation)
    taken = {route.key for route in conflicts.taken}
    assert kernel.foreign == {key: route for key, route in before.items() if key not in taken}
    assert kernel.interfaces == interfaces
    for item in kernel.ours().objects:
        # None of our routes leads into the destination of another's route, except where it replaced flannel's.
        if isinstance(item, Route) and item not in plan.base:
            assert not any(is_within(item.dst, route.dst) for route in kernel.foreign.values()), item
