"""Peers that come and go are written without a look at the whole; and the whole then has nothing to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from overlayd import backends
from overlayd.kernel import netlink
from overlayd.kernel.state import Route
from overlayd.leases.lease import Lease
from overlayd.leases.lease_table import LeaseTableReader
from overlayd.store.protocol import KeyValue
from tests.kernel.stage import StagedDataPath, host
from tests.testbed.netns import namespaces
from tests.testbed.netns.namespaces import inside
from tests.unit.fuzz.leases import rivals
from tests.unit.host.values import DirectedWatch
from tests.unit.kernel.scenes import Peer, Scene

KINDS = ("vxlan", "host-gw", "auto")
# host-gw serves those nearby alone.
SIX = {number: Peer(number=number) for number in range(2, 8)}


class Stage(StagedDataPath):
    """One whose kernel tells of no change, and how often its backend looked at the whole kernel."""

    def __init__(self, namespace: str, scene: Scene, folder: Path) -> None:
        super().__init__(namespace, scene, folder, DirectedWatch())
        self.looks = 0

    def sync(self, peers: Sequence[Lease]) -> None:
        """Sync it, and count."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(netlink, "read_with_foreign", self._counted(netlink.read_with_foreign))
            super().sync(peers)

    def _counted(self, read: Any) -> Any:
        def counted(networks: Any) -> Any:
            self.looks += 1
            return read(networks)

        return counted


@pytest.mark.parametrize("kind", KINDS)
def test_each_is_written_by_itself(kind: str, tmp_path: Path) -> None:
    scene = Scene(kind=kind, versions=(4, 6), peers=SIX)
    peers = scene.peer_leases()
    with host() as namespace:
        stage = Stage(namespace, scene, tmp_path)
        for number in range(len(peers) + 1):
            stage.sync(peers[:number])
        assert stage.looks == 1
        assert len(stage.require_whole(peers).paths) == len(peers)
        # Several that go at once; that come at once, while one goes; the same again; and that one is back.
        for now in (peers[:2], peers[1:], peers[1:], peers):
            stage.sync(now)
            stage.require_whole(now)
        assert stage.looks == 1


@pytest.mark.parametrize("kind", KINDS)
def test_one_of_two_leases_of_a_host_takes_nothing_of_the_other_along(kind: str, tmp_path: Path) -> None:
    twins = {**SIX, 9: Peer(number=9)}
    peers = list(Scene(kind=kind, peers=twins).peer_leases())
    first, *_rest, last = peers
    assert first.v4 is not None
    assert last.v4 is not None
    # As after a change of the network: the same host, with its address and MAC, and another subnet.
    peers[-1] = replace(last, v4=replace(first.v4, subnet=last.v4.subnet))
    with host() as namespace:
        stage = Stage(namespace, Scene(kind=kind, peers=twins), tmp_path)
        for now in (peers, peers[:-1], peers, peers[1:]):
            stage.sync(now)
            assert len(stage.require_whole(now).paths) == len(now)


@pytest.mark.parametrize("kind", KINDS)
def test_a_refused_peer_is_served_when_the_one_that_was_before_it_goes(kind: str, tmp_path: Path) -> None:
    scene = Scene(kind=kind, peers=SIX)
    peers = list(scene.peer_leases())
    assert peers[0].v4 is not None
    wide = replace(peers[0], v4=replace(peers[0].v4, subnet=peers[0].v4.subnet.supernet()), created=99)
    with host() as namespace:
        stage = Stage(namespace, scene, tmp_path)
        stage.sync([*peers, wide])
        assert wide not in stage.data_path.served
        inside_it = [one for one in peers if one.v4 and one.v4.subnet.subnet_of(wide.v4.subnet)]  # type: ignore[union-attr, arg-type]
        now = [*(one for one in peers if one not in inside_it), wide]
        stage.sync(now)
        assert wide in stage.data_path.served
        stage.require_whole(now)


def of_a_kind(kind: str) -> st.SearchStrategy[tuple[str, dict[str, KeyValue]]]:
    return st.tuples(st.just(kind), rivals(backends.published_type(kind)))


@given(
    written=st.sampled_from(KINDS).flatmap(of_a_kind),
    versions=st.sampled_from([(4,), (4, 6)]),
    step=st.integers(1, 3),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_rivals_get_what_a_look_at_the_whole_gives_them(
    written: tuple[str, dict[str, KeyValue]],
    versions: tuple[int, ...],
    step: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    kind, keys = written
    table = LeaseTableReader().read(keys.items()).leases
    # In etcd's order: the later, the younger.
    peers = [replace(lease, created=number) for number, lease in enumerate(table.values(), 1)]
    with host() as namespace:
        stage = Stage(namespace, Scene(kind=kind, versions=versions), tmp_path_factory.mktemp("newcomers"))
        for number in (*range(0, len(peers), step), len(peers)):
            stage.sync(peers[:number])
        stage.require_whole(peers)
        for number in range(step, len(peers), step):
            stage.sync(peers[number:])
            stage.require_whole(peers[number:])


def test_one_whose_subnet_others_have_a_route_to_is_left_to_the_whole_look(tmp_path: Path) -> None:
    scene = Scene(kind="host-gw", peers=SIX)
    peers = scene.peer_leases()
    with host() as namespace:
        namespaces.ip(namespace, f"route add {peers[3].subnets.v4} via 198.18.1.200")
        stage = Stage(namespace, scene, tmp_path)
        stage.sync(peers[:3])
        stage.sync(peers[:4])
        assert stage.looks == 2
        assert peers[3] not in stage.data_path.served
        ours = inside(namespace, netlink.read).all_of(Route)
        assert peers[3].subnets.v4 not in {route.dst for route in ours}
