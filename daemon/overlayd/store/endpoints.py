"""From what a user writes as etcd endpoints to what gRPC dials.

Pure but for name look-ups, which the caller passes in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from overlayd.errors import ConfigError

DEFAULT_PORT = 2379


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One etcd server: `host` is a name or an address without brackets."""

    host: str
    port: int
    tls: bool


@dataclass(frozen=True, kw_only=True)
class Target:
    """What gRPC dials: all servers as one target, so that it fails over by itself.

    `server_name` is the name that certificates are checked against when the target holds bare addresses.
    """

    address: str
    tls: bool
    server_name: str | None


def parse_endpoint(text: str) -> Endpoint:
    """`http://10.0.0.1:2379`, `https://etcd1`, `10.0.0.1:2379`. Raises ConfigError."""
    allowed = "http://HOST:PORT or https://HOST:PORT"
    url = urlsplit(text if "://" in text else f"http://{text}")
    if "@" in url.netloc:
        # Endpoints are shown in the status and in messages.
        raise ConfigError(
            "etcd-endpoints: one has a user or password in it", hint="set etcd-username and etcd-password instead"
        )
    try:
        port = url.port or DEFAULT_PORT
    except ValueError as error:
        raise ConfigError(f"etcd-endpoints: {text!r}: {error}", hint=f"write {allowed}") from error
    if url.scheme not in ("http", "https") or not url.hostname or url.path.strip("/") or url.query:
        raise ConfigError(f"etcd-endpoints: {text!r} is not an endpoint", hint=f"write {allowed}")
    return Endpoint(host=url.hostname, port=port, tls=url.scheme == "https")


def target(endpoints: Sequence[Endpoint], resolve: Callable[[str], Sequence[str]]) -> Target:
    """One gRPC target for all endpoints. `resolve` turns a name into addresses and may raise OSError.

    A single endpoint keeps its name, so that gRPC looks it up anew on every reconnect. Several become a list of
    addresses, the only form that gRPC takes for more than one server. Raises ConfigError when they are mixed.
    """
    if not endpoints:
        raise ConfigError("etcd-endpoints: none given", hint="set OVERLAYD_ETCD_ENDPOINTS=http://HOST:2379")
    tls = endpoints[0].tls
    if any(endpoint.tls is not tls for endpoint in endpoints):
        raise ConfigError("etcd-endpoints: http:// and https:// are mixed", hint="use one scheme for all of them")
    if len(endpoints) == 1:
        only = endpoints[0]
        host = f"[{only.host}]" if ":" in only.host else only.host
        return Target(address=f"{host}:{only.port}", tls=tls, server_name=None)
    addresses: list[str] = []
    family = 4
    for endpoint in endpoints:
        for found in _addresses(endpoint.host, resolve):
            family = max(family, ip_address(found).version)
            addresses.append(f"[{found}]:{endpoint.port}" if ":" in found else f"{found}:{endpoint.port}")
    scheme = f"ipv{family}"
    if family == 6:
        addresses = [
            entry if entry.startswith("[") else f"[::ffff:{entry.replace(':', ']:', 1)}" for entry in addresses
        ]
    names = [endpoint.host for endpoint in endpoints if not _is_address(endpoint.host)]
    server_name = names[0] if names else endpoints[0].host
    return Target(address=f"{scheme}:{','.join(addresses)}", tls=tls, server_name=server_name if tls else None)


def _addresses(host: str, resolve: Callable[[str], Sequence[str]]) -> Sequence[str]:
    return [host] if _is_address(host) else resolve(host)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
