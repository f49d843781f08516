"""Our netlink messages are those of `ip` and `bridge` for the same objects, byte for byte.

So backends are tested also on a kernel without their devices: this machine's has no IP in IP.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import pytest

from overlayd.errors import UnsupportedError
from overlayd.kernel import netlink
from overlayd.kernel.diff import diff
from overlayd.kernel.state import (
    Address,
    FdbEntry,
    IpipLink,
    KernelObject,
    KernelState,
    Link,
    Neighbour,
    Route,
    VxlanLink,
)
from tests.testbed.netns import namespaces
from tests.testbed.netns.lab import SOURCES
from tests.testbed.netns.namespaces import inside
from tests.testbed.netns.netlink_bytes import IFLA_INFO_DATA, IFLA_LINKINFO, Message, written_by

ADD = """
import sys
from ipaddress import *
from overlayd.kernel import netlink
from overlayd.kernel.diff import Operation, OperationKind
from overlayd.kernel.state import *
from overlayd.errors import UnsupportedError
try:
    netlink.apply([Operation(OperationKind.ADD, eval(sys.argv[1]))])
except UnsupportedError as error:
    print(error)
"""
MAC = "02:00:00:00:00:01"
IPIP = IpipLink(name="overlay.ipip", local=IPv4Address("198.18.1.1"), mtu_bytes=1480)
VXLAN = VxlanLink(
    name="overlay.1", vni=1, port=8472, local=IPv4Address("198.18.1.1"), underlay="eth0", mac=MAC, mtu_bytes=1450
)
RTA_TABLE = (15,)
NDM_STATE_AT = 8
NUD_NOARP = 0x40


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    """A namespace with an underlay, and with bridges that have the names of overlay devices."""
    name = namespaces.unique("bytes")
    namespaces.make(name)
    try:
        namespaces.ip(
            name,
            "link add eth0 type veth peer name other",
            "address add 198.18.1.1/24 dev eth0",
            "link set eth0 up",
            "link set other up",
            # It stands for the device that this kernel cannot make.
            "link add overlay.ipip type bridge",
            "link set overlay.ipip up",
        )
        yield name
    finally:
        namespaces.remove(name)


def ours(host: str, item: KernelObject, folder: Path) -> list[Message]:
    """The message that we send to add an object."""
    return written_by(host, [sys.executable, "-c", ADD, repr(item)], folder, env=[f"PYTHONPATH={SOURCES}"])


def theirs(host: str, command: str, folder: Path) -> list[Message]:
    """The messages that a command sends."""
    return written_by(host, command.split(), folder)


@pytest.fixture
def bare() -> Iterator[str]:
    """A namespace with nothing in it."""
    name = namespaces.unique("bare")
    namespaces.make(name)
    try:
        yield name
    finally:
        namespaces.remove(name)


def test_an_ipip_device(bare: str, tmp_path: Path) -> None:
    (made, *_) = ours(bare, IPIP, tmp_path)
    command = "ip link add overlay.ipip type ipip mode ipip local 198.18.1.1 nopmtudisc"
    (wanted, *_) = theirs(bare, command, tmp_path)
    assert (made.type, made.flags, made.body) == (wanted.type, wanted.flags, wanted.body)
    assert made.attributes <= wanted.attributes
    # The further attributes of `ip` are zero, which is the kernel's default for each of them.
    for path, payload in wanted.attributes - made.attributes:
        assert path[:2] == (IFLA_LINKINFO, IFLA_INFO_DATA)
        assert not any(payload)


def test_an_ipip_device_is_read_as_written_or_the_kernel_lacks_it(bare: str) -> None:
    probe = "ip link add probe type ipip local 198.18.1.9 2>&1 || true"
    has_ipip = "Unknown device type" not in namespaces.run(bare, ["sh", "-c", probe])
    (operation,) = diff(KernelState(frozenset({IPIP})), KernelState())
    if has_ipip:
        assert inside(bare, lambda: netlink.apply([operation])) == []
        assert inside(bare, netlink.read).all_of(Link) == {IPIP}
    else:
        with pytest.raises(UnsupportedError, match="modprobe ipip"):
            inside(bare, lambda: netlink.apply([operation]))


def test_a_vxlan_device(host: str, tmp_path: Path) -> None:
    made, changed, raised = ours(host, VXLAN, tmp_path)
    # The MAC is not sent again: the kernel forgets permanent neighbours when a link's MAC is set, even to the same one.
    assert changed == theirs(host, "ip link set overlay.1 mtu 1450 alias overlayd", tmp_path)[0]
    assert raised == theirs(host, "ip link set overlay.1 up", tmp_path)[0]
    namespaces.ip(host, "link delete overlay.1")
    words = f"overlay.1 address {MAC} type vxlan id 1 dstport 8472 local 198.18.1.1 dev eth0 nolearning noudpcsum"
    assert [made] == theirs(host, f"ip link add {words}", tmp_path)


@pytest.mark.parametrize(
    ("item", "command"),
    [
        (
            Address(link="overlay.ipip", address=IPv4Interface("10.5.1.0/32")),
            "ip address replace 10.5.1.0/32 dev overlay.ipip",
        ),
        (
            # The gateway is in no network of the device, and need not be in one of the underlay.
            Route(dst=IPv4Network("10.5.2.0/24"), link="overlay.ipip", via=IPv4Address("198.19.7.2"), onlink=True),
            "ip route add 10.5.2.0/24 via 198.19.7.2 dev overlay.ipip onlink proto 157",
        ),
        (
            Route(dst=IPv4Network("10.5.3.0/24"), link="eth0", via=IPv4Address("198.18.1.3")),
            "ip route add 10.5.3.0/24 via 198.18.1.3 dev eth0 proto 157",
        ),
        (
            Neighbour(link="eth0", address=IPv4Address("10.5.2.0"), mac="02:00:00:00:00:02"),
            "ip neighbour replace 10.5.2.0 lladdr 02:00:00:00:00:02 dev eth0 nud permanent",
        ),
    ],
    ids=["address", "onlink-route", "direct-route", "neighbour"],
)
def test_addresses_routes_and_neighbours_on_devices(
    host: str, tmp_path: Path, item: KernelObject, command: str
) -> None:
    (made,) = ours(host, item, tmp_path)
    (wanted,) = theirs(host, command, tmp_path)
    # The message's body names the main table; we name it in an attribute too.
    attributes = made.attributes - {(RTA_TABLE, bytes([254, 0, 0, 0]))}
    assert (made.type, made.flags, made.body, attributes) == (wanted.type, wanted.flags, wanted.body, wanted.attributes)


def test_a_forwarding_entry(host: str, tmp_path: Path) -> None:
    namespaces.ip(host, "link add vx0 type vxlan id 9 dstport 8472 local 198.18.1.1 dev eth0 nolearning")
    (made,) = ours(host, FdbEntry(link="vx0", mac=MAC, dst=IPv4Address("198.18.1.2")), tmp_path)
    (wanted,) = theirs(host, f"bridge fdb replace {MAC} dst 198.18.1.2 dev vx0 self", tmp_path)
    # `bridge` adds a state that has no meaning on VXLAN; flannel omits it too.
    body = bytearray(wanted.body)
    body[NDM_STATE_AT] &= ~NUD_NOARP
    assert (made.type, made.flags, made.body, made.attributes) == (
        wanted.type,
        wanted.flags,
        bytes(body),
        wanted.attributes,
    )
