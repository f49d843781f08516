"""What a user writes as etcd endpoints, and what each of them means. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from overlayd.errors import ConfigError
from overlayd.lib.quick_dataclass import dataclass

DEFAULT_PORT = 2379
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_.])?")
_ALLOWED = "write http://HOST:PORT or https://HOST:PORT"


@dataclass(frozen=True, kw_only=True)
class EtcdEndpoint:
    """One etcd server: `host` is a name or an address without brackets.

    Its certificate must be for that very name or address. Each server is dialled by itself, as one gRPC target for
    several servers would hold all certificates against one name.
    """

    host: str
    port: int
    tls: bool

    @property
    def dialled_host(self) -> str:
        """The host as it stands before a colon and a port."""
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def is_name(self) -> bool:
        """Whether the host has to be resolved."""
        return not _is_address(self.host)

    def __str__(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.dialled_host}:{self.port}"


def parse_endpoint(text: str) -> EtcdEndpoint:
    """`http://10.0.0.1:2379`, `https://etcd1`, `10.0.0.1:2379`. Raises ConfigError."""
    _require_no_password(text)
    try:
        url = urlsplit(text if "://" in text else f"http://{text}")
        host, port = url.hostname, url.port
    except ValueError as error:
        raise ConfigError(f"etcd-endpoints: {text!r}: {error}", hint=_ALLOWED) from error
    odd = url.path.strip("/") or url.query or url.fragment or port == 0
    if url.scheme not in ("http", "https") or odd or not _is_host(host):
        raise ConfigError(f"etcd-endpoints: {text!r} is not an endpoint", hint=_ALLOWED)
    return EtcdEndpoint(host=str(host), port=DEFAULT_PORT if port is None else port, tls=url.scheme == "https")


def parse_endpoints(texts: Sequence[str]) -> tuple[EtcdEndpoint, ...]:
    """All of them, in their order. Raises ConfigError, also where there is none or where the schemes are mixed."""
    if not texts:
        raise ConfigError("etcd-endpoints: none given", hint="set OVERLAYD_ETCD_ENDPOINTS=http://HOST:2379")
    # Of all before any is shown: a comma or a blank in a password makes two of one.
    _require_no_password(",".join(texts))
    endpoints = tuple(parse_endpoint(text) for text in texts)
    if len({endpoint.tls for endpoint in endpoints}) > 1:
        raise ConfigError("etcd-endpoints: http:// and https:// are mixed", hint="use one scheme for all of them")
    return endpoints


def _require_no_password(text: str) -> None:
    if "@" in text:
        # Not shown: what stands before the @ is a password.
        raise ConfigError(
            "etcd-endpoints: one of them holds a user or a password", hint="set etcd-username and etcd-password-file"
        )


def _is_host(host: str | None) -> bool:
    return bool(host) and (_is_address(str(host)) or _NAME.fullmatch(str(host)) is not None)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
