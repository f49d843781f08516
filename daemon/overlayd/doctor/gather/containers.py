"""Containers of this network, tried from the inside: what one of them reaches, all of them do."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence

from overlayd.doctor.facts import Containers
from overlayd.errors import ConfigError
from overlayd.kernel.namespaces import in_namespace
from overlayd.lib.addresses import IPAddress, ip_address
from overlayd.probe.containers import name_of, on_bridge
from overlayd.store.endpoints import parse_endpoint

TIMEOUT_S = 1.0
AT_MOST = 20


def who_reaches(endpoints: Sequence[str], bridge: str) -> Containers | None:
    """The containers on a bridge that get a connection to one of etcd's servers; None where nobody may look (not root).

    At most AT_MOST are tried.
    """
    servers = [server for name in endpoints for server in _addresses(name)]
    tried, reached = 0, list[str]()
    try:
        for container in on_bridge(AT_MOST, bridge=bridge):
            with contextlib.suppress(OSError):
                seen = in_namespace(container.namespace, lambda: _try(servers))
                tried += 1
                if seen:
                    reached.append(f"{name_of(container)}, {container.addresses[0]}, to {seen}")
    except PermissionError:
        return None
    return Containers(bridge=bridge, tried=tried, reached=tuple(reached))


def _addresses(name: str) -> list[tuple[str, int]]:
    """Where a server is, as this host sees it; a container may have other names. Nowhere on loopback."""
    with contextlib.suppress(ConfigError, OSError):
        endpoint = parse_endpoint(name)
        found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
        there = {(str(sockaddr[0]), endpoint.port) for *_rest, sockaddr in found}
        return sorted(one for one in there if not _parsed(one[0]).is_loopback)
    return []


def _parsed(text: str) -> IPAddress:
    return ip_address(text.partition("%")[0])


def _try(servers: Sequence[tuple[str, int]]) -> str | None:
    """Which server takes a connection from here; None for none."""
    for host, port in servers:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=TIMEOUT_S):
            return f"{host}:{port}"
    return None
