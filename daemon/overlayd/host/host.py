"""This host under one network config: its lease, and the parts that are kept as they should be."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import ClassVar

from overlayd import backends
from overlayd.backends.allowed_commands import AllowedCommands
from overlayd.host.backend import backend_here
from overlayd.host.data_path import DataPath, address_fields
from overlayd.host.docker import DockerPart
from overlayd.host.fast_path import FastPathPart
from overlayd.host.files import FilesPart
from overlayd.host.firewall import FirewallPart
from overlayd.host.firewalld import FirewalldPart
from overlayd.host.network_note import NetworkNote
from overlayd.host.own_lease import OwnLease
from overlayd.host.parts import DesiredHost, HostContext, KernelWatch, Part, PartReport
from overlayd.host.reconciler import Reconciler
from overlayd.host.unknown_keys import UnknownKeys
from overlayd.leases.conflicts import CurrentNeeds
from overlayd.leases.lease import Lease
from overlayd.leases.lease_table import LeaseTable
from overlayd.leases.network_config import NetworkConfig
from overlayd.leases.registry import Registry
from overlayd.lib.counters import gauge
from overlayd.lib.kept import Kept
from overlayd.monitoring.status_file import StatusFile
from overlayd.settings import Settings
from overlayd.underlay import host_needs
from overlayd.underlay.choose import Underlay

# What this host needs for itself is read this often also when the kernel told of no change, as DNS may have.
NEEDS_REST_S = 30.0
# What the status says of the fast path before it was looked at.
COMES = "it comes once docker can start"

SUBNETS = gauge("overlayd_network_subnets", "How many subnets the network has for hosts, used ones included.")


class Host:
    """One host in one network. Methods are called in the order in which they stand here, all in one thread."""

    def __init__(
        self,
        settings: Settings,
        underlay: Underlay,
        registry: Registry,
        status_file: StatusFile,
        config: NetworkConfig,
        *,
        watch: KernelWatch,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Check the config against this host: NetworkConfigError, UnsupportedError. Changes nothing.

        `watch` is that of HostContext. `clock` and `wall_clock` are in seconds; the latter since the epoch.
        """
        self._settings = settings
        self._registry = registry
        self._config = config
        self._clock = clock
        self._here = CurrentNeeds(needed=host_needs.now(settings.etcd_endpoints))
        backend = backend_here(settings, config, underlay, self._here)
        context = HostContext(
            settings=settings,
            config=config,
            underlay=underlay,
            backend=backend,
            here=self._here,
            watch=watch,
        )
        self.own_lease = OwnLease(context, registry)
        self._data_path = DataPath(context, clock=clock)
        self._firewall = FirewallPart(context, self._data_path)
        # Docker's default bridge is on network 0. Containers of another network are on a bridge of an administrator's.
        self._docker = DockerPart(context) if settings.network_number == 0 else None
        self._note = NetworkNote(context)
        self._files = FilesPart(context, self._docker)
        self._parts: tuple[Part, ...] = (
            self._data_path,
            FirewalldPart(context, self._data_path),
            self._firewall,
            UnknownKeys(context, registry),
            *([self._docker] if self._docker else []),
            self._note,
            # Last of what docker waits for: it starts from them.
            self._files,
            FastPathOncePublished(FastPathPart(context, self._data_path, clock=clock), self._files),
        )
        self._last: tuple[LeaseTable, Lease, DesiredHost] | None = None
        self._needs = Kept(
            lambda: host_needs.now(settings.etcd_endpoints),
            lambda: (watch.changes(), host_needs.files()),
            rest_s=NEEDS_REST_S,
            clock=clock,
        )
        self._reconciler = Reconciler(self._parts, status_file, clock=clock, wall_clock=wall_clock)

    @contextmanager
    def opened(self, *, on_failure: Callable[[], None]) -> Iterator[None]:
        """Open the data path, once the lease is acquired, and close all parts at the end of the block.

        `on_failure` is called by another thread when the data path ends by itself.
        """
        allowed_commands = AllowedCommands(folder=self._settings.extension_commands)
        backends.retire_others(self._config.backend_type, self._settings.run_dir, allowed_commands)
        SUBNETS.set(min(pool.subnet_count() for pool in self._config.pools))
        desired = self._desired(self._registry.lease_table())
        # Before there are rules: the rules of each network of this host make room for those of the others.
        self._note.write(desired.lease)
        self._firewall.keep_strangers_out(desired.lease.subnets, self._data_path.planned(desired))
        self._data_path.open(desired.lease, on_failure=on_failure)
        with ExitStack() as stack:
            for part in reversed(self._parts):
                stack.callback(part.close)
            yield

    def reconcile(self, *, other_problems: Sequence[str] = ()) -> bool:
        """Make every part of this host what the leases ask for. What fails is reported, the rest is done.

        Returns whether this host is complete; a peer that cannot be programmed does not count. `other_problems` are
        those that the caller knows of: they are shown in the status only. Raises UnsupportedError.
        """
        began = self._clock()
        self._here.needed = self._needs.get()
        lease_table, view, held = self._registry.lease_table(), self._registry.view, self.own_lease.held
        status = {
            "network": str(self._config),
            **address_fields(held.lease),
            "reserved": held.reserved,
            "etcd_connected": view.connected,
            "etcd_problem": view.problem,
            "etcd_revision": view.revision,
            "skipped": lease_table.skipped,
            "warnings": self._registry.warnings,
        }
        desired = self._desired(lease_table)
        return self._reconciler.reconcile(desired, began=began, other_problems=other_problems, status=status)

    @property
    def changed(self) -> bool:
        """Whether the last reconciliation found anything that was not as it should be."""
        return self._reconciler.changed

    def publish(self) -> None:
        """Write the files that docker and others start from. Raises OverlaydError when the disk refuses.

        From then on every reconciliation keeps them as they should be, and the next one has parts that docker need not
        wait for.
        """
        self._files.publish(self.own_lease.held.lease)

    def settle_docker(self) -> None:
        """Start or restart docker where the settings allow it, else log what has to be done."""
        if self._docker is not None:
            self._docker.settle()

    def _desired(self, lease_table: LeaseTable) -> DesiredHost:
        """The same object for the same leases: it is compared with the last one, and may have thousands of peers."""
        held = self.own_lease.held.lease
        if self._last is not None and self._last[0] is lease_table and self._last[1] == held:
            return self._last[2]
        # As a number: comparing addresses takes four times as long.
        number, own_name = held.family_leases[0].public_number, held.key_name
        peers = tuple(
            lease
            for name, lease in lease_table.leases.items()
            # After a change of address the old lease is still in the view for a moment.
            if name != own_name
            and (lease.family_leases[0].public_number != number or lease.public_ip != held.public_ip)
        )
        desired = DesiredHost(lease=held, peers=peers, reserved=lease_table.reserved)
        self._last = (lease_table, held, desired)
        return desired


class FastPathOncePublished:
    """The fast path, for which docker need not wait: packets go without it. It comes once the files are there."""

    name: ClassVar[str] = FastPathPart.name

    def __init__(self, part: Part, files: FilesPart) -> None:
        """Changes nothing yet."""
        self._part = part
        self._files = files

    def sync(self, desired: DesiredHost) -> PartReport:
        """That of the part, or why there is none yet."""
        if self._files.published:
            return self._part.sync(desired)
        return PartReport(status={"fast_path": COMES, "fast_paths": ()})

    def close(self) -> None:
        """That of the part."""
        self._part.close()
