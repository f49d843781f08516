"""The interface of a host's parts, each of which keeps one thing on the host as the leases ask for.

A new part is one module with a class that has what `Part` asks for, and one entry in the list in host.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, ClassVar, Protocol

from overlayd.backends.backend import Backend
from overlayd.docker.dockerd_config import DockerdConfigReader
from overlayd.kernel.expected import Expected
from overlayd.kernel.interfaces import InterfaceList
from overlayd.leases.conflicts import CurrentNeeds
from overlayd.leases.lease import Lease
from overlayd.leases.network_config import NetworkConfig
from overlayd.lib.quick_dataclass import dataclass
from overlayd.settings import Settings
from overlayd.underlay.choose import Underlay


class KernelWatch(Protocol):
    """What tells of changes in the kernel (kernel/monitor.py)."""

    expected: Expected
    """What is no news when the kernel tells of it."""

    def changes(self) -> int:
        """Another number whenever there were news."""
        ...

    def interfaces(self) -> InterfaceList:
        """This host's interfaces. Raises KernelRefused."""
        ...


@dataclass(frozen=True, kw_only=True)
class HostContext:
    """What parts are made from: this host's settings, and what follows from one network config on this host.

    `here` is what this host needs for itself, as it was last read; the same object for all parts. `watch` tells of
    changes in the kernel. `dockerd_config` is what others configure dockerd with.
    """

    settings: Settings
    config: NetworkConfig
    underlay: Underlay
    backend: Backend
    here: CurrentNeeds
    watch: KernelWatch
    dockerd_config: DockerdConfigReader = field(default_factory=DockerdConfigReader)


@dataclass(frozen=True, kw_only=True)
class DesiredHost:
    """What every part works towards: this host holds `lease`, and `peers` are all other hosts with a lease.

    Of `peers`, those in `reserved` (the last parts of their leases' keys) are kept for hosts that may never have run.
    """

    lease: Lease
    peers: tuple[Lease, ...] = ()
    reserved: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class PartReport:
    """The result of one sync of a part.

    With `problems`, this host is incomplete: before the first complete reconciliation no file is written, and docker
    does not start. `outside_problems` are shown with them, but an administrator may have solved them by hand: they
    keep nothing from starting. `warnings` keep no packet from its way. `changed`: something was not as it should be,
    and was written. `status` are the fields of the status that this part knows.
    """

    problems: tuple[str, ...] = ()
    outside_problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    changed: bool = False
    status: Mapping[str, Any] = field(default_factory=dict)


class Part(Protocol):
    """One part of a host. Its methods are called in one thread."""

    name: ClassVar[str]
    """The part as the log names it."""

    def sync(self, desired: DesiredHost) -> PartReport:
        """Make this part as desired; the same twice writes nothing. Failures are reported, not raised.

        Raises UnsupportedError where this host cannot have the part at all.
        """
        ...

    def close(self) -> None:
        """Let go of what only a living process can hold; what was written stays."""
        ...
