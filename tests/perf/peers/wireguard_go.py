"""wireguard-go alone: a device on each host and a route to the other's container, without anything of ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from overlayd.lib import process
from tests.perf.place import running, wait_for
from tests.perf.topology import End

NAME = "wireguard-go"
PROGRAMS = ("wireguard-go", "wg")
# wireguard-go's own default.
MTU_BYTES = 1420
_PORT = 51999
# The folder of its sockets is compiled in, and both ends are on this machine: each sees a folder of its own there.
_OWN_SOCKETS = 'mkdir -p /run/wireguard && mount -t tmpfs tmpfs /run/wireguard && exec "$@"'


@contextmanager
def joined(ends: Sequence[End]) -> Iterator[None]:
    """Start both ends."""
    keys = [process.run(["wg", "genkey"]).strip() for _ in ends]
    with ExitStack() as stack:
        for number, end in enumerate(ends):
            other = ends[1 - number]
            log, config = end.folder / "wireguard-go.log", end.folder / "wg.conf"
            config.write_text(
                f"[Interface]\nPrivateKey = {keys[number]}\nListenPort = {_PORT}\n"
                f"[Peer]\nPublicKey = {process.run(['wg', 'pubkey'], input=keys[1 - number]).strip()}\n"
                f"Endpoint = {other.host.address}:{_PORT}\nAllowedIPs = {other.container.address}/32\n"
            )
            words = ["unshare", "--mount", "sh", "-ec", _OWN_SOCKETS, "sh", "wireguard-go", "--foreground", end.device]
            started = stack.enter_context(running(end.host.words(*words), log))
            # It listens only after its device is there. The socket is seen as the program sees it.
            listening = Path(f"/proc/{started.pid}/root/run/wireguard/{end.device}.sock")
            wait_for(started, "wireguard-go listens", listening.exists, log)
            see_its_sockets = ["nsenter", f"--target={started.pid}", "--mount", "--net"]
            process.run([*see_its_sockets, "wg", "setconf", end.device, str(config)])
            end.bring_up(MTU_BYTES, other)
        yield
