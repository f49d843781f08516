"""The underlay while the daemon runs: its interface may get another name, MTU or address."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from overlayd.errors import ConfigError
from overlayd.kernel import interfaces
from overlayd.kernel.interfaces import Interface
from overlayd.leases import previous_lease
from overlayd.lib.log import logger
from overlayd.settings import Settings
from overlayd.underlay.choose import Underlay, choose, follow

log = logger("underlay")

# An interface that is configured anew has no address for a moment: without one, it is looked at again after this time.
SETTLE_S = 0.3


def choose_underlay(settings: Settings) -> Underlay:
    """The interface and address that peers reach this host by, as the settings want it. Raises ConfigError."""
    return choose(
        ifaces=settings.iface,
        iface_regexes=settings.iface_regex,
        can_reach=settings.iface_can_reach,
        public_ip=settings.public_ip,
        public_ipv6=settings.public_ipv6,
        held=tuple(previous_lease.recall(settings.state_dir, settings.subnet_env).subnets),
    )


class UnderlayWatch:
    """The underlay as it was last seen. While there is none, the last one stays, and `problem` says why.

    For one thread.
    """

    def __init__(
        self,
        settings: Settings,
        underlay: Underlay,
        pause: Callable[[float], object],
        read: Callable[[], Sequence[Interface]] | None = None,
    ) -> None:
        """`pause` waits for a time in seconds, or less where the daemon is to stop. `read` gives the interfaces."""
        self._read = read
        self._settings = settings
        self._pause = pause
        self.underlay = underlay
        self.problem: str | None = None

    def look(self, versions: Collection[int]) -> Underlay:
        """The underlay as it is now, for a network of these IP versions. A change is logged."""
        try:
            now = self._now(versions)
        except ConfigError as error:
            if error.message != self.problem:
                log.warning("there is no underlay at present; everything stays as it is", problem=error.message)
            self.problem = error.message
            return self.underlay
        self.problem = None
        if now != self.underlay:
            log.warning("the underlay changed", mtu_bytes=now.mtu_bytes, **addresses(now))
            self.underlay = now
        return self.underlay

    def _now(self, versions: Collection[int]) -> Underlay:
        same = self._same(versions)
        if same is None and self.problem is None:
            self._pause(SETTLE_S)
            same = self._same(versions)
        if same is not None:
            return same
        # It is gone, or lacks an address that the network needs: another may have appeared.
        found = choose_underlay(self._settings)
        for version in versions:
            if self.underlay.endpoint(version) and not found.endpoint(version):
                raise ConfigError(
                    f"interface {found.ifname} has no IPv{version} address any more{found.lacks(version)}"
                )
        return found

    def _same(self, versions: Collection[int]) -> Underlay | None:
        """The same interface as it is now; None where it is gone, or lacks an address that the network needs."""
        same = follow(self.underlay, (self._read or interfaces.read_interfaces)())
        return same if same is not None and all(same.endpoint(version) for version in versions) else None


def addresses(underlay: Underlay) -> dict[str, Any]:
    """Interface and addresses as the status has them."""
    return {
        "ifname": underlay.ifname,
        "ifname_reason": underlay.reason,
        "public_ip": str(underlay.v4.public_ip) if underlay.v4 else None,
        "public_ip6": str(underlay.v6.public_ip) if underlay.v6 else None,
    }
