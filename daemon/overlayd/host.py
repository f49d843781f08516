"""This host under one network config: its lease, backend, rules and files, and keeping them as they should be."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Interface, IPv4Network

from overlayd import backends, docker, firewall
from overlayd.errors import ConfigError, NetworkConfigError, OverlaydError, UnsupportedError
from overlayd.files import write_atomically
from overlayd.kernel import interfaces
from overlayd.lease import Lease
from overlayd.log import logger
from overlayd.network import NetworkConfig
from overlayd.registry import Holding, Registry
from overlayd.settings import Settings
from overlayd.status import Board, Peer
from overlayd.underlay import Underlay

log = logger("host")

LEASE_FILE = "lease.json"
DOCKER_ENV = "docker.env"


def load_backend(config: NetworkConfig, underlay: Underlay) -> backends.Backend:
    """The backend that a network config asks for. Raises NetworkConfigError: whoever wrote the config can mend it."""
    try:
        return backends.load(config.backend_type).from_config(
            config.backend_config, network=config.network, underlay=underlay
        )
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
        self._backend = load_backend(config, underlay)
        self._holding: Holding | None = None
        self._docker_problems: tuple[str, ...] = ()
        self._bridge_problem: str | None = None

    @property
    def holding(self) -> Holding:
        """The lease, once acquired."""
        if self._holding is None:
            raise RuntimeError("no lease acquired yet")
        return self._holding

    def acquire(self) -> Holding:
        """Hold a subnet, the same as before wherever nobody else has it. Raises StoreError, SubnetsExhausted."""
        self._holding = self._registry.acquire(
            self._config, self._wanted, preferred=self._previous_subnet(), ttl_s=self._settings.lease_ttl_s
        )
        self._remember()
        log.info("lease held", subnet=self._holding.lease.subnet, reserved=self._holding.reserved)
        return self._holding

    @contextmanager
    def opened(self, stop: threading.Event, *, on_failure: Callable[[], None]) -> Iterator[None]:
        """Open the backend, and run its data path, where it has one in this process, until the end of the block."""
        self._backend.open(self.holding.lease)
        carrier = threading.Thread(target=self._carry, args=(stop, on_failure), name="data-path", daemon=True)
        carrier.start()
        try:
            yield
        finally:
            stop.set()
            carrier.join()
            self._backend.close()

    def reconcile(self) -> bool:
        """Make the kernel hold what the leases say, and nothing stale of ours. What fails is reported, the rest done.

        Whether this host's own part is whole; a peer that cannot be programmed does not count. Raises UnsupportedError.
        """
        holding = self.holding
        census = self._registry.census()
        peers = [lease for lease in census.leases.values() if lease.public_ip != holding.lease.public_ip]
        problems: list[str] = []
        refused: dict[IPv4Network, str] = {}
        try:
            report = self._backend.apply(holding.lease, peers)
            refused = dict(report.peer_problems)
            problems.extend(report.problems)
        except UnsupportedError:
            raise
        except OverlaydError as error:
            problems.append(error.message)
        rules = self._sync_firewall(problems)
        self._look_at_docker()
        view = self._registry.view
        for problem in problems:
            if problem not in self._board.status.problems:
                log.error("kernel and leases are out of step", problem=problem)
        self._board.update(
            network=str(self._config.network),
            subnet=str(holding.lease.subnet),
            reserved=holding.reserved,
            backend=self._config.backend_type,
            mtu_bytes=self._backend.mtu_bytes,
            etcd_connected=view.connected,
            etcd_problem=view.problem,
            etcd_revision=view.revision,
            firewall=rules,
            docker_problems=self._docker_problems + ((self._bridge_problem,) if self._bridge_problem else ()),
            peers=tuple(_peer(lease, refused) for lease in sorted(peers, key=lambda lease: lease.subnet)),
            skipped=tuple(sorted(census.malformed.items())),
            problems=tuple(problems),
        )
        return not problems

    def publish(self) -> None:
        """Write the files that docker and others start from. Raises OverlaydError when the disk refuses."""
        subnet, network = self.holding.lease.subnet, self._config.network
        want = docker.wanted(subnet, self._backend.mtu_bytes, we_masquerade=self._settings.ip_masq)
        daemon_json, problems = docker.read_daemon_json()
        options, conflicts = docker.flags(want, daemon_json)
        self._docker_problems = (*problems, *conflicts)
        for problem in self._docker_problems:
            log.error("docker is configured against the lease", problem=problem)
        lines = {
            "FLANNEL_NETWORK": network,
            "FLANNEL_SUBNET": want.bip,
            "FLANNEL_MTU": self._backend.mtu_bytes,
            "FLANNEL_IPMASQ": str(self._settings.ip_masq).lower(),
        }
        try:
            text = "".join(f"{key}={value}\n" for key, value in lines.items())
            write_atomically(self._settings.subnet_env, text)
            # Last: docker may start as soon as this is there.
            write_atomically(self._settings.run_dir / DOCKER_ENV, docker.env_file(options))
        except OSError as error:
            raise OverlaydError(f"cannot write the files that docker starts from: {error}") from error

    def settle_docker(self) -> None:
        """Start or restart docker where that is safe, else say what has to be done."""
        docker.settle(self._bridge_problem, may_restart=self._settings.docker_restart == "idle")

    def reclaim(self, *, gone: bool) -> Holding:
        """Look after the lease: mend what etcd lost. Raises LeaseLost. While etcd is away, what we hold is held."""
        if self._registry.view.connected:
            held = self.holding
            if gone:
                held = Holding(lease=held.lease, etcd_lease_id=-1)
            self._holding = self._registry.reclaim(held, ttl_s=self._settings.lease_ttl_s)
        return self.holding

    def _carry(self, stop: threading.Event, on_failure: Callable[[], None]) -> None:
        try:
            self._backend.run(stop)
        except OverlaydError as error:
            log.error("the data path ended", backend=self._config.backend_type, problem=error.message)
            on_failure()

    def _wanted(self, subnet: IPv4Network) -> Lease:
        return Lease(
            subnet=subnet,
            public_ip=self._underlay.public_ip,
            backend_type=self._config.backend_type,
            backend_data=self._backend.lease_data(),
        )

    def _sync_firewall(self, problems: list[str]) -> str | None:
        if not self._settings.firewall:
            return None
        rules = firewall.desired(
            network=self._config.network,
            subnet=self.holding.lease.subnet,
            devices=self._backend.devices,
            masquerade=self._settings.ip_masq,
        )
        try:
            if firewall.sync(rules):
                log.info("firewall rules written")
        except OverlaydError as error:
            problems.append(error.message)
        return "iptables"

    def _look_at_docker(self) -> None:
        addresses = interfaces.interface_addresses(docker.BRIDGE)
        problem = docker.bridge_problem(self.holding.lease.subnet, addresses)
        if problem and problem != self._bridge_problem:
            log.warning("docker is not on the leased subnet", problem=problem)
        self._bridge_problem = problem

    def _previous_subnet(self) -> IPv4Network | None:
        """The subnet of the last run: our own record, which outlives a reboot, else the subnet.env of this boot."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return IPv4Network(json.loads((self._settings.state_dir / LEASE_FILE).read_text())["subnet"])
        with contextlib.suppress(OSError, ValueError):
            lines = self._settings.subnet_env.read_text().splitlines()
            found = dict(line.partition("=")[::2] for line in lines).get("FLANNEL_SUBNET", "")
            return IPv4Interface(found).network
        return None

    def _remember(self) -> None:
        text = json.dumps({"network": str(self._config.network), "subnet": str(self.holding.lease.subnet)})
        try:
            write_atomically(self._settings.state_dir / LEASE_FILE, f"{text}\n")
        except OSError as error:
            log.warning("cannot remember the subnet for the next boot", problem=error)


def _peer(lease: Lease, refused: dict[IPv4Network, str]) -> Peer:
    return Peer(
        subnet=str(lease.subnet),
        public_ip=str(lease.public_ip),
        backend=lease.backend_type,
        problem=refused.get(lease.subnet),
    )
