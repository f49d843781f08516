"""WireGuard by wireguard-go, where the kernel has none: a process with a TUN device, and a socket to configure it by.

The socket's path is compiled into wireguard-go and wg(8). The process ends by itself when its device is deleted or its
socket unlinked. It is not our child and stays when we end, unless systemd ends it with our unit (KillMode=).
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from overlayd.errors import CommandFailed, KernelRefused
from overlayd.kernel import modules
from overlayd.kernel.state import WireguardLink, WireguardPeer
from overlayd.kernel.wireguard import uapi
from overlayd.kernel.wireguard.device import Device
from overlayd.lib import marks, process
from overlayd.lib.log import logger

log = logger("wireguard")

PROGRAM = "wireguard-go"
SOCKETS = Path("/var/run/wireguard")
ANSWER_S = 3.0
END_S = 3.0


class Userspace:
    """The transport to wireguard-go. See Transport."""

    def get(self, name: str) -> Device:
        """See Transport."""
        return uapi.parse(name, _ask(name, uapi.GET))

    def set_link(self, link: WireguardLink) -> None:
        """See Transport. EADDRINUSE where another program has the port: wireguard-go does not report it."""
        if self.get(link.name).listen_port != link.listen_port:
            _require_free(link.listen_port)
        uapi.check(_ask(link.name, uapi.set_link(link)))

    def set_peer(self, peer: WireguardPeer) -> None:
        """See Transport."""
        uapi.check(_ask(peer.link, uapi.set_peer(peer)))

    def remove_peer(self, peer: WireguardPeer) -> None:
        """See Transport."""
        uapi.check(_ask(peer.link, uapi.remove_peer(peer)))


def serves(name: str) -> bool:
    """Whether a running wireguard-go has this device."""
    try:
        with _connected(name):
            return True
    except OSError:
        return False


def make(name: str) -> None:
    """Start wireguard-go with a new device of that name. Raises UnsupportedError, KernelRefused, OSError."""
    if shutil.which(PROGRAM) is None:
        raise modules.lacking(
            f"this kernel has no WireGuard, and {PROGRAM} is not installed",
            "wireguard",
            instead=f"install {PROGRAM}, or use another backend",
        )
    # The socket of a process that was killed: its device is not there, so no process serves it.
    _socket(name).unlink(missing_ok=True)
    try:
        # process.run passes no LOG_LEVEL, WG_PROCESS_FOREGROUND, WG_TUN_FD, WG_UAPI_FD on: these would keep it in the
        # foreground, or our pipe to it open.
        process.run([PROGRAM, name], timeout_s=10)
        # The command ends before its child has begun; the child begins by giving the device an MTU of its own.
        _ask(name, uapi.GET)
    except CommandFailed as error:
        raise KernelRefused("link add", f"{name} by {PROGRAM}", errno.EIO, hint=error.message) from error
    log.warning("this kernel has no WireGuard; wireguard-go carries the packets", ifname=name)


@contextlib.contextmanager
def ending(name: str) -> Iterator[None]:
    """Wait, after the block that deletes a device, until the process that served it has ended. Never raises itself."""
    try:
        connection = _connected(name)
    except OSError:
        connection = None
    try:
        yield
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.settimeout(END_S)
                connection.recv(1)  # the end of the process ends the connection
    finally:
        if connection is not None:
            connection.close()
    _socket(name).unlink(missing_ok=True)


def cleanup() -> Iterator[str]:
    """Remove the sockets of ours that no process serves any more; yields what was removed."""
    for path in sorted(SOCKETS.glob("overlay*.sock")):
        if marks.ours().names(path.stem) and not serves(path.stem):
            path.unlink(missing_ok=True)
            yield f"socket {path}"


def _socket(name: str) -> Path:
    return SOCKETS / f"{name}.sock"


def _connected(name: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(ANSWER_S)
        connection.connect(str(_socket(name)))
    except BaseException:
        connection.close()
        raise
    return connection


def _ask(name: str, request: str) -> str:
    """Send one request; the answer. Raises OSError: TimeoutError, or EPIPE where the process ended before it."""
    with _connected(name) as connection:
        connection.sendall(request.encode())
        answer = b""
        # The connection stays open for more: the empty line ends an answer.
        while not answer.endswith(b"\n\n"):
            chunk = connection.recv(65536)
            if not chunk:
                raise OSError(errno.EPIPE, f"{PROGRAM} ended")
            answer += chunk
        return answer.decode()


def _require_free(port: int) -> None:
    for family in (socket.AF_INET, socket.AF_INET6):
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind(("", port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise
