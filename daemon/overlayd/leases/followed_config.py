"""The network config as hosts follow it: at once, unless it changes all the time.

Each change of it opens the data path anew. Somebody who writes it a hundred times a second, or two who write against
each other, must not keep every host from doing anything else.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from overlayd.errors import NetworkConfigError
from overlayd.leases.keys import CONFIG_BYTES, Keys
from overlayd.leases.network_config import NetworkConfig, parse_network_config
from overlayd.lib.log import logger
from overlayd.store.protocol import KeyValue

log = logger("registry")

# So many changes in an hour are followed at once. Each further one is followed only when it has stayed unchanged for a
# time, twice as long as that of the one before.
FREE_CHANGES = 10
HOUR_S = 3600.0
FIRST_WAIT_S = 15.0
LONGEST_WAIT_S = 600.0


def read_network_config(kv: KeyValue | None, keys: Keys) -> NetworkConfig:
    """The network config in its key, `kv`. Raises NetworkConfigError; where there is none, it says how to write one."""
    if kv is None:
        raise NetworkConfigError(
            f"no network config in etcd under {keys.config}",
            hint="""write one: overlayd config set '{"Network": "10.42.0.0/16", "Backend": {"Type": "vxlan"}}'""",
        )
    size = max(len(kv.value), kv.dropped_bytes)
    if size > CONFIG_BYTES:
        raise NetworkConfigError(f"etcd {keys.config}: {size} bytes, at most {CONFIG_BYTES} are read")
    try:
        return parse_network_config(kv.value)
    except NetworkConfigError as error:
        raise NetworkConfigError(f"etcd {keys.config}: {error.message}", hint=error.hint) from error


class FollowedConfig:
    """Which config of one network this host follows. `warning` says so while a new one has to wait. For one thread."""

    def __init__(self, keys: Keys, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._clock = clock
        self._seen: KeyValue | None = None
        self._found: NetworkConfig | NetworkConfigError | None = None
        self._since = 0.0
        self._followed: NetworkConfig | None = None
        self._changes: deque[float] = deque(maxlen=100)
        self.warning: str | None = None

    def read(self, kv: KeyValue | None) -> NetworkConfig:
        """The config to follow, now that etcd has `kv`. Raises NetworkConfigError where that is missing or wrong."""
        now = self._clock()
        if self._found is None or kv != self._seen:
            self._seen, self._since = kv, now
            try:
                self._found = read_network_config(kv, self._keys)
            except NetworkConfigError as error:
                self._found = error
        if isinstance(self._found, NetworkConfigError):
            raise self._found
        if self._followed is None or self._found == self._followed:
            # While another config comes and goes, the warning stays.
            if now - self._since >= FIRST_WAIT_S:
                self.warning = None
            self._followed = self._found
            return self._followed
        while self._changes and now - self._changes[0] > HOUR_S:
            self._changes.popleft()
        wait_s = _wait_s(len(self._changes))
        if now - self._since >= wait_s:
            self._changes.append(now)
            self._followed, self.warning = self._found, None
            return self._followed
        if self.warning is None:
            log.warning("the network config changes too often to be followed", changes=len(self._changes))
        self.warning = (
            f"the network config in etcd ({self._keys.config}) changed {len(self._changes)} times within an hour: "
            f"this host goes on with {self._followed} by {self._followed.backend_type} until the new one has "
            f"stayed unchanged for {wait_s:g} s, or overlayd is restarted; who writes there?"
        )
        return self._followed


def _wait_s(changes: int) -> float:
    """How long a config must stay unchanged before it is followed, after so many changes within an hour."""
    return 0.0 if changes < FREE_CHANGES else min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** (changes - FREE_CHANGES))
