"""Connects the prober with the daemon: peers come from the status, findings go into the status and reach.json."""

from __future__ import annotations

import time
from collections.abc import Callable

from overlayd.errors import StoreError
from overlayd.leases.keys import Keys
from overlayd.leases.presence import probed_address
from overlayd.lib.addresses import IPAddress
from overlayd.monitoring.status_file import Peer, StatusFile
from overlayd.probe.container_sockets import ContainerSockets
from overlayd.probe.peers import KnownPeer, known_peers, local_host
from overlayd.probe.prober import Prober
from overlayd.probe.reach import INTERVAL_S
from overlayd.settings import Settings
from overlayd.store.client import Store

# The file with the findings of each peer is written every WRITE_S seconds at most, and less often with many peers.
WRITE_S, PEERS_A_SECOND = 4.0, 100


class ReachabilityMonitor:
    """Probes containers of all peers in the status. Called in one thread; the prober has its own."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        status_file: StatusFile,
        wake: Callable[[], None],
        own_addresses: Callable[[], frozenset[IPAddress]],
    ) -> None:
        """Sends nothing yet, and never does where the setting probe-rate is 0.

        `own_addresses` gives those of this host's interfaces.
        """
        self._own_addresses = own_addresses
        self._status_file = status_file
        self._store = store
        self._keys = Keys(settings.etcd_prefix)
        self._prober = (
            Prober(ContainerSockets(), rate_per_s=settings.probe_rate, alive=self._alive, on_change=wake)
            if settings.probe_rate
            else None
        )
        self._written_at = self._hurried_at = 0.0
        # The peers as the status had them last, and what they are to the prober: there may be thousands.
        self._told: tuple[Peer, ...] | None = None
        self._peers: list[KnownPeer] = []
        self._of_peer: dict[int, list[KnownPeer]] = {}

    def start(self) -> None:
        """Start the prober."""
        if self._prober is not None:
            self._prober.start()

    def stop(self) -> None:
        """Stop the prober."""
        if self._prober is not None:
            self._prober.stop()

    def look(self, *, changed: bool) -> tuple[IPAddress, ...]:
        """Give the prober the peers of the status, and write its findings. `changed`: probe all of them soon.

        Returns the addresses of this host's container that peers should probe.
        """
        if self._prober is None:
            return ()
        told = self._status_file.status
        if told.peers is not self._told:
            self._peers = self._known(told.peers)
            self._told = told.peers
        self._prober.follow(self._peers, local_host(told, self._own_addresses()))
        now = time.monotonic()
        if changed and now - self._hurried_at > INTERVAL_S:
            self._hurried_at = now
            self._prober.hurry()
        found = self._prober.findings
        summary = (found.source or None, found.problems, bool(found.problems) and found.severe)
        status = self._status_file.status
        # Each update writes the whole status file, so there is none where nothing changed.
        if summary != (status.probed_from, status.unreached, status.unreached_most):
            self._written_at = 0.0
            self._status_file.update(probed_from=summary[0], unreached=summary[1], unreached_most=summary[2])
        if now - self._written_at >= max(WRITE_S, len(found.peers) / PEERS_A_SECOND):
            self._written_at = now
            self._status_file.update_reach(found.peers)
        return found.container

    def _known(self, peers: tuple[Peer, ...]) -> list[KnownPeer]:
        """What peers are to the prober: of those that the status had before, the same objects."""
        before, self._of_peer = self._of_peer, {}
        for peer in peers:
            # No other object has that id, as the status of the last look is still there.
            self._of_peer[id(peer)] = before.get(id(peer)) or known_peers([peer])
        return [one for found in self._of_peer.values() for one in found]

    def _alive(self, peer: KnownPeer) -> tuple[bool | None, IPAddress | None]:
        try:
            found = self._store.get(self._keys.host(peer.public_ip))
        except StoreError:
            return None, None
        return (False, None) if found is None else (True, probed_address(found.value, peer.subnet.version))
