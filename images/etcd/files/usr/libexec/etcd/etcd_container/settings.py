"""etcd's settings, as the variables ETCD_… of the container have them, with defaults for a container. Pure: no I/O.

etcd reads the same variables (`etcd --help`: each flag has one). What is not known here is etcd's business alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from etcd_container.problem import Problem

VOLUME = "/var/lib/etcd"
# A folder below the volume, as `etcdctl snapshot restore` must make it.
DATA = f"{VOLUME}/data"
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_DISCOVERY = ("ETCD_DISCOVERY", "ETCD_DISCOVERY_SRV", "ETCD_DISCOVERY_ENDPOINTS")
_PORT = {"CLIENT": 2379, "PEER": 2380}


class Url(NamedTuple):
    """A URL of etcd, with its port."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


class Tls(NamedTuple):
    """The files of one side, for clients or for peers; empty where not given. `prefix` is of their variables' names."""

    prefix: str
    certificate: str
    key: str
    authority: str
    asks_for_certificates: bool


def complete(given: Mapping[str, str], address: str) -> dict[str, str]:
    """The variables with which etcd is started: what was given, and defaults for the rest.

    `address` is the container's own. An empty variable is none, as Compose gives it for one that is not set.
    """
    found = {name: value for name, value in given.items() if value or not name.startswith("ETCD_")}
    if "ETCD_CONFIG_FILE" in found:
        # With a configuration file etcd reads no other variable.
        return found

    def default(name: str, value: str) -> None:
        found.setdefault(f"ETCD_{name}", value)

    default("NAME", "default")
    default("DATA_DIR", DATA)
    client, peer = scheme(found, "CLIENT"), scheme(found, "PEER")
    default("LISTEN_CLIENT_URLS", f"{client}://0.0.0.0:{_PORT['CLIENT']}")
    default("ADVERTISE_CLIENT_URLS", f"{client}://{address}:{_PORT['CLIENT']}")
    own = initial_cluster(found).get(found["ETCD_NAME"])
    if own:
        default("INITIAL_ADVERTISE_PEER_URLS", ",".join(own))
    if own or "ETCD_INITIAL_ADVERTISE_PEER_URLS" in found:
        default("LISTEN_PEER_URLS", f"{peer}://0.0.0.0:{_PORT['PEER']}")
    return found


def scheme(settings: Mapping[str, str], side: str) -> str:
    """`https` if the side (CLIENT or PEER) has a certificate, else `http`."""
    prefix = "ETCD_" if side == "CLIENT" else "ETCD_PEER_"
    return "https" if settings.get(f"{prefix}CERT_FILE") or true(settings, f"{prefix}AUTO_TLS") else "http"


def tls(settings: Mapping[str, str], side: str) -> Tls:
    """The files of a side, CLIENT or PEER. A CA alone makes etcd ask for certificates, whatever the switch says."""
    prefix = "ETCD_" if side == "CLIENT" else "ETCD_PEER_"
    authority = settings.get(f"{prefix}TRUSTED_CA_FILE", "")
    return Tls(
        prefix,
        settings.get(f"{prefix}CERT_FILE", ""),
        settings.get(f"{prefix}KEY_FILE", ""),
        authority,
        bool(authority) or true(settings, f"{prefix}CLIENT_CERT_AUTH"),
    )


def true(settings: Mapping[str, str], name: str) -> bool:
    """A switch, as Go reads one."""
    return settings.get(name, "") in _TRUE


def urls(settings: Mapping[str, str], name: str) -> list[Url]:
    """The URLs of a variable that is a list of them; sockets in files are left out. Raises ValueError."""
    listed = settings.get(name, "").split(",")
    return [parsed(text) for text in listed if text and not text.startswith(("unix://", "unixs://"))]


def parsed(text: str) -> Url:
    """A URL of etcd's. Raises ValueError."""
    try:
        found = urlsplit(text)
        host, port = found.hostname, found.port
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from None
    if found.scheme not in {"http", "https"} or not host or not port or found.path or found.query or found.username:
        raise ValueError(f"{text!r} is not of the form http://HOST:PORT or https://HOST:PORT")
    return Url(found.scheme, host, port)


def initial_cluster(settings: Mapping[str, str]) -> dict[str, list[str]]:
    """Peer URLs by member, of ETCD_INITIAL_CLUSTER. An entry that is not NAME=URL is left out: `check` names it."""
    found: dict[str, list[str]] = {}
    for entry in settings.get("ETCD_INITIAL_CLUSTER", "").split(","):
        name, separator, url = entry.strip().partition("=")
        if separator and name:
            found.setdefault(name, []).append(url)
    return found


