"""Real WireGuard devices: we read back what we wrote, and a second apply writes nothing."""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any, TypeVar

import pytest

from overlayd.backends.environment import Environment
from overlayd.backends.wireguard import Wireguard
from overlayd.kernel import netlink
from overlayd.kernel.converge import ConvergeReport
from overlayd.kernel.wireguard import userspace
from overlayd.leases.lease import FamilyLease, Lease
from overlayd.leases.network_config import parse_network_config
from overlayd.lib import process
from overlayd.underlay.choose import Underlay, UnderlayEndpoint
from tests.testbed.netns import namespaces, wireguard_devices

T = TypeVar("T")

NETWORK = parse_network_config('{"Network": "10.5.0.0/16", "EnableIPv6": true, "IPv6Network": "fd42::/48"}')
UNDERLAY = Underlay(
    ifname="eth0",
    ifindex=2,
    mtu_bytes=1500,
    reason="iface eth0",
    v4=UnderlayEndpoint(address=IPv4Address("198.18.1.1"), public_ip=IPv4Address("198.18.1.1")),
    v6=UnderlayEndpoint(address=IPv6Address("2001:db8:1::1"), public_ip=IPv6Address("2001:db8:1::1")),
)
PSK = base64.b64encode(b"\x09" * 32).decode()


def lease(number: int, *, generation: int = 1) -> Lease:
    """The lease of the host with that number; another generation has another key."""
    data = {"PublicKey": base64.b64encode(bytes([number, generation]) * 16).decode()}
    return Lease(
        v4=FamilyLease(
            subnet=IPv4Network(f"10.5.{number}.0/24"), public_ip=IPv4Address(f"198.18.1.{number}"), data=data
        ),
        v6=FamilyLease(
            subnet=IPv6Network(f"fd42:0:0:{number}::/64"), public_ip=IPv6Address(f"2001:db8:1::{number}"), data=data
        ),
        backend_type="wireguard",
    )


def at(peer: Lease, address: str) -> Lease:
    """The same lease with another IPv4 address of the host."""
    assert peer.v4 is not None
    return replace(peer, v4=replace(peer.v4, public_ip=IPv4Address(address)))


class Machine:
    """A namespace with an underlay interface, and its own folder for wireguard-go's sockets."""

    def __init__(self, folder: Path) -> None:
        self.name = namespaces.unique("wg")
        self._sockets = folder / "sockets"
        self._state_dir = folder / "state"
        self._sockets.mkdir()

    def make(self) -> None:
        """Make the namespace."""
        namespaces.make(self.name)
        namespaces.ip(
            self.name,
            "link add eth0 type veth peer name other",
            "address add 198.18.1.1/24 dev eth0",
            "address add 2001:db8:1::1/64 dev eth0 nodad",
            "link set eth0 up",
            "link set other up",
        )

    def inside(self, call: Callable[[], T]) -> T:
        """Call a function in the namespace."""

        def enter() -> T:
            namespaces.mount_for_this_thread(self._sockets, userspace.SOCKETS.resolve())
            return call()

        return namespaces.inside(self.name, enter)

    def run(self, *argv: str) -> str:
        """Run a command in the namespace."""
        return self.inside(lambda: process.run(argv))

    def backend(self, **config: Any) -> Wireguard:
        """A backend as a newly started daemon has it."""
        environment = Environment(network=NETWORK, underlay=UNDERLAY, state_dir=self._state_dir)
        return Wireguard.from_config(config, environment)

    def apply(self, backend: Wireguard, *peers: Lease) -> ConvergeReport:
        """Program the peers; asserts that the kernel refuses nothing."""

        def call() -> ConvergeReport:
            backend.open(lease(1))
            return backend.apply(lease(1), peers)

        report = self.inside(call)
        assert (report.problems, report.peer_problems) == ((), {})
        return report


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """The namespace as a host; processes in it end with their devices."""
    made = Machine(tmp_path)
    try:
        made.make()
        yield made
    finally:
        namespaces.remove(made.name)


CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all": {"PSK": PSK, "PersistentKeepaliveInterval": 25, "ListenPort": 1234, "ListenPortV6": 1235, "MTU": 1400},
    "auto": {"Mode": "auto", "PSK": PSK},
    "ipv6": {"Mode": "ipv6"},
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_same_twice_writes_nothing(machine: Machine, config: dict[str, Any]) -> None:
    peers = [lease(number) for number in range(2, 30)]
    backend = machine.backend(**config)
    devices = 1 if "Mode" in config else 2
    assert machine.apply(backend, *peers).written == devices * len(peers)
    assert machine.apply(backend, *peers).written == 0
    assert machine.apply(machine.backend(**config), *peers).written == 0


