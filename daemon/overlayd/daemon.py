"""The story of the daemon, in the order in which it happens.

First it reads and checks, and changes nothing on the host: that is above *the line* in `run`. Below the line it takes
the host's lock and follows etcd. For each network config in turn it acquires a lease, opens the backend, writes the
files, reports ready, and keeps kernel and etcd as they should be, until a signal stops it. Stopping leaves the data
path in place.
"""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from overlayd import __version__
from overlayd.docker.etcd_in_docker import EarlyDockerStart
from overlayd.errors import (
    AddressTaken,
    CommandFailed,
    KernelRefused,
    LeaseLost,
    NetworkConfigError,
    OverlaydError,
    StoreError,
    SubnetsExhausted,
    UnsupportedError,
)
from overlayd.host import other_networks
from overlayd.host.host import Host
from overlayd.host.pacing import Pacing
from overlayd.host.served_config import CONFIG_ERRORS, ServedConfig
from overlayd.kernel import selinux
from overlayd.kernel.monitor import Monitor
from overlayd.leases import presence
from overlayd.leases.keys import Keys
from overlayd.leases.network_config import NetworkConfig
from overlayd.leases.presence import Presence
from overlayd.leases.registry import Registry
from overlayd.leases.renewal import LeaseRenewal
from overlayd.lib import hostlock, signals, slim_imports
from overlayd.lib.addresses import IPAddress
from overlayd.lib.counters import counter
from overlayd.lib.log import logger
from overlayd.lib.notify import notify
from overlayd.lib.ownership import require_folder, require_ours
from overlayd.lib.periodic import all_at_once
from overlayd.monitoring.http import MonitoringPort, daemon_endpoints, monitoring_port
from overlayd.monitoring.liveness import LEAST_SLACK_S, Liveness
from overlayd.monitoring.status_file import Status, StatusFile, begun_at
from overlayd.probe.monitor import ReachabilityMonitor
from overlayd.settings import Settings
from overlayd.store.client import Store
from overlayd.underlay.choose import Underlay
from overlayd.underlay.watch import UnderlayWatch, addresses, choose_underlay

log = logger("daemon")

LEASES_LOST = counter("overlayd_leases_lost_total", "Times that another host had this host's subnet.")

FIRST_RETRY_S = 1.0
LAST_RETRY_S = 5.0


def run(settings: Settings) -> None:
    """Be the daemon until SIGTERM or SIGINT. Raises what only a person can solve (ConfigError, UnsupportedError …)."""
    selinux.keep_context()
    underlay = choose_underlay(settings)
    store = Store.of(settings)
    with (
        monitoring_port(settings.healthz_ip, settings.healthz_port) as port,
        # ---- the line: above, nothing on the host changes; below, everything may ----
        hostlock.hold(),
    ):
        other_networks.require_own_folders(settings)
        _prepare_folders(settings)
        Daemon(settings, underlay, store, port).run()


def _prepare_folders(settings: Settings) -> None:
    """Make the folders that are written to. Raises ConfigError where others could redirect what is written."""
    require_folder(settings.run_dir, "run-dir")
    require_folder(settings.state_dir, "state-dir", mode=0o700)
    require_ours(settings.subnet_env.parent, "the folder of subnet-file")