def check(settings: Mapping[str, str]) -> list[Problem]:
    """The problems that can be seen in the variables alone, without a look at files or network."""
    if "ETCD_CONFIG_FILE" in settings:
        return []
    found: list[Problem] = []
    for side in ("CLIENT", "PEER"):
        found += _check_urls(settings, side)
        found += _check_pair(settings, side)
    if not any(settings.get(name) for name in _DISCOVERY):
        found += _check_cluster(settings)
    return found


def _check_urls(settings: Mapping[str, str], side: str) -> list[Problem]:
    listen = f"ETCD_LISTEN_{side}_URLS"
    advertise = "ETCD_ADVERTISE_CLIENT_URLS" if side == "CLIENT" else "ETCD_INITIAL_ADVERTISE_PEER_URLS"
    found: list[Problem] = []
    encrypted = scheme(settings, side) == "https"
    certificate = f"{tls(settings, side).prefix}CERT_FILE"
    for name in (listen, advertise):
        try:
            given = urls(settings, name)
        except ValueError as error:
            found.append(Problem(f"{name}: {error}", f"as in {name}=https://198.18.1.11:{_PORT[side]}"))
            continue
        for url in given:
            if encrypted and url.scheme == "http":
                what = f"{certificate} is given, and {name} has {url}: etcd would speak plain text there"
                found.append(Problem(what, f"write https:// in {name}, or leave {name} out"))
            elif not encrypted and url.scheme == "https" and name == listen:
                found.append(Problem(f"{name} has {url}, and there is no {certificate}", f"give {certificate}"))
            if name == advertise and url.host in ANY_ADDRESS:
                found.append(
                    Problem(
                        f"{name} has {url}, which tells others to come to an address that nobody has",
                        "name the address or host name by which others reach this container",
                    )
                )
            if name == listen and not _is_address(url.host):
                found.append(Problem(f"{name} has {url}: etcd listens on addresses, not names", "write 0.0.0.0"))
    return found


def _is_address(host: str) -> bool:
    return host == "localhost" or ":" in host or all(part.isdigit() for part in host.split("."))


def _check_pair(settings: Mapping[str, str], side: str) -> list[Problem]:
    files = tls(settings, side)
    found: list[Problem] = []
    pair = {f"{files.prefix}CERT_FILE": files.certificate, f"{files.prefix}KEY_FILE": files.key}
    missing = [name for name, value in pair.items() if not value]
    if len(missing) == 1:
        there = next(name for name in pair if name not in missing)
        found.append(Problem(f"{there} is given, and {missing[0]} is not", f"give both, or set {files.prefix}AUTO_TLS"))
    if files.asks_for_certificates and not files.authority:
        name = f"{files.prefix}TRUSTED_CA_FILE"
        found.append(Problem(f"{files.prefix}CLIENT_CERT_AUTH is on, and there is no {name}", f"give {name}"))
    return found


def _check_cluster(settings: Mapping[str, str]) -> list[Problem]:
    found: list[Problem] = []
    state = settings.get("ETCD_INITIAL_CLUSTER_STATE", "new")
    if state not in {"new", "existing"}:
        what = f"ETCD_INITIAL_CLUSTER_STATE={state!r}"
        found.append(Problem(what, "new, for a cluster that starts together; existing, for a member that was added"))
    text = settings.get("ETCD_INITIAL_CLUSTER", "")
    if not text:
        return found
    name, cluster = settings.get("ETCD_NAME", ""), initial_cluster(settings)
    for entry in text.split(","):
        try:
            parsed(entry.strip().partition("=")[2])
        except ValueError as error:
            what = f"ETCD_INITIAL_CLUSTER: {entry!r}: {error}"
            found.append(Problem(what, "as in NAME=https://198.18.1.11:2380,NAME2=https://…"))
    if name not in cluster:
        names = ", ".join(cluster) or "nobody"
        what = f"ETCD_NAME is {name!r}, and ETCD_INITIAL_CLUSTER names {names}"
        found.append(Problem(what, "every member's own name is one of those in ETCD_INITIAL_CLUSTER"))
        return found
    told = settings.get("ETCD_INITIAL_ADVERTISE_PEER_URLS", "").split(",")
    if sorted(told) != sorted(cluster[name]):
        what = f"ETCD_INITIAL_CLUSTER gives {name} {','.join(cluster[name])}, and ETCD_INITIAL_ADVERTISE_PEER_URLS "
        found.append(
            Problem(f"{what}says {','.join(told)}", "make them the same, or leave ETCD_INITIAL_ADVERTISE_PEER_URLS out")
        )
    return found
