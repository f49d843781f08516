"""Leases, and a host under one network config with a backend that a test directs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Self, cast

from overlayd.backends.backend import Backend
from overlayd.backends.facts import BackendFacts
from overlayd.backends.listening import Listening
from overlayd.backends.vxlan import Vxlan
from overlayd.backends.wire import Wire
from overlayd.host.parts import HostContext, KernelWatch
from overlayd.kernel.converge import ConvergeReport
from overlayd.kernel.expected import Expected
from overlayd.kernel.interfaces import InterfaceList, read_list
from overlayd.leases.conflicts import CurrentNeeds
from overlayd.leases.lease import FamilyLease, Lease
from overlayd.leases.network_config import NetworkConfig, parse_network_config
from overlayd.settings import Settings
from overlayd.underlay.choose import Underlay

CONFIG = parse_network_config('{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}')


def lease(number: int, *, data: Mapping[str, Any] | None = None) -> Lease:
    """The lease of host `number`."""
    subnet, address = IPv4Network(f"10.5.{number}.0/24"), IPv4Address(f"198.18.1.{number}")
    return Lease(v4=FamilyLease(subnet=subnet, public_ip=address, data=data), backend_type="vxlan")


class DirectedBackend:
    """A Backend that reports what a test says."""

    facts: ClassVar[BackendFacts] = Vxlan.facts
    mtu_bytes = 1450
    devices = ("overlay.1",)
    listens: tuple[Listening, ...] = ()

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.apply_: Callable[[], ConvergeReport] = ConvergeReport
        self.run_: Callable[[threading.Event], object] = threading.Event.wait

    @classmethod
    def from_config(cls, config: Mapping[str, Any], environment: object) -> Self:  # noqa: ARG003
        """One without directions."""
        return cls()

    def lease_data(self, version: int) -> Mapping[str, Any]:  # noqa: ARG002
        """What every lease of this backend has."""
        return {"VtepMAC": "02:00:00:00:00:01"}

    def wire(self, version: int) -> Wire | None:  # noqa: ARG002
        """None: its packets are its own."""
        return None

    def open(self, own: Lease) -> None:  # noqa: ARG002
        """Note it."""
        self.calls.append("open")

    def apply(self, own: Lease, peers: Collection[Lease]) -> ConvergeReport:  # noqa: ARG002
        """As directed."""
        self.calls.append("apply")
        return self.apply_()

    def run(self, stop: threading.Event) -> None:
        """As directed."""
        self.run_(stop)

    def close(self) -> None:
        """Note it."""
        self.calls.append("close")


@dataclass
class DirectedWatch:
    """A KernelWatch that tells of a change when a test says so, or each time."""

    changing: bool = False
    count: int = 0
    expected: Expected = field(default_factory=Expected)

    def changes(self) -> int:
        """See KernelWatch."""
        self.count += self.changing
        return self.count

    def interfaces(self) -> InterfaceList:
        """See KernelWatch."""
        return read_list()


def context(
    backend: Backend,
    folder: Path = Path("/nonexistent"),
    config: NetworkConfig = CONFIG,
    *,
    watch: KernelWatch | None = None,
) -> HostContext:
    """A host whose files are in `folder`. Without `watch`, the kernel has always changed."""
    settings = SimpleNamespace(run_dir=folder, state_dir=folder, subnet_env=folder / "subnet.env", ip_masq=True)
    return HostContext(
        settings=cast("Settings", settings),
        config=config,
        underlay=cast("Underlay", None),
        backend=backend,
        here=CurrentNeeds(),
        watch=watch or DirectedWatch(changing=True),
    )
