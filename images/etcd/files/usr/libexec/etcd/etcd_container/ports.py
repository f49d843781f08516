"""The addresses that etcd is to listen on: are they this container's, and free?"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Mapping

from etcd_container import settings as words
from etcd_container.problem import Problem

_LISTS = ("ETCD_LISTEN_CLIENT_URLS", "ETCD_LISTEN_PEER_URLS", "ETCD_LISTEN_METRICS_URLS")
_REASONS = {
    errno.EADDRINUSE: (
        "something listens there already",
        "with --network host or container:… the port is shared: choose another, or stop what has it",
    ),
    errno.EADDRNOTAVAIL: ("this container has no such address", "0.0.0.0 is all that it has"),
    errno.EACCES: ("a port below 1024 needs CAP_NET_BIND_SERVICE", "choose a port above 1023"),
}


def check(settings: Mapping[str, str]) -> list[Problem]:
    """What would stop etcd from listening."""
    return [problem for name in _LISTS for url in words.urls(settings, name) for problem in _taken(name, url)]


def _taken(name: str, url: words.Url) -> Iterator[Problem]:
    try:
        family, kind, _, _, address = socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            # As Go does: what a server left behind that ended a moment ago does not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            # Two sockets may be bound alike, but only one listens.
            probe.listen(1)
    except OSError as error:
        what, remedy = _REASONS.get(error.errno or 0, (error.strerror or str(error), f"see {name}"))
        yield Problem(f"{name} has {url}: {what}", remedy)
