"""A namespace with the interfaces of the unit tests' model of the kernel, and nothing of ours."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Interface

from tests.testbed.netns import namespaces
from tests.unit.kernel.damage import foreign_interfaces
from tests.unit.kernel.scenes import UNDERLAY

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
