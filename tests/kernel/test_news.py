"""Whatever somebody does to what is ours in the kernel wakes the daemon, and is undone; our own writes do neither."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from overlayd.kernel.monitor import Monitor
from tests.kernel.stage import StagedDataPath, host
from tests.testbed.netns import namespaces
from tests.testbed.netns.namespaces import inside
from tests.testbed.polling import eventually
from tests.unit.kernel.scenes import Peer, Scene

SIX = {number: Peer(number=number, near=number % 2 == 0) for number in range(2, 8)}
VXLAN = Scene(versions=(4, 6), peers=SIX, blackhole=True)
HOST_GW = Scene(kind="host-gw", peers={number: Peer(number=number) for number in range(2, 8)})
NEIGHBOUR, NEIGHBOUR6 = "10.5.3.0 dev overlay.1", "fd42:0:0:3:: dev overlay-v6.1"
FIRST_MAC = "$(bridge fdb show dev overlay.1 | awk 'NR==1{print $1}') dev overlay.1"
DAMAGE = (
    f"ip neighbour delete {NEIGHBOUR}",
    f"ip -6 neighbour delete {NEIGHBOUR6}",
    "ip neighbour flush dev overlay.1 nud permanent",
    f"ip neighbour change {NEIGHBOUR} nud failed",
    f"ip neighbour change {NEIGHBOUR} nud stale",
    f"ip neighbour change {NEIGHBOUR} lladdr 02:00:00:00:00:99 nud noarp",
    f"ip neighbour replace {NEIGHBOUR} lladdr 02:00:00:00:00:99 nud reachable",
    f"bridge fdb delete {FIRST_MAC}",
    f"bridge fdb replace {FIRST_MAC} dst 198.18.9.9 self dynamic",
    "ip link set overlay.1 down",
    "ip link set overlay.1 down; ip link set overlay.1 up",
    "ip link set overlay.1 mtu 1300",
    "ip link set overlay.1 name foo",
    "ip link set overlay.1 alias x; ip link set overlay.1 alias overlayd",
    "ip link delete overlay-v6.1",
    "ip address flush dev overlay.1",
    "ip -6 address flush dev overlay-v6.1",
    "ip route flush proto 157",
    "ip -6 route flush proto 157",
    "ip -6 route delete blackhole fd42:0:0:1::/64",
    "ip -6 route replace fd42:0:0:3::/64 dev eth0 proto 157",
    "ip route add 10.5.200.0/24 dev overlay.1 proto 157",
    "ip link set eth0 down; ip link set eth0 up",
)
# A setting of which the kernel tells nobody; it is read at each look.
SILENT = ("sysctl -qw net.ipv4.ip_forward=0", "sysctl -qw net.ipv4.conf.overlay/1.accept_redirects=1")
# Routes that go without a word, with a link that is not ours: a foreign one that keeps a peer from being served.
IN_THE_WAY = (
    "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1",
    "ip link add d9 type veth peer name d9end",
    "ip link set d9end up",
    "ip link set d9 up",
    "ip route add 10.5.3.0/24 dev d9",
)


class Watched(StagedDataPath):
    """One with a real monitor, and its peers."""

    def __init__(self, namespace: str, scene: Scene, folder: Path) -> None:
        self._woken = threading.Event()
        self.monitor = inside(namespace, lambda: Monitor(self._woken.set))
        inside(namespace, self.monitor.start)
        super().__init__(namespace, scene, folder, self.monitor)
        self.peers = scene.peer_leases()

    def settle(self) -> None:
        """Sync until nothing wakes it any more."""

        def settled() -> bool:
            self._woken.clear()
            self.sync(self.peers)
            # What the last writes brought about is told a moment later.
            return not self.woken(within_s=0.3)

        eventually("the kernel tells of nothing new", settled)

    def woken(self, *, within_s: float) -> bool:
        """Whether the kernel has told of anything that matters since the last sync, or does so within that time."""
        return self._woken.wait(within_s)


@contextmanager
def watched(scene: Scene, folder: Path, commands: Sequence[str] = ()) -> Iterator[Watched]:
    with host() as namespace:
        for command in commands:
            namespaces.run(namespace, ["sh", "-c", command])
        made = Watched(namespace, scene, folder)
        try:
            made.settle()
            yield made
        finally:
            made.monitor.stop()


@pytest.mark.parametrize("command", [*DAMAGE, *SILENT])
def test_what_somebody_does_is_noticed_and_undone(command: str, tmp_path: Path) -> None:
    with watched(VXLAN, tmp_path) as found:
        namespaces.run(found.namespace, ["sh", "-c", command])
        if command not in SILENT:
            assert found.woken(within_s=10)
        found.settle()
        found.require_whole(found.peers)


def test_what_a_look_at_the_whole_writes_and_deletes_is_no_news(tmp_path: Path) -> None:
    with watched(VXLAN, tmp_path) as found:
        before = found.monitor.changes()
        namespaces.run(found.namespace, ["ip", "route", "add", "10.5.200.0/24", "dev", "overlay.1", "proto", "157"])
        assert found.woken(within_s=10)
        told = found.monitor.changes()
        # The route and a peer are deleted; then all others are written again.
        found.peers = found.peers[1:]
        found.settle()
        found.require_whole(found.peers)
        namespaces.run(found.namespace, ["ip", "route", "flush", "proto", "157"])
        found.settle()
        assert (told - before, found.monitor.changes() - told) == (1, 0)
        found.require_whole(found.peers)


@pytest.mark.parametrize("scene", [VXLAN, HOST_GW], ids=lambda scene: scene.kind)
@pytest.mark.parametrize("command", ["ip link set d9 down", "ip link delete d9"])
def test_a_peer_is_served_again_when_the_route_that_was_in_its_way_goes_with_its_link(
    scene: Scene, command: str, tmp_path: Path
) -> None:
    only4 = Scene(kind=scene.kind, peers=scene.peers)
    with watched(only4, tmp_path, IN_THE_WAY) as found:
        assert len(found.data_path.served) == len(SIX) - 1
        namespaces.run(found.namespace, ["sh", "-c", command])
        assert found.woken(within_s=10)
        found.settle()
        assert len(found.data_path.served) == len(SIX)
