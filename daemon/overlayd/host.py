"""This host under one network config: its lease, backend, rules and files, and keeping them as they should be."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from overlayd import backends, docker, firewall, firewalld, memory
from overlayd.addresses import IPAddress, IPNetwork, first_host, ip_network
from overlayd.backends.surroundings import Surroundings
from overlayd.docker_watch import DockerWatch
from overlayd.errors import ConfigError, NetworkConfigError, OverlaydError, StoreError, UnsupportedError
from overlayd.files import write_atomically
from overlayd.kernel import interfaces, netlink
from overlayd.kernel.converge import Report
from overlayd.lease import Lease, Leg, Subnets
from overlayd.log import logger
from overlayd.network import NetworkConfig
from overlayd.registry import Census, Holding, Registry, Remembered
from overlayd.settings import Settings
from overlayd.status import Board, Peer
from overlayd.underlay import Underlay
from overlayd.watching.figures import counter, gauge

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
FIREWALL_WRITES = counter("overlayd_firewall_writes_total", "Times that firewall rules were not as they should be.")

DOCKER_ENV = "docker.env"


def load_backend(
    config: NetworkConfig,
    underlay: Underlay,
    *,
    blackhole: bool = False,
    run_dir: Path = Path("/run/overlayd"),
    state_dir: Path | None = None,
) -> backends.Backend:
    """The backend that a network config asks for. Raises NetworkConfigError: whoever wrote the config can mend it."""
    around = Surroundings(network=config, underlay=underlay, blackhole=blackhole, run_dir=run_dir, state_dir=state_dir)
    try:
        return backends.load(config.backend_type).from_config(config.backend_config, around)
    except ConfigError as error:
        raise NetworkConfigError(error.message, hint=error.hint) from error


class Host:
    """One host in one network. Methods are called in the order in which they stand here, all in one thread."""

    def __init__(
        self, settings: Settings, underlay: Underlay, registry: Registry, board: Board, config: NetworkConfig
    ) -> None:
        """Check the config against this host: NetworkConfigError, UnsupportedError. Changes nothing."""
        self._settings = settings
        self._registry = registry
        self._board = board
        self._config = config
        self._underlay = underlay
        self._backend = load_backend(
            config,
            underlay,
            blackhole=settings.ip_blackhole_route,
            run_dir=settings.run_dir,
            state_dir=settings.state_dir,
        )
        self._firewall = firewall.Firewall(settings.firewall, prefer_nftables=config.nftables)
        self._firewalld = firewalld.Firewalld(enabled=settings.firewall != "none")
        self._holding: Holding | None = None
        self._docker = DockerWatch(
            restart=settings.docker_restart,
            lasting_s=settings.resync_s,
            firewalled=settings.firewall != "none",
        )
        # The peers that are programmed; None before the first look.
        self._served: tuple[Lease, ...] | None = None
        self._open_ways: set[str] = set()
        self._left_open: tuple[str, ...] = ()
        self._published = False
        self._carrier_problem: str | None = None

    @property
    def public_ip(self) -> IPAddress:
        """The address that peers know this host by: of the first family that the network uses."""
        return self._leg(self._config.networks[0]).public_ip

    @property
    def holding(self) -> Holding:
        """The lease, once acquired."""
        if self._holding is None:
            raise RuntimeError("no lease acquired yet")
        return self._holding

    def acquire(self) -> Holding:
        """Hold subnets, the same as before wherever nobody else has them. Raises StoreError, SubnetsExhausted."""
        self._holding = self._registry.acquire(
            self._config,
            self._wanted,
            public_ip=self.public_ip,
            remembered=memory.recall(self._settings.state_dir, self._settings.subnet_env),
            ttl_s=self._settings.lease_ttl_s,
            # A bridge on a subnet that holds the underlay's own address would cut this host off.
            avoid=[ip_network(endpoint.address) for endpoint in self._underlay.endpoints],
        )
        self._remember()
        log.info("lease held", subnet=self._holding.lease.subnets, reserved=self._holding.reserved)
        return self._holding

    @contextmanager
    def opened(self, stop: threading.Event, *, on_failure: Callable[[], None]) -> Iterator[None]:
        """Open the backend, and run its data path, where it has one in this process, until the end of the block."""
        backends.retire_others(self._config.backend_type, self._settings.run_dir)
        self._close_forwarding()
        self._backend.open(self.holding.lease)
        carrier = threading.Thread(target=self._carry, args=(stop, on_failure), name="data-path", daemon=True)
        carrier.start()
        try:
            yield
        finally:
            stop.set()
            carrier.join()
            self._backend.close()
            self._firewalld.close()

    def reconcile(self, *, beside: Sequence[str] = ()) -> bool:
        """Make the kernel hold what the leases say, and nothing stale of ours. What fails is reported, the rest done.

        `beside` are problems that the caller knows of, for the status.

        Whether this host's own part is whole; a peer that cannot be programmed does not count. Raises UnsupportedError.
        """
        started = time.monotonic()
        holding = self.holding
        census = self._registry.census()
        peers = [
            lease
            for name, lease in census.leases.items()
            # After a change of address the old lease is still in the view for a moment.
            if lease.public_ip != holding.lease.public_ip and name != holding.lease.key_name
        ]
        problems: list[str] = []
        report = Report()
        if self._carrier_problem:
            problems.append(self._carrier_problem)
        if self._served is None:
            # Strangers are kept out before the way in is open; whom the backend refuses is not known yet.
            self._served = tuple(peers)
            self._sync_firewall([])
        try:
            report = self._backend.apply(holding.lease, peers)
            problems.extend(report.problems)
            self._served = tuple(peer for peer in peers if peer.key_name in report.paths)
        except UnsupportedError:
            raise
        except OverlaydError as error:
            problems.append(error.message)
        told = self._tell_firewalld()
        rules = self._sync_firewall(problems)
        self._docker.look(self._docker_wanted())
        if self._published:
            try:
                self._write_files()
            except OverlaydError as error:
                problems.append(error.message)
        view = self._registry.view
        for problem in problems:
            if problem not in self._board.status.problems:
                log.error("kernel and leases are out of step", problem=problem)
        self._board.update(
            network=str(self._config),
            **_shown(holding.lease.v4, ""),
            **_shown(holding.lease.v6, "6"),
            reserved=holding.reserved,
            backend=self._config.backend_type,
            mtu_bytes=self._backend.mtu_bytes,
            etcd_connected=view.connected,
            etcd_problem=view.problem,
            etcd_revision=view.revision,
            firewall=rules,
            docker_problems=self._docker.problems,
            peers=tuple(self._peer(lease, report, census) for lease in sorted(peers, key=_order)),
            skipped=census.skipped,
            # An administrator may have opened by hand what firewalld would not be told: no reason not to be ready.
            warnings=(*self._registry.warnings, *self._warnings()),
            problems=(*problems, *beside, *([told.problem] if told.problem else [])),
        )
        RECONCILIATIONS.add(of="incomplete" if problems else "whole")
        RECONCILING.add(time.monotonic() - started)
        if not problems:
            LAST_WHOLE.set(time.time())
        return not problems

    def publish(self) -> None:
        """Write the files that docker and others start from. Raises OverlaydError when the disk refuses.

        From then on every reconciliation keeps them as they should be.
        """
        self._write_files()
        self._published = True

    def _docker_wanted(self) -> docker.Wanted:
        subnets, mtu_bytes = self.holding.lease.subnets, self._backend.mtu_bytes
        return docker.wanted(subnets, mtu_bytes, we_masquerade=self._settings.ip_masq)

    def _write_files(self) -> None:
        lines: dict[str, object] = {}
        for leg in self.holding.lease.legs:
            prefix = "FLANNEL" if leg.version == 4 else "FLANNEL_IPV6"
            lines |= {
                f"{prefix}_NETWORK": self._config.network(leg.version),
                f"{prefix}_SUBNET": first_host(leg.subnet),
            }
        lines |= {"FLANNEL_MTU": self._backend.mtu_bytes, "FLANNEL_IPMASQ": str(self._settings.ip_masq).lower()}
        try:
            text = "".join(f"{key}={value}\n" for key, value in lines.items())
            write_atomically(self._settings.subnet_env, text)
            # Last: docker may start as soon as this is there.
            write_atomically(self._settings.run_dir / DOCKER_ENV, docker.env_file(self._docker.options))
        except OSError as error:
            raise OverlaydError(f"cannot write the files that docker starts from: {error}") from error

    def settle_docker(self) -> None:
        """Start or restart docker where the settings allow it, else say what has to be done."""
        self._docker.settle()

    def reclaim(self, *, gone: bool) -> Holding:
        """Look after the lease: mend what etcd lost. Raises LeaseLost. While etcd is away, what we hold is held."""
        if self._registry.view.connected:
            held = self.holding
            if gone:
                held = Holding(lease=held.lease, etcd_lease_id=-1)
            try:
                self._holding = self._registry.reclaim(held, ttl_s=self._settings.lease_ttl_s)
            except StoreError as error:
                # It went away at this very moment; no reason to close a data path.
                log.debug("cannot look after the lease", subnet=held.lease.subnets, problem=error.message)
                return self.holding
            if self._holding is not held:
                self._remember()
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
            **{f"v{subnet.version}": self._leg(subnet) for subnet in subnets},
            backend_type=backends.published_type(self._config.backend_type),
        )

    def _leg(self, subnet: IPNetwork) -> Leg:
        endpoint = self._underlay.endpoint(subnet.version)
        if endpoint is None:
            raise RuntimeError(f"IPv{subnet.version} is not in use")
        return Leg(subnet=subnet, public_ip=endpoint.public_ip, data=self._backend.lease_data(subnet.version))

    def _overlays(self) -> list[firewall.Overlay]:
        return [
            firewall.Overlay(network=network, subnet=subnet)
            for network, subnet in zip(self._config.networks, self.holding.lease.subnets, strict=True)
        ]

    def _peer_addresses(self) -> frozenset[IPAddress]:
        return frozenset(leg.public_ip for peer in self._served or () for leg in peer.legs)

    def _is_direct(self) -> bool:
        """Whether peers' packets come by the underlay's interface as they are."""
        return self._underlay.ifname in self._backend.devices

    def _close_forwarding(self) -> None:
        """Before forwarding is turned on (Surroundings.base): what Docker would have closed then, is closed."""
        told = docker.read_daemon_json()[0]
        for version in sorted({4, *self._config.versions}):
            if not netlink.forwards(version) and firewall.docker_closes_forwarding(told, version):
                open_way = self._firewall.close_forwarding(version)
                if open_way is not None:
                    log.warning("this host forwards for everybody", reason=open_way)
                    self._open_ways.add(open_way)

    def _warnings(self) -> tuple[str, ...]:
        """What is open to others on this host, though packets go."""
        return (*sorted(self._open_ways), *self._left_open)

    def _tell_firewalld(self) -> firewalld.Report:
        return self._firewalld.sync(
            firewalld.desired(
                overlays=self._overlays(),
                listens=self._backend.listens,
                peers=self._peer_addresses(),
                trusted=self._settings.trusted_networks,
            )
        )

    def _sync_firewall(self, problems: list[str]) -> str | None:
        wanted = firewall.desired(
            overlays=self._overlays(),
            devices=self._backend.devices,
            masquerade=self._settings.ip_masq,
            forward=self._settings.iptables_forward_rules,
            daemon_json=docker.read_daemon_json()[0],
            listens=self._backend.listens,
            peers=self._peer_addresses(),
            leased=[leg.subnet for peer in self._served or () for leg in peer.legs],
            other_bridges=[name for name in interfaces.container_bridges() if name != self._underlay.ifname],
            routers=interfaces.router_macs(self._underlay.ifname, self._peer_addresses()) if self._is_direct() else (),
            trusted=self._settings.trusted_networks,
        )
        report = self._firewall.sync(wanted)
        if report.written:
            FIREWALL_WRITES.add()
            log.info("firewall rules written", backend=report.backend)
        problems.extend(report.problems)
        self._left_open = (*firewall.left_open(wanted, report.backend), *report.limits)
        return report.backend

    def _peer(self, lease: Lease, report: Report, census: Census) -> Peer:
        path, problem = report.paths.get(lease.key_name), report.peer_problems.get(lease.key_name)
        ours = backends.published_type(self._config.backend_type)
        due = any(self._backend.lease_data(version) is not None for version in self._config.versions)
        silent = lease.backend_type == ours and due and all(leg.data is None for leg in lease.legs)
        if problem and silent and lease.key_name in census.reserved:
            # Kept for a host that never ran: nothing is wrong, and nobody is there.
            path, problem = "reserved", None
        return Peer(
            **_shown(lease.v4, ""),
            **_shown(lease.v6, "6"),
            backend=lease.backend_type,
            path=path,
            problem=problem,
        )

    def _remember(self) -> None:
        holding = self.holding
        held = Remembered(subnets=holding.lease.subnets, etcd_lease_id=max(holding.etcd_lease_id, 0))
        try:
            memory.remember(self._settings.state_dir, held)
        except OverlaydError as error:
            log.warning(error.message)


def _shown(leg: Leg | None, suffix: str) -> dict[str, str | None]:
    """A leg's fields as the status has them, for this host and for peers."""
    return {
        f"subnet{suffix}": str(leg.subnet) if leg else None,
        f"public_ip{suffix}": str(leg.public_ip) if leg else None,
    }


def _order(lease: Lease) -> tuple[bool, int]:
    first = lease.legs[0].subnet
    return first.version == 6, int(first.network_address)
