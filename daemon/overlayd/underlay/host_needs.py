"""Reads what this host needs its own network for: etcd, gateways, resolvers, its networks and addresses."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from overlayd.errors import NetworkConfigError
from overlayd.kernel import interfaces
from overlayd.kernel.converge import require_free
from overlayd.kernel.foreign import FLANNEL
from overlayd.leases.conflicts import OWN_ADDRESS, CurrentNeeds, HostNeed, Judgement, judge_network
from overlayd.leases.network_config import NetworkConfig
from overlayd.lib.addresses import IPAddress, ip_address, ip_network
from overlayd.lib.kept import identity
from overlayd.lib.marks import DEVICES
from overlayd.store.endpoints import parse_endpoints

# Left out: docker's bridge, which moves to the lease, and devices of an overlay: ours, and flannel's on a host that
_OVERLAYS = (DEVICES, FLANNEL)
_BRIDGE = "docker0"
# The second has the servers behind systemd-resolved's own 127.0.0.53.
_RESOLV_CONF = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
# How often names are resolved again, and how long to wait for a DNS that does not answer.
RESOLVE_INTERVAL_S, RESOLVE_TIMEOUT_S = 60.0, 2.0


class HostNeedsReader:
    """Reads this host. Names of etcd's servers are resolved in another thread, as DNS may be slow. For one thread."""

    def __init__(self, etcd_endpoints: Sequence[str], *, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is read yet. `clock` is a monotonic one. Raises ConfigError."""
        self._hosts = [endpoint.host for endpoint in parse_endpoints(etcd_endpoints)]
        self._clock = clock
        self._resolved: dict[str, tuple[IPAddress, ...]] = {}
        self._resolved_at: float | None = None

    def now(self) -> tuple[HostNeed, ...]:
        """All needs. Loopback and link-local addresses are left out, as no network can have them."""
        found = [*self._etcd(), *_gateways(), *_resolvers(), *_interfaces()]
        return tuple(dict.fromkeys(one for one in found if not _is_not_routed(one.network.network_address)))

    def _etcd(self) -> Iterator[HostNeed]:
        names = []
        for host in self._hosts:
            try:
                yield _address("etcd's address", ip_address(host))
            except ValueError:
                names.append(host)
        now = self._clock()
        if names and (self._resolved_at is None or now - self._resolved_at >= RESOLVE_INTERVAL_S):
            self._resolved_at = now
            resolver = threading.Thread(target=self._resolve, args=(names,), name="etcd-names", daemon=True)
            resolver.start()
            resolver.join(0 if self._resolved else RESOLVE_TIMEOUT_S)
        for host in names:
            for address in self._resolved.get(host, ()):
                yield _address(f"the address of etcd's {host}", address)

    def _resolve(self, names: Sequence[str]) -> None:
        for name in names:
            with contextlib.suppress(OSError, ValueError):
                answers = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
                self._resolved[name] = tuple({ip_address(str(answer[4][0]).partition("%")[0]) for answer in answers})


def require_fit(config: NetworkConfig, here: CurrentNeeds, *, one_route: bool) -> None:
    """Raise NetworkConfigError where a network would take an address or a network that this host needs."""
    refusals = judge_network(config, here.needed, one_route=one_route).refusals
    if refusals:
        raise NetworkConfigError("; ".join(refusals), hint=Judgement.HINT)
    if one_route:
        require_free(config.networks)


@lru_cache(maxsize=1)
def _reader(etcd_endpoints: tuple[str, ...]) -> HostNeedsReader:
    return HostNeedsReader(etcd_endpoints)


def now(etcd_endpoints: tuple[str, ...]) -> tuple[HostNeed, ...]:
    """What this host needs now. For one thread."""
    return _reader(etcd_endpoints).now()


def files() -> tuple[object, ...]:
    """What is another when one of the files has changed that needs are read from."""
    return tuple(map(identity, _RESOLV_CONF))


def _gateways() -> Iterator[HostNeed]:
    for gateway in interfaces.default_gateways():
        yield _address("the default gateway", gateway)


def _resolvers() -> Iterator[HostNeed]:
    for path in _RESOLV_CONF:
        with contextlib.suppress(OSError):
            for line in path.read_text(errors="replace").splitlines():
                words = line.split()
                if words[:1] == ["nameserver"] and len(words) > 1:
                    with contextlib.suppress(ValueError):
                        yield _address("the resolver", ip_address(words[1].partition("%")[0]))


def _interfaces() -> Iterator[HostNeed]:
    for interface in interfaces.read_interfaces():
        if interface.name == _BRIDGE or interface.name.startswith(_OVERLAYS):
            continue
        for address in interface.addresses:
            yield HostNeed(network=ip_network(address.ip), what=OWN_ADDRESS, ifname=interface.name)
            if address.network.prefixlen < address.max_prefixlen:
                yield HostNeed(network=address.network, what=f"{interface.name}'s network", ifname=interface.name)


def _address(what: str, address: IPAddress) -> HostNeed:
    return HostNeed(network=ip_network(address), what=what)


def _is_not_routed(address: IPAddress) -> bool:
    return address.is_loopback or address.is_link_local or address.is_unspecified