class Daemon:
    """The daemon below the line. An instance runs once."""

    def __init__(
        self,
        settings: Settings,
        underlay: Underlay,
        store: Store,
        port: MonitoringPort,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` and `wall_clock` are in seconds; the latter since the epoch."""
        self._settings = settings
        self._store = store
        self._port = port
        self._clock = clock
        self._wall_clock = wall_clock
        self._bug: BaseException | None = None
        self._liveness = Liveness(slack_s=max(LEAST_SLACK_S, 3 * settings.resync_s), clock=clock)
        self._pacing = Pacing(self._liveness, clock=clock)
        self._monitor = monitor = Monitor(self._pacing.wake)
        self._underlay = UnderlayWatch(settings, underlay, self._pacing.pause, lambda: monitor.interfaces().all)
        self._keys = Keys(settings.etcd_prefix)
        self._registry = Registry(store, self._keys, self._pacing.wake)
        self._renewal = LeaseRenewal(
            self._registry.refresh,
            self._pacing.wake,
            ttl_s=settings.lease_ttl_s,
            margin_s=settings.subnet_lease_renew_margin * 60,
            liveness=self._liveness,
        )
        self._docker_first = EarlyDockerStart(settings)
        self._presence: Presence | None = None
        self._status_file = StatusFile(
            settings.run_dir,
            Status(
                state="starting",
                pid=os.getpid(),
                version=__version__,
                started_at_s=wall_clock(),
                pid_begun=begun_at(),
                watched_at=port.where,
                etcd_endpoints=settings.etcd_endpoints,
                network_number=settings.network_number,
                **addresses(underlay),
            ),
        )
        self._config = ServedConfig(settings, self._registry, self._underlay, self._status_file)
        self._reachability = ReachabilityMonitor(
            settings, store, self._status_file, self._pacing.wake, lambda: monitor.interfaces().addresses
        )

    def run(self) -> None:
        """Serve one network config after another until a signal comes. OverlaydError when a thread of ours died."""
        self._status_file.update()
        with self._signals(), self._threads():
            retry_s = FIRST_RETRY_S
            config: NetworkConfig | None = None
            while not self._pacing.stopping:
                try:
                    # At first, etcd gets a moment to answer before that counts as a problem.
                    self._pacing.until_answered(self._etcd_answered)
                    config = self._config.choose()
                    self._serve(config)
                    retry_s = FIRST_RETRY_S
                except LeaseLost as error:
                    self._report_loss(error)
                    self._pacing.after_loss()
                except (UnsupportedError, KernelRefused) as error:
                    # A host that serves a config that works goes on with that one. Where there is none yet, the daemon
                    # waits: another config may be written.
                    if config is None or self._config.served in (None, config):
                        self._wait(error, retry_s)
                        retry_s = min(retry_s * 2, LAST_RETRY_S)
                    else:
                        # For instance another program has the port. To try again would interrupt the config that works.
                        self._config.refuse(config, error.message)
                except (StoreError, AddressTaken, SubnetsExhausted, CommandFailed) as error:
                    self._wait(error, retry_s)
                    retry_s = min(retry_s * 2, LAST_RETRY_S)
        if self._bug is not None:
            raise OverlaydError(
                f"a bug in overlayd ended one of its threads: {self._bug!r}; the data path stays as it is"
            )
        self._status_file.update(state="stopped", problem=None)
        log.info("stopped; the data path stays as it is")

    def _serve(self, config: NetworkConfig) -> None:
        """Hold a lease under `config` and keep all in step, until config or underlay change, or a signal comes."""
        underlay = self._read_underlay(config)
        host = Host(
            self._settings,
            underlay,
            self._registry,
            self._status_file,
            config,
            watch=self._monitor,
            clock=self._clock,
            wall_clock=self._wall_clock,
        )
        self._claim_address(host.own_lease.public_ip)
        self._renewal.keep(host.own_lease.acquire())
        with host.opened(on_failure=self._pacing.wake):
            ready = False
            while True:
                self._status_file.update(lease_problem=self._renewal.problem)
                complete = host.reconcile(other_problems=self._other_problems())
                if complete and not ready:
                    # Docker starts from these files, so they are written only once packets can flow.
                    host.publish()
                    self._report_ready(host, config)
                    ready = True
                    # Parts that docker does not wait for are next.
                    self._pacing.wake()
                    self._config.served = config
                if ready:
                    host.settle_docker()
                    self._measure_reachability(changed=host.changed)
                if not self._pacing.until_due(self._settings.resync_s) or not self._config.goes_on(config):
                    return
                if self._read_underlay(config) != underlay:
                    return
                self._renewal.keep(host.own_lease.reclaim(gone=self._renewal.gone))

    def _etcd_answered(self) -> bool:
        view = self._registry.view
        return bool(view.revision or view.problem)

    def _claim_address(self, address: IPAddress) -> None:
        """Claim the address that is published. Raises AddressTaken, StoreError."""
        if self._presence is not None and self._presence.address == address:
            return
        self._release_address()
        claim = Presence(self._store, self._keys, address, presence.this_host())
        claim.claim()
        self._presence = claim

    def _release_address(self) -> None:
        if self._presence is not None:
            self._presence.release()
            self._presence = None

    def _read_underlay(self, config: NetworkConfig) -> Underlay:
        """The underlay as it is now, as far as the network uses it."""
        # An address that the network does not use is none of the lease's: the status would have it and lack it in turn.
        now = self._underlay.look(config.versions).only(config.versions)
        self._status_file.update(**addresses(now))
        return now

    def _other_problems(self) -> tuple[str, ...]:
        """Problems outside the parts of the host: with the underlay, the published address, healthz-port."""
        found = (self._underlay.problem, self._presence.problem if self._presence else None, self._port.retry())
        self._status_file.update(watched_at=self._port.where)
        return tuple(problem for problem in found if problem)

    def _measure_reachability(self, *, changed: bool) -> None:
        """Send echoes to peers' containers, and publish the address of the container here that answers theirs."""
        containers = self._reachability.look(changed=changed)
        if self._presence is not None:
            self._presence.containers = containers

    def _report_ready(self, host: Host, config: NetworkConfig) -> None:
        subnet, peers = host.own_lease.held.lease.subnets, len(self._status_file.status.peers)
        self._status_file.update(state="ready", problem=None)
        notify(ready=True, status=f"{subnet} of {config} by {config.backend_type}")
        slim_imports.give_back()
        log.info("ready", subnet=subnet, backend=config.backend_type, peers=peers)

    def _report_loss(self, error: LeaseLost) -> None:
        log.error("LEASE LOST", problem=error.message, hint=error.hint)
        LEASES_LOST.add()
        self._renewal.keep(None)
        self._status_file.update(state="waiting", problem=error.message, lease_problem=error.message)

    def _wait(self, error: OverlaydError, retry_s: float) -> None:
        """Report what the daemon waits for, and wait before it tries again."""
        view = self._registry.view
        docker = None if view.revision else self._docker_first.look()
        problem = f"{error.message}; {docker}" if docker else error.message
        if self._status_file.status.problem != problem:
            log.warning("waiting", problem=problem, hint=error.hint)
            if isinstance(error, NetworkConfigError):
                CONFIG_ERRORS.add()
        self._status_file.update(
            state="waiting",
            problem=problem,
            lease_problem=self._renewal.problem,
            etcd_connected=view.connected,
            etcd_problem=view.problem,
            etcd_revision=view.revision,
        )
        notify(status=f"waiting: {problem}")
        self._pacing.before_retry(retry_s)

    def _thread_died(self, died: threading.ExceptHookArgs) -> None:
        """End the whole daemon, so that systemd starts it again: one that lacks a thread would look healthy."""
        self._bug = died.exc_value
        traceback.print_exception(died.exc_value)
        self._pacing.stop()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        with signals.calling(self._pacing.stop):
            try:
                yield
            finally:
                notify(stopping=True)

    @contextmanager
    def _threads(self) -> Iterator[None]:
        """Run the other threads: they follow kernel and etcd, renew the lease, send echoes, serve endpoints."""
        threading.excepthook = self._thread_died
        self._monitor.start()
        self._registry.start()
        self._renewal.start()
        self._reachability.start()
        self._port.start(daemon_endpoints(self._status_file, self._liveness))
        try:
            yield
        finally:
            # Each waits for its call to etcd, which takes seconds where etcd hangs. systemd waits 20 s for all of them.
            all_at_once(self._release_address, self._reachability.stop, self._renewal.stop, self._registry.stop)
            self._store.close()
            self._monitor.stop()
