"""What of an administrator's is at an interface, by what the kernel tells of it."""

from __future__ import annotations

import pytest

from overlayd.kernel.interfaces import bypassed_at
from overlayd.kernel.links import LinkMessage

# linux/if_link.h
IFLA_BR_VLAN_FILTERING = 7


@pytest.mark.parametrize(
    ("link", "found"),
    [
        (LinkMessage(index=2, name="docker0", flags=1, mtu_bytes=1450, qdisc="noqueue", kind="bridge"), None),
        (
            LinkMessage(
                index=2,
                name="docker0",
                flags=1,
                mtu_bytes=1450,
                qdisc="noqueue",
                kind="bridge",
                data={IFLA_BR_VLAN_FILTERING: b"\1"},
            ),
            "the VLANs of docker0: see bridge vlan",
        ),
        (
            LinkMessage(index=2, name="overlay.1", flags=1, mtu_bytes=1450, qdisc="pfifo_fast", kind="vxlan"),
            "the queueing discipline of overlay.1: see tc qdisc",
        ),
        # The kernel gives it one by itself.
        (LinkMessage(index=2, name="overlay0", flags=1, mtu_bytes=1472, qdisc="pfifo_fast", kind="tun"), None),
        (
            LinkMessage(index=2, name="overlay0", flags=1, mtu_bytes=1472, qdisc="tbf", kind="tun"),
            "the queueing discipline of overlay0: see tc qdisc",
        ),
    ],
)
def test_what_is_at_an_interface_is_named(link: LinkMessage, found: str | None) -> None:
    assert bypassed_at(link) == found
