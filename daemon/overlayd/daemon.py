"""The daemon's one story.

Read and check; then the line: above it nothing on the host changes. Below it: hold the host's lock, follow etcd, and
for each network config that comes, hold a lease, open its backend, write the files, say ready, and keep kernel and
etcd as they should be until told to stop. Stopping leaves the data path in place.
"""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from overlayd import __version__, backends
from overlayd.docker.etcd_in_docker import EarlyDockerStart
from overlayd.errors import (
    AddressTaken,
    CommandFailed,
    KernelRefused,
    LeaseLost,
    NetworkConfigError,
    OverlaydError,
    PrivilegeError,
    StoreError,
    SubnetsExhausted,
    UnsupportedError,
)
from overlayd.host import other_networks
from overlayd.host.backend import backend_here
from overlayd.host.host import Host
from overlayd.kernel.monitor import Monitor
from overlayd.leases import presence
from overlayd.leases.conflicts import CurrentNeeds
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
from overlayd.lib.periodic import jittered
from overlayd.monitoring.http import Watch, daemon_pages, listening
from overlayd.monitoring.liveness import LEAST_SLACK_S, Liveness
from overlayd.monitoring.status_file import Status, StatusFile, begun_at
from overlayd.probe.monitor import ReachabilityMonitor
from overlayd.settings import Settings
from overlayd.store.client import Store
from overlayd.underlay import host_needs
from overlayd.underlay.choose import Underlay
from overlayd.underlay.watch import UnderlayWatch, addresses, choose_underlay

log = logger("daemon")

CONFIG_ERRORS = counter(
    "overlayd_network_config_errors_total", "Times that the network config in etcd was found missing or wrong."
)
LEASES_LOST = counter("overlayd_leases_lost_total", "Times that another host had this host's subnet.")

MAIN_LOOP = "main loop"
FIRST_ANSWER_S = 5.0
FIRST_RETRY_S = 1.0
LAST_RETRY_S = 5.0
# Netlink and etcd speak in bursts; this long a breath makes one reconciliation of each. On a host whose neighbours come
# and go all the time, there are no more than two a second.
SETTLE_S = 0.1
LEAST_INTERVAL_S = 0.5
# So many subnets may be lost within an hour before a pause is made.
FREE_LOSSES, LOSSES_WITHIN_S, FIRST_LOSS_REST_S, LONGEST_LOSS_REST_S = 3, 3600.0, 10.0, 600.0
# So many times as long as a round took of the processor, there is no other one.
REST = 3
LONGEST_REST_S = 15.0


def loss_rest_s(losses: int) -> float:
    """How long to wait after so many subnets that were lost within an hour. Pure."""
    more = losses - FREE_LOSSES
    return 0.0 if more <= 0 else min(LONGEST_LOSS_REST_S, FIRST_LOSS_REST_S * 2.0 ** (more - 1))


def run(settings: Settings) -> None:
    """Be the daemon until SIGTERM or SIGINT. Raises what only a person can mend (ConfigError, UnsupportedError …)."""
    if os.geteuid() != 0:
        raise PrivilegeError("overlayd run changes the host's network", hint="run it as root")
    underlay = choose_underlay(settings)
    store = Store.of(settings)
    with (
        listening(settings.healthz_ip, settings.healthz_port) as watch,
        # ---- the line: above, nothing on the host changes; below, everything may ----
        hostlock.hold(),
    ):
        other_networks.require_own_folders(settings)
        _prepare_folders(settings)
        Daemon(settings, underlay, store, watch).run()


def _prepare_folders(settings: Settings) -> None:
    """Make the folders that are written to. Raises ConfigError where others could redirect what is written."""
    require_folder(settings.run_dir, "run-dir")
    require_folder(settings.state_dir, "state-dir", mode=0o700)
    require_ours(settings.subnet_env.parent, "the folder of subnet-file")