def endpoints(machine: Machine, device: str = "overlay-wg") -> Collection[str]:
    """The endpoints of the peers on the device."""
    return [line.split()[1] for line in machine.run("wg", "show", device, "endpoints").splitlines()]


def roam(machine: Machine, peer: Lease, endpoint: str) -> None:
    """Set a peer's endpoint as if a packet had come from there."""
    machine.run(
        "wg", "set", "overlay-wg", "peer", str(peer.family_leases[0].fields()["publickey"]), "endpoint", endpoint
    )


def test_a_peer_that_roamed_keeps_its_endpoint_until_its_lease_names_another_address(machine: Machine) -> None:
    backend, peer = machine.backend(), lease(2)
    machine.apply(backend, peer)
    roam(machine, peer, "198.18.7.7:40000")
    assert machine.apply(backend, peer).written == 0
    assert endpoints(machine) == ["198.18.7.7:40000"]
    assert machine.apply(backend, at(peer, "198.18.1.77")).written == 1
    assert endpoints(machine) == ["198.18.1.77:51820"]
    roam(machine, peer, "198.18.7.7:40000")
    # A newly started daemon knows only the endpoint in the lease.
    assert machine.apply(machine.backend(), at(peer, "198.18.1.77")).written == 1
    assert endpoints(machine) == ["198.18.1.77:51820"]


def test_peers_that_swap_subnets_end_up_right(machine: Machine) -> None:
    backend, one, other = machine.backend(Mode="auto"), lease(2), lease(3)
    assert one.v4
    assert other.v4
    machine.apply(backend, one, other)
    swapped = [
        replace(one, v4=replace(one.v4, subnet=other.v4.subnet)),
        replace(other, v4=replace(other.v4, subnet=one.v4.subnet)),
    ]
    machine.apply(backend, *swapped)
    assert machine.apply(backend, *swapped).written == 0


def test_a_host_with_a_new_key_takes_its_old_ones_place(machine: Machine) -> None:
    backend = machine.backend()
    machine.apply(backend, lease(2), lease(3))
    machine.apply(backend, lease(2, generation=2), lease(3))
    assert machine.apply(backend, lease(2, generation=2), lease(3)).written == 0
    assert len(endpoints(machine)) == 2


def test_a_changed_config_is_followed_in_place(machine: Machine) -> None:
    machine.apply(machine.backend(), lease(2))
    before = machine.run("ip", "-o", "link", "show", "overlay-wg").split(":")[0]
    machine.apply(machine.backend(ListenPort=7777, PSK=PSK, MTU=1400), lease(2))
    # A device has its index for as long as it exists, so this is the same device.
    assert machine.run("ip", "-o", "link", "show", "overlay-wg").split(":")[0] == before
    assert machine.run("wg", "show", "overlay-wg", "listen-port").strip() == "7777"
    assert "mtu 1320" in machine.run("ip", "link", "show", "overlay-wg")
    machine.apply(machine.backend(Mode="auto"), lease(2))
    assert "overlay-wg-v6" not in machine.run("ip", "link")


def test_a_device_that_was_left_incomplete_is_completed(machine: Machine) -> None:
    wireguard_devices.make(machine.run, "overlay-wg")
    backend = machine.backend(Mode="auto")
    machine.apply(backend, lease(2))
    assert machine.apply(backend, lease(2)).written == 0


def test_cleanup_leaves_somebody_elses_devices(machine: Machine) -> None:
    wireguard_devices.make(machine.run, "wg0")
    machine.run("wg", "set", "wg0", "listen-port", "9999")
    machine.run("ip", "link", "set", "wg0", "up")
    before = machine.run("ip", "-br", "link")
    machine.apply(machine.backend(), lease(2))
    removed = machine.inside(lambda: list(netlink.cleanup()))
    assert [line.split()[1] for line in removed if line.startswith("link")] == ["overlay-wg", "overlay-wg-v6"]
    assert machine.run("ip", "-br", "link") == before
    assert machine.run("wg", "show", "wg0", "listen-port").strip() == "9999"
    sockets = machine.inside(lambda: [path.name for path in userspace.SOCKETS.iterdir()])
    assert sockets == ([] if wireguard_devices.in_kernel() else ["wg0.sock"])
