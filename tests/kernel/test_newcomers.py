"""Peers that come one after the other are written without a look at the whole; and the whole then has nothing to do."""

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
        # Several at once; the same again; and one that goes needs the whole.
        stage.sync(peers[:2])
        stage.sync(peers)
        stage.sync(peers)
        assert stage.looks == 2
        stage.require_whole(peers)


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