class Daemon:
    """The story below the line. One use."""

    def __init__(self, settings: Settings, underlay: Underlay, store: Store, watch: Watch) -> None:
        self._settings = settings
        self._underlay = UnderlayWatch(settings, underlay)
        self._store = store
        self._watch = watch
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._bug: BaseException | None = None
        # What this thread had used of the processor when the round began.
        self._cpu_s = 0.0
        self._losses: list[float] = []
        self._keys = Keys(settings.etcd_prefix)
        self._registry = Registry(store, self._keys, self._wake.set)
        self._liveness = Liveness(slack_s=max(LEAST_SLACK_S, 3 * settings.resync_s))
        self._renewal = LeaseRenewal(
            self._registry.refresh,
            self._wake.set,
            ttl_s=settings.lease_ttl_s,
            margin_s=settings.subnet_lease_renew_margin * 60,
            liveness=self._liveness,
        )
        self._docker_first = EarlyDockerStart(settings)
        self._presence: Presence | None = None
        self._served: NetworkConfig | None = None
        self._refused: tuple[NetworkConfig, str] | None = None
        self._status_file = StatusFile(
            settings.run_dir,
            Status(
                state="starting",
                pid=os.getpid(),
                version=__version__,
                started_at_s=time.time(),
                pid_begun=begun_at(),
                watched_at=watch.where,
                etcd_endpoints=settings.etcd_endpoints,
                network_number=settings.network_number,
                **addresses(underlay),
            ),
        )
        self._measuring = ReachabilityMonitor(settings, store, self._status_file, self._wake.set)

    def run(self) -> None:
        """Serve one network config after another until told to stop. OverlaydError when a thread of ours died."""
        self._status_file.update()
        with self._signals(), self._following():
            retry_s = FIRST_RETRY_S
            config: NetworkConfig | None = None
            while not self._stopping.is_set():
                try:
                    config = self._network_config()
                    self._serve(config)
                    retry_s = FIRST_RETRY_S
                except LeaseLost as error:
                    log.error("LEASE LOST", problem=error.message, hint=error.hint)
                    LEASES_LOST.add()
                    self._renewal.keep(None)
                    self._status_file.update(state="waiting", problem=error.message, lease_problem=error.message)
                    self._rest_after_loss()
                except (UnsupportedError, KernelRefused) as error:
                    # Whoever wrote a config that this host cannot have does not take it off the one that works;
                    # nor does it end for good where there was none before: another may be written.
                    if config is None or self._served in (None, config):
                        self._wait(error, retry_s)
                        retry_s = min(retry_s * 2, LAST_RETRY_S)
                    else:
                        # As where a port is another program's: it is not tried again by taking packets their way.
                        self._refused = config, f"{error.message}; it waits for another config, or a restart"
                except (StoreError, AddressTaken, SubnetsExhausted, CommandFailed) as error:
                    self._wait(error, retry_s)
                    retry_s = min(retry_s * 2, LAST_RETRY_S)
        if self._bug is not None:
            raise OverlaydError(
                f"a bug in overlayd ended one of its threads: {self._bug!r}; the data path stays as it is"
            )
        self._status_file.update(state="stopped", problem=None)
        log.info("stopped; the data path stays as it is")

    def _rest_after_loss(self) -> None:
        """Wait before another subnet is taken, longer each time: each one may restart docker, and be taken away too."""
        now = time.monotonic()
        self._losses = [*(at for at in self._losses if now - at < LOSSES_WITHIN_S), now]
        wait_s = loss_rest_s(len(self._losses))
        if wait_s:
            log.warning("the subnet was lost too often; waiting before another is taken", wait_s=wait_s)
            self._liveness.beat(MAIN_LOOP, within_s=wait_s)
            self._stopping.wait(wait_s)

    def _network_config(self) -> NetworkConfig:
        """The network config to serve; at first, etcd gets a moment to answer before that counts as a problem.

        Once one was served, it is the last good one: a host leaves no network that works for one that it refuses.
        """
        self._liveness.beat(MAIN_LOOP, within_s=FIRST_ANSWER_S)
        deadline = time.monotonic() + FIRST_ANSWER_S
        while not self._registry.view.revision and not self._registry.view.problem and not self._stopping.is_set():
            if not self._wake.wait(deadline - time.monotonic()) or time.monotonic() > deadline:
                break
            self._wake.clear()
        if self._served is None:
            return self._registry.network_config()
        return self._served if self._still(self._served) else self._registry.network_config()

    def _serve(self, config: NetworkConfig) -> None:
        """Hold a lease under `config` and keep all in step, until config or underlay change or we are told to stop."""
        underlay = self._look_at_underlay(config)
        host = Host(self._settings, underlay, self._registry, self._status_file, config)
        self._be_present(host.public_ip)
        self._renewal.keep(host.acquire())
        stop_data_path = threading.Event()
        with host.opened(stop_data_path, on_failure=self._wake.set):
            ready = False
            while True:
                self._status_file.update(lease_problem=self._renewal.problem)
                well = host.reconcile(beside=self._problems())
                if well and not ready:
                    # Docker starts from the files: not before packets can go where they say.
                    host.publish()
                    self._say_ready(host, config)
                    ready = True
                    self._served = config
                if ready:
                    host.settle_docker()
                    container = self._measuring.look(changed=host.written)
                    if self._presence is not None:
                        self._presence.containers = container
                if not self._pause() or not self._still(config):
                    return
                if self._look_at_underlay(config) != underlay:
                    return
                self._renewal.keep(host.reclaim(gone=self._renewal.gone))

    def _be_present(self, address: IPAddress) -> None:
        """Claim the address that is published. Raises AddressTaken, StoreError."""
        if self._presence is not None and self._presence.address == address:
            return
        self._be_absent()
        claim = Presence(self._store, self._keys, address, presence.this_host())
        claim.claim()
        self._presence = claim

    def _be_absent(self) -> None:
        if self._presence is not None:
            self._presence.release()
            self._presence = None

    def _look_at_underlay(self, config: NetworkConfig) -> Underlay:
        """The underlay as it is now, as far as the network uses it."""
        now = self._underlay.look(config.versions)
        self._status_file.update(**addresses(now))
        return now.only(config.versions)

    def _problems(self) -> tuple[str, ...]:
        """What is wrong beside the kernel."""
        found = (self._underlay.problem, self._presence.problem if self._presence else None, self._watch.look())
        self._status_file.update(watched_at=self._watch.where)
        return tuple(problem for problem in found if problem)

    def _say_ready(self, host: Host, config: NetworkConfig) -> None:
        subnet, peers = host.holding.lease.subnets, len(self._status_file.status.peers)
        self._status_file.update(state="ready", problem=None)
        notify(ready=True, status=f"{subnet} of {config} by {config.backend_type}")
        slim_imports.give_back()
        log.info("ready", subnet=subnet, backend=config.backend_type, peers=peers)

    def _still(self, config: NetworkConfig) -> bool:
        """Whether to go on with the config being served. One that went bad or away, or that this host refuses, changes
        nothing.
        """
        try:
            now = self._registry.network_config()
            if now != config:
                self._require_welcome(now, config)
        except NetworkConfigError as error:
            if self._status_file.status.problem != error.message:
                CONFIG_ERRORS.add()
                log.error("the network config went bad; serving the last good one", problem=error.message)
            self._status_file.update(problem=error.message)
            return True
        self._status_file.update(problem=None)
        # Asked for twice: when the one served ends, and before the next begins.
        if now != config and self._status_file.status.state != "starting":
            log.warning("the network config changed", network=now, backend=now.backend_type)
            self._status_file.update(state="starting")
        return now == config

    def _require_welcome(self, now: NetworkConfig, served: NetworkConfig) -> None:
        """Raise NetworkConfigError where this host does not change to that config: not here, or not while it runs."""
        if self._refused is not None and self._refused[0] == now:
            raise NetworkConfigError(self._refused[1])
        here = CurrentNeeds(needed=host_needs.now(self._settings.etcd_endpoints))
        try:
            backend_here(self._settings, now, self._underlay.look(now.versions).only(now.versions), here)
        except UnsupportedError as error:
            raise NetworkConfigError(error.message, hint=error.hint) from error
        if backends.needs_restart(served, now):
            raise NetworkConfigError(
                "the network config has other commands to run, which no running daemon takes; "
                "it waits for `systemctl restart overlayd`"
            )

    def _wait(self, error: OverlaydError, retry_s: float) -> None:
        docker = None if self._registry.view.revision else self._docker_first.look()
        problem = f"{error.message}; {docker}" if docker else error.message
        if self._status_file.status.problem != problem:
            log.warning("waiting", problem=problem, hint=error.hint)
            if isinstance(error, NetworkConfigError):
                CONFIG_ERRORS.add()
        view = self._registry.view
        self._status_file.update(
            state="waiting",
            problem=problem,
            lease_problem=self._renewal.problem,
            etcd_connected=view.connected,
            etcd_problem=view.problem,
            etcd_revision=view.revision,
        )
        notify(status=f"waiting: {problem}")
        self._liveness.beat(MAIN_LOOP, within_s=LEAST_INTERVAL_S + retry_s)
        self._stopping.wait(LEAST_INTERVAL_S)
        # Cleared afterwards: an etcd that came back meanwhile has set it already.
        self._wake.wait(jittered(retry_s))
        self._wake.clear()

    def _pause(self) -> bool:
        """Sleep until something changed or the resync is due; False when told to stop.

        After a round that took much processor time, for a while longer: whoever writes a hundred thousand leases into
        etcd, and changes them all the time, shall not have this host do nothing else.
        """
        rest_s = max(LEAST_INTERVAL_S, min(LONGEST_REST_S, REST * (time.thread_time() - self._cpu_s)))
        self._liveness.beat(MAIN_LOOP, within_s=self._settings.resync_s + rest_s)
        earliest = time.monotonic() + rest_s
        self._wake.wait(self._settings.resync_s)
        self._stopping.wait(max(SETTLE_S, earliest - time.monotonic()))
        self._wake.clear()
        self._cpu_s = time.thread_time()
        return not self._stopping.is_set()

    def _thread_died(self, died: threading.ExceptHookArgs) -> None:
        """End the whole, so that systemd starts it anew: half a daemon would be believed."""
        self._bug = died.exc_value
        traceback.print_exception(died.exc_value)
        self._stopping.set()
        self._wake.set()

    def _stop(self) -> None:
        self._stopping.set()
        self._wake.set()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        with signals.calling(self._stop):
            try:
                yield
            finally:
                notify(stopping=True)

    @contextmanager
    def _following(self) -> Iterator[None]:
        threading.excepthook = self._thread_died
        monitor = Monitor(self._wake.set)
        monitor.start()
        self._registry.start()
        self._renewal.start()
        self._measuring.start()
        self._watch.start(daemon_pages(self._status_file, self._liveness))
        try:
            yield
        finally:
            self._be_absent()
            self._measuring.stop()
            self._renewal.stop()
            self._registry.stop()
            self._store.close()
            monitor.stop()
