"""The daemon's one story.

Read and check; then the line: above it nothing on the host changes. Below it: hold the host's lock, follow etcd, and
for each network config that comes, hold a lease, open its backend, write the files, say ready, and keep kernel and
etcd as they should be until told to stop. Stopping leaves the data path in place.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from overlayd import hostlock
from overlayd.errors import (
    KernelRefused,
    LeaseLost,
    NetworkConfigError,
    OverlaydError,
    PrivilegeError,
    StoreError,
    SubnetsExhausted,
)
from overlayd.host import Host
from overlayd.keeper import Keeper
from overlayd.kernel.monitor import Monitor
from overlayd.log import logger
from overlayd.network import NetworkConfig
from overlayd.notify import notify
from overlayd.registry import Registry
from overlayd.settings import Settings
from overlayd.status import Board, Status
from overlayd.store.client import Store, StoreSettings, jittered
from overlayd.underlay import Underlay, choose

log = logger("daemon")

FIRST_ANSWER_S = 5.0
FIRST_RETRY_S = 1.0
LAST_RETRY_S = 15.0
# Netlink and etcd speak in bursts; this long a breath makes one reconciliation of each. On a host whose neighbours come
# and go all the time, there are no more than two a second.
SETTLE_S = 0.1
LEAST_INTERVAL_S = 0.5


def store_settings(settings: Settings) -> StoreSettings:
    """The part of the settings that says how to reach etcd."""
    return StoreSettings(
        endpoints=settings.etcd_endpoints,
        cafile=settings.etcd_cafile,
        certfile=settings.etcd_certfile,
        keyfile=settings.etcd_keyfile,
        username=settings.etcd_username,
        password=settings.etcd_password,
    )


def choose_underlay(settings: Settings) -> Underlay:
    """The interface and address that peers reach this host by, as the settings want it. Raises ConfigError."""
    return choose(
        ifaces=settings.iface,
        iface_regexes=settings.iface_regex,
        can_reach=settings.iface_can_reach,
        public_ip=settings.public_ip,
        public_ipv6=settings.public_ipv6,
    )


def run(settings: Settings) -> None:
    """Be the daemon until SIGTERM or SIGINT. Raises what only a person can mend (ConfigError, UnsupportedError …)."""
    if os.geteuid() != 0:
        raise PrivilegeError("overlayd run changes the host's network", hint="run it as root")
    underlay = choose_underlay(settings)
    store = Store(store_settings(settings))
    # ---- the line: above, nothing on the host changes; below, everything may ----
    with hostlock.hold(settings.run_dir):
        Daemon(settings, underlay, store).run()


class Daemon:
    """The story below the line. One use."""

    def __init__(self, settings: Settings, underlay: Underlay, store: Store) -> None:
        self._settings = settings
        self._underlay = underlay
        self._store = store
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._bug: BaseException | None = None
        self._registry = Registry(store, settings.etcd_prefix, self._wake.set)
        self._keeper = Keeper(self._registry, self._wake.set, ttl_s=settings.lease_ttl_s)
        self._board = Board(
            settings.run_dir,
            Status(
                state="starting",
                pid=os.getpid(),
                ifname=underlay.ifname,
                ifname_reason=underlay.reason,
                public_ip=str(underlay.v4.public_ip) if underlay.v4 else None,
                public_ip6=str(underlay.v6.public_ip) if underlay.v6 else None,
                etcd_endpoints=settings.etcd_endpoints,
            ),
        )

    def run(self) -> None:
        """Serve one network config after another until told to stop. OverlaydError when a thread of ours died."""
        with self._signals(), self._following():
            retry_s = FIRST_RETRY_S
            while not self._stopping.is_set():
                try:
                    self._serve(self._network_config())
                    retry_s = FIRST_RETRY_S
                except LeaseLost as error:
                    log.error("LEASE LOST", problem=error.message, hint=error.hint)
                except (StoreError, SubnetsExhausted, KernelRefused) as error:
                    self._wait(error, retry_s)
                    retry_s = min(retry_s * 2, LAST_RETRY_S)
        if self._bug is not None:
            raise OverlaydError(
                f"a bug in overlayd ended one of its threads: {self._bug!r}; the data path stays as it is"
            )
        self._board.update(state="stopped", problem=None)
        log.info("stopped; the data path stays as it is")

    def _network_config(self) -> NetworkConfig:
        """The network config; at first, etcd gets a moment to answer before that counts as a problem."""
        deadline = time.monotonic() + FIRST_ANSWER_S
        while not self._registry.view.revision and not self._registry.view.problem and not self._stopping.is_set():
            if not self._wake.wait(deadline - time.monotonic()) or time.monotonic() > deadline:
                break
            self._wake.clear()
        return self._registry.network_config()

    def _serve(self, config: NetworkConfig) -> None:
        """Hold a lease under `config` and keep everything in step, until the config changes or we are told to stop."""
        host = Host(self._settings, self._underlay, self._registry, self._board, config)
        self._keeper.keep(host.acquire())
        stop_data_path = threading.Event()
        with host.opened(stop_data_path, on_failure=self._wake.set):
            ready = False
            while True:
                well = host.reconcile()
                if well and not ready:
                    # Docker starts from the files: not before packets can go where they say.
                    host.publish()
                    self._say_ready(host, config)
                    ready = True
                if not self._pause() or not self._still(config):
                    return
                self._keeper.keep(host.reclaim(gone=self._keeper.gone))

    def _say_ready(self, host: Host, config: NetworkConfig) -> None:
        subnet, peers = host.holding.lease.subnets, len(self._board.status.peers)
        self._board.update(state="ready", problem=None)
        notify(ready=True, status=f"{subnet} of {config} by {config.backend_type}")
        log.info("ready", subnet=subnet, backend=config.backend_type, peers=peers)
        host.settle_docker()

    def _still(self, config: NetworkConfig) -> bool:
        """Whether the network config is the one being served. A config that went bad or away changes nothing."""
        try:
            now = self._registry.network_config()
        except NetworkConfigError as error:
            if self._board.status.problem != error.message:
                log.error("the network config went bad; serving the last good one", problem=error.message)
            self._board.update(problem=error.message)
            return True
        self._board.update(problem=None)
        if now != config:
            log.warning("the network config changed", network=now, backend=now.backend_type)
        return now == config

    def _wait(self, error: OverlaydError, retry_s: float) -> None:
        if self._board.status.problem != error.message:
            log.warning("waiting", problem=error.message, hint=error.hint)
        self._board.update(state="waiting", problem=error.message, etcd_connected=self._registry.view.connected)
        notify(status=f"waiting: {error.message}")
        self._wake.clear()
        self._wake.wait(jittered(retry_s))

    def _pause(self) -> bool:
        """Sleep until something changed or the resync is due; False when told to stop."""
        earliest = time.monotonic() + LEAST_INTERVAL_S
        self._wake.wait(self._settings.resync_s)
        self._stopping.wait(max(SETTLE_S, earliest - time.monotonic()))
        self._wake.clear()
        return not self._stopping.is_set()

    def _thread_died(self, died: threading.ExceptHookArgs) -> None:
        """End the whole, so that systemd starts it anew: half a daemon would be believed."""
        self._bug = died.exc_value
        traceback.print_exception(died.exc_value)
        self._stopping.set()
        self._wake.set()

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        self._stopping.set()
        self._wake.set()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            notify(stopping=True)
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def _following(self) -> Iterator[None]:
        threading.excepthook = self._thread_died
        monitor = Monitor(self._wake.set)
        monitor.start()
        self._registry.start()
        self._keeper.start()
        try:
            yield
        finally:
            self._keeper.stop()
            self._registry.stop()
            self._store.close()
            monitor.stop()
