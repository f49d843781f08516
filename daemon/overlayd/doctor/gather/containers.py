"""Containers on docker0, tried from the inside: what one of them reaches, all of them do."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from overlayd.addresses import IPAddress, IPNetwork, contains, ip_address
from overlayd.doctor.facts import Containers
from overlayd.errors import ConfigError
from overlayd.kernel import interfaces
from overlayd.kernel.namespaces import in_that_of
from overlayd.store.endpoints import parse_endpoint

BRIDGE = "docker0"
TIMEOUT_S = 1.0
AT_MOST = 20


def who_reaches(endpoints: Sequence[str]) -> Containers | None:
    """The containers on docker0 that get a connection to one of etcd's servers; None where nobody may look (not root).

    A container is a network namespace whose address is one of docker0's subnet. At most AT_MOST are tried.
    """
    if os.geteuid() != 0:
        return None
    servers = [server for name in endpoints for server in _addresses(name)]
    subnets = [
        one.network
        for found in interfaces.read_interfaces()
        if found.name == BRIDGE
        for one in found.addresses
        if not one.is_link_local
    ]
    tried, reached = 0, list[str]()
    for pid in _namespaces():
        if tried >= AT_MOST:
            break
        seen = None
        with contextlib.suppress(OSError):
            seen = in_that_of(pid, lambda: _try(servers, subnets))
        if seen is not None:
            tried += 1
            if seen:
                reached.append(f"process {pid} ({_name(pid)}) to {seen}")
    return Containers(tried=tried, reached=tuple(reached))


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


def _namespaces() -> Iterator[int]:
    """A process of each network namespace but this one."""
    seen = {os.stat("/proc/self/ns/net").st_ino}  # noqa: PTH116  (of what the link leads to)
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                inode = (folder / "ns/net").stat().st_ino
                if inode not in seen:
                    seen.add(inode)
                    yield int(folder.name)


def _try(servers: Sequence[tuple[str, int]], subnets: Sequence[IPNetwork]) -> str | None:
    """Which server takes a connection from here, empty for none; None where this is no container on docker0."""
    own = [
        address.ip
        for found in interfaces.read_interfaces()
        for address in found.addresses
        if any(contains(subnet, address.ip) for subnet in subnets)
    ]
    if not own:
        return None
    for host, port in servers:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=TIMEOUT_S):
            return f"{host}:{port}"
    return ""


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    return "?"
