"""The service that enters containers for the daemon: it hands out ICMP sockets, and does nothing else.

Entering a network namespace takes CAP_SYS_ADMIN (setns(2)). The daemon's unit does not have that capability: whoever
took over the daemon would control the whole host. This program has it. It gets one word and the name of a bridge from
root, on a socket that systemd opened (sd_listen_fds(3)), reads nothing else but the kernel's interfaces, sends at most
four sockets, and ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import sys
from collections.abc import Iterator, Sequence

from overlayd.errors import OverlaydError
from overlayd.probe.container_sockets import AT_MOST, error_text
from overlayd.probe.containers import BRIDGE, Container, first_on_bridge

FIRST_DESCRIPTOR = 3
IDLE_S = 30.0
SILENCE_S = 2.0


def main() -> int:
    """Answer one request on the socket that systemd passes; the exit status.

    One process answers one request: it has a mount namespace of its own, and where the host's mounts are not shared
    (mount_namespaces(7)) it does not see what is mounted after its start, such as Docker's files of new namespaces.
    """
    if os.environ.get("LISTEN_FDS") != "1":
        print("overlayd-containers: systemd starts this with a socket: overlayd-containers.socket", file=sys.stderr)  # noqa: T201
        return 2
    with socket.socket(fileno=FIRST_DESCRIPTOR) as listener:
        serve(listener, idle_s=IDLE_S)
    return 0


def serve(listener: socket.socket, *, idle_s: float | None) -> None:
    """Answer one client that is root. Returns without one after `idle_s` seconds."""
    listener.settimeout(idle_s)
    try:
        client, _address = listener.accept()
    except TimeoutError:
        return
    with client, contextlib.suppress(OSError):
        client.settimeout(SILENCE_S)
        if not _is_root(client):
            return
        word, _space, bridge = client.recv(64).decode(errors="replace").partition(" ")
        if word == "containers":
            _answer(client, bridge or BRIDGE)


def _answer(client: socket.socket, bridge: str) -> None:
    with contextlib.ExitStack() as stack:
        try:
            found = [(one, opened) for one in first_on_bridge(AT_MOST, bridge=bridge) if (opened := _open(one, stack))]
        except (OSError, OverlaydError) as error:
            client.send(json.dumps({"problem": error_text(error)}).encode())
            return
        document = {
            "containers": [
                {
                    "number": one.number,
                    "addresses": list(map(str, one.addresses)),
                    "versions": [version for version, _socket in opened],
                }
                for one, opened in found
            ]
        }
        descriptors = [opened.fileno() for _one, some in found for _version, opened in some]
        socket.send_fds(client, [json.dumps(document).encode()], descriptors)


def _open(container: Container, stack: contextlib.ExitStack) -> Sequence[tuple[int, socket.socket]]:
    """A socket for each IP version of which the container has an address; none where it has just ended."""

    def opened() -> Iterator[tuple[int, socket.socket]]:
        for version in (4, 6):
            if container.address(version) is not None:
                with contextlib.suppress(OSError):
                    yield version, stack.enter_context(container.socket(version))

    return list(opened())


def _is_root(client: socket.socket) -> bool:
    # unix(7): struct ucred of the client, from the moment when it connected.
    credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return bool(struct.unpack("3i", credentials)[1] == 0)
