"""A namespace with the interfaces of the unit tests' model of the kernel, nothing of ours, and a data path in it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

from overlayd.host.data_path import DataPath
from overlayd.host.parts import DesiredHost, KernelWatch
from overlayd.kernel.converge import ConvergeReport
from overlayd.leases.lease import Lease
from tests.testbed.netns import namespaces
from tests.testbed.netns.namespaces import inside
from tests.unit.host.values import context
from tests.unit.kernel.damage import foreign_interfaces
from tests.unit.kernel.scenes import NETWORKS, UNDERLAY, Scene

_numbers = itertools.count(1)


@contextmanager
def host() -> Iterator[str]:
    """The namespace's name, for the length of the block."""
    name = namespaces.unique(f"{next(_numbers)}model")
    namespaces.make(name)
    try:
        namespaces.ip(
            name,
            "link add eth0 type veth peer name other",
            "link set other up",
            "link add docker0 type bridge",
            "link add flannel.9 type vxlan id 1 dstport 8477 dev eth0 local 198.18.1.1 nolearning",
            "address add 10.99.0.1/24 dev docker0",
            *(f"link set {one.name} up" for one in (UNDERLAY, *foreign_interfaces())),
            *addresses(),
        )
        yield name
    finally:
        namespaces.remove(name)


def addresses() -> list[str]:
    """The underlay's addresses, as commands of `ip`."""
    return [
        f"address replace {one} dev {UNDERLAY.name}" + ("" if isinstance(one, IPv4Interface) else " nodad")
        for one in UNDERLAY.addresses
    ]


class StagedDataPath:
    """The data path of a scene's backend in a namespace, opened."""

    def __init__(self, namespace: str, scene: Scene, folder: Path, watch: KernelWatch) -> None:
        self.namespace = namespace
        self.own = scene.own_lease()
        self._backend: Any = scene.backend(folder)
        self.data_path = DataPath(context(self._backend, folder, NETWORKS[scene.versions], watch=watch))
        inside(namespace, lambda: self._backend.open(self.own))

    def sync(self, peers: Sequence[Lease]) -> None:
        """Sync it with these peers."""
        inside(self.namespace, lambda: self.data_path.sync(DesiredHost(lease=self.own, peers=tuple(peers))))

    def require_whole(self, peers: Sequence[Lease]) -> ConvergeReport:
        """Fail unless a look at the whole finds nothing to do, and the same peers served."""
        whole: ConvergeReport = inside(self.namespace, lambda: self._backend.apply(self.own, peers))
        assert (whole.written, whole.problems) == (0, ())
        assert {peer.key_name for peer in self.data_path.served} == set(whole.paths)
        return whole
