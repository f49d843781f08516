"""This host under one network config: its lease, backend, rules and files, and keeping them as they should be."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

from overlayd import backends
from overlayd.backends.allowed_commands import AllowedCommands
from overlayd.backends.peers import PROBLEMS_AT_MOST
from overlayd.backends.planned import Keyed, Planned
from overlayd.docker import etcd_in_docker
from overlayd.docker import options as docker_options
from overlayd.docker.watch import DockerWatch
from overlayd.errors import LeaseLost, OverlaydError, StoreError, UnsupportedError
from overlayd.host import other_networks
from overlayd.host.backend import backend_here, unknown_keys
from overlayd.host.firewall import HostFirewall
from overlayd.kernel.converge import Report
from overlayd.leases import previous_lease
from overlayd.leases.conflicts import CurrentNeeds, avoided
from overlayd.leases.held_lease import HeldLease, PreviousLease
from overlayd.leases.lease import DEFAULT_BACKEND, FamilyLease, Lease, Subnets
from overlayd.leases.lease_table import LeaseTable
from overlayd.leases.network_config import NetworkConfig
from overlayd.leases.registry import Registry
from overlayd.lib.addresses import IPAddress, IPNetwork, first_host
from overlayd.lib.counters import counter, gauge
from overlayd.lib.files import write_atomically
from overlayd.lib.log import logger
from overlayd.monitoring.status_file import Peer, StatusFile
from overlayd.settings import Settings
from overlayd.underlay import host_needs
from overlayd.underlay.choose import Underlay

log = logger("host")

RECONCILIATIONS = counter(
    "overlayd_reconciliations_total",
    "Looks at kernel, firewall and leases: whole, or incomplete where something of this host's own part was refused.",
    label="result",
    known=("whole", "incomplete"),
)
RECONCILING = counter("overlayd_reconciliation_seconds_total", "Time that these looks took.")
LAST_WHOLE = gauge(
    "overlayd_last_whole_reconciliation_timestamp_seconds",
    "When the last of them ended with nothing refused, in seconds since the epoch.",
)


class Host:
    """One host in one network. Methods are called in the order in which they stand here, all in one thread."""

    def __init__(
        self, settings: Settings, underlay: Underlay, registry: Registry, status_file: StatusFile, config: NetworkConfig
    ) -> None:
        """Check the config against this host: NetworkConfigError, UnsupportedError. Changes nothing."""
        self._settings = settings
        self._registry = registry
        self._status_file = status_file
        self._config = config
        self._underlay = underlay
        self._here = CurrentNeeds(needed=host_needs.now(settings.etcd_endpoints))
        self._backend = backend_here(settings, config, underlay, self._here)
        self._firewall = HostFirewall(settings, config, underlay.ifname, self._backend, self._here)
        self._unread: tuple[str, ...] = ()
        self._holding: HeldLease | None = None
        self._docker = DockerWatch(
            restart=settings.docker_restart,
            lasting_s=settings.resync_s,
            firewalled=settings.firewall != "none",
            masquerade=settings.ip_masq,
            network=config.network(4),
        )
        # Its default bridge is on network 0. Containers of another one are on a bridge that an administrator made.
        self._with_docker = settings.network_number == 0
        # The peers that are programmed.
        self._served: tuple[Lease, ...] = ()
        self._published = False
        self._carrier_problem: str | None = None
        self.written = False
        """Whether the last look found anything that was not as it should be."""

    @property
    def public_ip(self) -> IPAddress:
        """The address that peers know this host by: of the first family that the network uses."""
        return self._family_lease(self._config.networks[0]).public_ip

    @property
    def holding(self) -> HeldLease:
        """The lease, once acquired."""
        if self._holding is None:
            raise RuntimeError("no lease acquired yet")
        return self._holding

    def acquire(self) -> HeldLease:
        """Hold subnets, the same as before wherever nobody else has them. Raises StoreError, SubnetsExhausted."""
        remembered = previous_lease.recall(self._settings.state_dir, self._settings.subnet_env)
        remembered = self._registry.own_part(remembered, self.public_ip)
        if isinstance(self._backend, Keyed):
            self._backend.replace_shared_key(self._registry.others(remembered, self.public_ip))
        self._holding = self._registry.acquire(
            self._config,
            self._wanted,
            public_ip=self.public_ip,
            remembered=remembered,
            ttl_s=self._settings.lease_ttl_s,
            avoid=avoided(self._here.needed, self._underlay.ifname, held=remembered.subnets),
        )
        self._remember(self._holding)
        log.info("lease held", subnet=self._holding.lease.subnets, reserved=self._holding.reserved)
        return self._holding

    @contextmanager
    def opened(self, stop: threading.Event, *, on_failure: Callable[[], None]) -> Iterator[None]:
        """Open the backend, and run its data path, where it has one in this process, until the end of the block."""
        allowed_commands = AllowedCommands(folder=self._settings.extension_commands)
        backends.retire_others(self._config.backend_type, self._settings.run_dir, allowed_commands)
        # Before there are rules: the others' make way for this network, and ours for them.
        other_networks.note(self._own_network())
        self._firewall.open_to_nobody(self.holding.lease.subnets, self._planned())
        self._backend.open(self.holding.lease)
        carrier = threading.Thread(target=self._carry, args=(stop, on_failure), name="data-path", daemon=True)
        carrier.start()
        try:
            yield
        finally:
            stop.set()
            carrier.join()
            self._backend.close()
            self._firewall.close()

    def reconcile(self, *, beside: Sequence[str] = ()) -> bool:
        """Make the kernel hold what the leases say, and nothing stale of ours. What fails is reported, the rest done.

        `beside` are problems that the caller knows of, for the status.

        Whether this host's own part is whole; a peer that cannot be programmed does not count. Raises UnsupportedError.
        """
        started = time.monotonic()
        self._here.needed = host_needs.now(self._settings.etcd_endpoints)
        holding = self.holding
        lease_table = self._registry.lease_table()
        peers = self._others(lease_table)
        problems: list[str] = []
        report = Report()
        if self._carrier_problem:
            problems.append(self._carrier_problem)
        try:
            report = self._backend.apply(holding.lease, peers)
            problems.extend(report.problems)
            self._served = tuple(peer for peer in peers if peer.key_name in report.paths)
        except UnsupportedError:
            raise
        except OverlaydError as error:
            problems.append(error.message)
        rules = self._firewall.sync(holding.lease.subnets, self._served)
        problems.extend(rules.problems)
        self.written = bool(report.written) or rules.written
        if self._with_docker:
            self._docker.look(self._docker_wanted())
        problems.extend(self._beside())
        if self._published:
            try:
                self._write_files()
            except OverlaydError as error:
                problems.append(error.message)
        named = [lease for lease in peers if lease.key_name in report.paths or lease.key_name in report.peer_problems]
        if not report.paths and not report.peer_problems:
            named = peers[:PROBLEMS_AT_MOST]
        view = self._registry.view
        for problem in problems:
            if problem not in self._status_file.status.problems:
                log.error("kernel and leases are out of step", problem=problem)
        self._status_file.update(
            network=str(self._config),
            **_shown(holding.lease.v4, ""),
            **_shown(holding.lease.v6, "6"),
            reserved=holding.reserved,
            backend=self._config.backend_type,
            mtu_bytes=self._backend.mtu_bytes,
            etcd_connected=view.connected,
            etcd_problem=view.problem,
            etcd_revision=view.revision,
            firewall=rules.backend,
            docker_problems=self._docker.problems,
            peers=tuple(self._peer(lease, report, lease_table) for lease in sorted(named, key=_order)),
            peers_untold=len(peers) - len(named),
            skipped=lease_table.skipped,
            warnings=(
                *self._registry.warnings,
                *self._firewall.warnings,
                *self._look_at_unread(),
                *self._docker.warnings,
            ),
            # An administrator may have opened by hand what firewalld would not be told: no reason not to be ready.
            problems=(*problems, *beside, *([rules.firewalld_problem] if rules.firewalld_problem else [])),
        )
        RECONCILIATIONS.add(of="incomplete" if problems else "whole")
        RECONCILING.add(time.monotonic() - started)
        if not problems:
            LAST_WHOLE.set(time.time())
        return not problems

    def _look_at_unread(self) -> tuple[str, ...]:
        """What the network config says that no host reads; others may have written it since, and no more than that."""
        now = self._config
        with suppress(StoreError):
            now = self._registry.network_config()
        found = tuple(text for text, _known in unknown_keys(now if now == self._config else self._config))
        for problem in found:
            if problem not in self._unread:
                log.warning("the network config says what no host reads", problem=problem)
        self._unread = found
        return found

    def _own_network(self) -> other_networks.Network:
        return replace(
            other_networks.of_settings(self._settings),
            networks=self._config.networks,
            subnets=tuple(self.holding.lease.subnets),
            listens=self._backend.listens,
        )

    def _beside(self) -> list[str]:
        """What is wrong between this network and others of this host."""
        own = self._own_network()
        try:
            other_networks.note(own)
        except OverlaydError as error:
            return [error.message]
        return other_networks.conflicts(own, other_networks.others())

    def _others(self, lease_table: LeaseTable) -> list[Lease]:
        held = self.holding.lease
        return [
            lease
            for name, lease in lease_table.leases.items()
            # After a change of address the old lease is still in the view for a moment.
            if lease.public_ip != held.public_ip and name != held.key_name
        ]

    def _planned(self) -> list[Lease]:
        """The peers that will be served, where that follows from their leases alone; they may send already."""
        peers = self._others(self._registry.lease_table())
        if not isinstance(self._backend, Planned):
            return []
        paths = self._backend.plan(self.holding.lease, peers).paths
        return [peer for peer in peers if peer.key_name in paths]

    def publish(self) -> None:
        """Write the files that docker and others start from. Raises OverlaydError when the disk refuses.

        From then on every reconciliation keeps them as they should be.
        """
        self._write_files()
        self._published = True

    def _docker_wanted(self) -> docker_options.Wanted:
        subnets, mtu_bytes = self.holding.lease.subnets, self._backend.mtu_bytes
        return docker_options.wanted(subnets, mtu_bytes, we_masquerade=self._settings.ip_masq)

    def _write_files(self) -> None:
        lines: dict[str, object] = {}
        for family_lease in self.holding.lease.family_leases:
            prefix = "FLANNEL" if family_lease.version == 4 else "FLANNEL_IPV6"
            lines |= {
                f"{prefix}_NETWORK": self._config.network(family_lease.version),
                f"{prefix}_SUBNET": first_host(family_lease.subnet),
            }
        lines |= {"FLANNEL_MTU": self._backend.mtu_bytes, "FLANNEL_IPMASQ": str(self._settings.ip_masq).lower()}
        try:
            text = "".join(f"{key}={value}\n" for key, value in lines.items())
            write_atomically(self._settings.subnet_env, text)
            if self._with_docker:
                record = self._docker.record(self._docker_wanted())
                write_atomically(self._settings.run_dir / docker_options.RECORD, record)
                etcd_in_docker.remember(self._settings.state_dir, record)
                # Last: docker may start as soon as this is there.
                write_atomically(
                    self._settings.run_dir / docker_options.DOCKER_ENV, docker_options.env_file(self._docker.options)
                )
        except OSError as error:
            raise OverlaydError(f"cannot write the files that docker starts from: {error}") from error

    def settle_docker(self) -> None:
        """Start or restart docker where the settings allow it, else say what has to be done."""
        if self._with_docker:
            self._docker.settle()

    def reclaim(self, *, gone: bool) -> HeldLease:
        """Look after the lease: mend what etcd lost. Raises LeaseLost. While etcd is away, what we hold is held."""
        if self._registry.view.connected:
            held = self.holding
            if gone:
                held = HeldLease(lease=held.lease, etcd_lease_id=-1)
            try:
                self._holding = self._registry.reclaim(held, ttl_s=self._settings.lease_ttl_s)
            except LeaseLost:
                # What it hangs on now is another's, and not to be taken back.
                self._remember(HeldLease(lease=held.lease, etcd_lease_id=0))
                raise
            except StoreError as error:
                # It went away at this very moment; no reason to close a data path.
                log.debug("cannot look after the lease", subnet=held.lease.subnets, problem=error.message)
                return self.holding
            if self._holding is not held:
                self._remember(self._holding)
        return self.holding

    def _carry(self, stop: threading.Event, on_failure: Callable[[], None]) -> None:
        try:
            self._backend.run(stop)
        except OverlaydError as error:
            log.error("the data path ended", backend=self._config.backend_type, problem=error.message)
            self._carrier_problem = f"the data path ended: {error.message}"
            on_failure()

    def _wanted(self, subnets: Subnets) -> Lease:
        return Lease(
            v4=self._family_lease(subnets.v4) if subnets.v4 else None,
            v6=self._family_lease(subnets.v6) if subnets.v6 else None,
            backend_type=backends.published_type(self._config.backend_type),
        )

    def _family_lease(self, subnet: IPNetwork) -> FamilyLease:
        endpoint = self._underlay.endpoint(subnet.version)
        if endpoint is None:
            raise RuntimeError(f"IPv{subnet.version} is not in use")
        return FamilyLease(subnet=subnet, public_ip=endpoint.public_ip, data=self._backend.lease_data(subnet.version))

    def _peer(self, lease: Lease, report: Report, lease_table: LeaseTable) -> Peer:
        path, problem = report.paths.get(lease.key_name), report.peer_problems.get(lease.key_name)
        ours = backends.published_type(self._config.backend_type)
        due = any(self._backend.lease_data(version) is not None for version in self._config.versions)
        kinds = (ours, DEFAULT_BACKEND) if due else (DEFAULT_BACKEND,)
        silent = lease.backend_type in kinds and all(family_lease.data is None for family_lease in lease.family_leases)
        if problem and silent and lease.key_name in lease_table.reserved:
            # Kept for a host that never ran, of whose backend nothing may be said: nobody is there, nothing is wrong.
            path, problem = "reserved", None
        return Peer(
            **_shown(lease.v4, ""),
            **_shown(lease.v6, "6"),
            backend=lease.backend_type,
            path=path,
            problem=problem,
        )

    def _remember(self, holding: HeldLease) -> None:
        held = PreviousLease(subnets=holding.lease.subnets, etcd_lease_id=max(holding.etcd_lease_id, 0))
        try:
            previous_lease.remember(self._settings.state_dir, held)
        except OverlaydError as error:
            log.warning(error.message)


def _shown(family_lease: FamilyLease | None, suffix: str) -> dict[str, str | None]:
    """A leg's fields as the status has them, for this host and for peers."""
    return {
        f"subnet{suffix}": str(family_lease.subnet) if family_lease else None,
        f"public_ip{suffix}": str(family_lease.public_ip) if family_lease else None,
    }


def _order(lease: Lease) -> tuple[bool, int]:
    first = lease.family_leases[0].subnet
    return first.version == 6, int(first.network_address)
