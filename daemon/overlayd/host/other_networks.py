"""The other networks of this host, each with a daemon of its own: what they use, as their daemons noted it.

Routes and rules show that there is another network, but not what it is. So each daemon keeps a note for the others,
beside its lock, of the network that it serves. The note stays, as the data path does, when the daemon stops;
`overlayd cleanup` removes it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from overlayd.backends.listening import Listening
from overlayd.errors import ConfigError, NetworkConfigError, OverlaydError
from overlayd.lib import hostlock
from overlayd.lib.addresses import IPNetwork, ip_network, overlaps
from overlayd.lib.files import read_json, write_atomically
from overlayd.lib.marks import HIGHEST_NUMBER, ours
from overlayd.lib.quick_dataclass import dataclass
from overlayd.settings import Settings

# asm-generic/socket.h, Linux 5.14: unlike its inode number, the cookie of a namespace is never used again.
_SO_NETNS_COOKIE = 71


@dataclass(frozen=True, kw_only=True)
class HostNetwork:
    """One network of this host. `networks` and `subnets` are of either family, `listens` is the backend's."""

    number: int
    etcd_endpoints: tuple[str, ...]
    etcd_prefix: str
    folders: tuple[str, ...]
    networks: tuple[IPNetwork, ...] = ()
    subnets: tuple[IPNetwork, ...] = ()
    listens: tuple[Listening, ...] = ()

    def document(self) -> dict[str, object]:
        """The note, as JSON values."""
        return {
            "number": self.number,
            "etcd_endpoints": list(self.etcd_endpoints),
            "etcd_prefix": self.etcd_prefix,
            "folders": list(self.folders),
            "networks": [str(one) for one in self.networks],
            "subnets": [str(one) for one in self.subnets],
            "listens": [[one.version, one.protocol, one.port] for one in self.listens],
            "namespace_cookie": _cookie(),
        }


def of_settings(settings: Settings) -> HostNetwork:
    """This process's network, as far as it follows from the settings alone."""
    return HostNetwork(
        number=settings.network_number,
        etcd_endpoints=settings.etcd_endpoints,
        etcd_prefix=settings.etcd_prefix,
        folders=(str(settings.run_dir), str(settings.state_dir), str(settings.subnet_env)),
    )


def others() -> tuple[HostNetwork, ...]:
    """The other networks of this host, by their numbers. Never raises: a note that cannot be read is left out."""
    found, own = [], _path(ours().number)
    for path in _notes():
        if path == own:
            # On most hosts there is no other, and this is asked in each look.
            continue
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            note: dict[str, Any] = read_json(path)
            network = _parse(note)
            if note["namespace_cookie"] == _cookie() and network.number != ours().number:
                found.append(network)
    return tuple(found)


def note(network: HostNetwork) -> None:
    """Write the note of this network; an unchanged one is not written again. Raises OverlaydError."""
    try:
        write_atomically(_path(network.number), f"{json.dumps(network.document())}\n")
    except OSError as error:
        raise OverlaydError(f"cannot note what network {network.number} takes: {error}") from error


def forget() -> Iterator[str]:
    """Remove the note of this process's network; yields what was removed."""
    path = _path(ours().number)
    if path.exists():
        path.unlink(missing_ok=True)
        yield str(path)


def require_own_folders(settings: Settings) -> None:
    """Raise ConfigError where another network of this host uses the same folder or file."""
    own = of_settings(settings)
    for other in others():
        for name, mine, theirs in zip(("run-dir", "state-dir", "subnet-file"), own.folders, other.folders, strict=True):
            if mine == theirs:
                raise ConfigError(
                    f"{name} {mine} is that of network {other.number} of this host",
                    hint="set another one, or leave it out",
                )


def conflicts(own: HostNetwork, networks: Collection[HostNetwork]) -> list[str]:
    """What this network and others of this host cannot share: sentences that say what to do. Pure."""
    found = []
    for other in networks:
        if own.etcd_prefix == other.etcd_prefix and set(own.etcd_endpoints) & set(other.etcd_endpoints):
            found.append(
                f"etcd-prefix {own.etcd_prefix} is that of network {other.number} of this host: set another, with a "
                "network config of its own"
            )
            continue
        found += [
            f"the network {mine} overlaps {theirs}, network {other.number} of this host: choose another Network"
            for mine in own.networks
            for theirs in other.networks
            if overlaps(mine, theirs)
        ]
        taken = {(one.version, one.protocol, one.port) for one in other.listens}
        found += list(
            dict.fromkeys(
                _taken(one, other.number) for one in own.listens if (one.version, one.protocol, one.port) in taken
            )
        )
    return found


def require_apart(own: HostNetwork) -> None:
    """Raise NetworkConfigError where this network conflicts with another one of this host."""
    found = conflicts(own, others())
    if found:
        raise NetworkConfigError("; ".join(found), hint=f"what the others take is in {hostlock.FOLDER}/*.json")


def _taken(listening: Listening, number: int) -> str:
    if listening.port is None:
        return (
            f"IP protocol {listening.protocol} is network {number}'s of this host: give this one another Backend Type"
        )
    return f"{listening.protocol} port {listening.port} is network {number}'s of this host: give Backend another Port"


def _notes() -> list[Path]:
    """The notes of this network namespace, in their order.

    By their names: the folder has those of all namespaces, also of such as have gone.
    """
    here = hostlock.namespace()
    names = (f"{hostlock.FOLDER}/{here}-{number}.json" for number in range(HIGHEST_NUMBER + 1))
    return [Path(name) for name in names if os.access(name, os.F_OK)]


def _path(number: int) -> Path:
    return hostlock.FOLDER / f"{hostlock.namespace()}-{number}.json"


def _parse(found: Mapping[str, Any]) -> HostNetwork:
    def texts(key: str) -> Sequence[str]:
        return tuple(str(one) for one in found[key])

    return HostNetwork(
        number=int(found["number"]),
        etcd_endpoints=tuple(texts("etcd_endpoints")),
        etcd_prefix=str(found["etcd_prefix"]),
        folders=tuple(texts("folders")),
        networks=tuple(map(ip_network, texts("networks"))),
        subnets=tuple(map(ip_network, texts("subnets"))),
        listens=tuple(
            Listening(version=int(version), protocol=str(protocol), port=None if port is None else int(port))
            for version, protocol, port in found["listens"]
        ),
    )


def _cookie() -> int:
    """A number that no other network namespace of this boot has; 0 where the kernel has no such numbers."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        return int.from_bytes(end.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), "little")
    return 0
