"""tinc 1.0: encrypted, with RSA keys, in user space."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from overlayd.lib import process
from tests.perf.place import running, wait_for
from tests.perf.topology import End

NAME = "tinc"
PROGRAMS = ("tincd", "openssl")
# What fits into an Ethernet packet of 1500 bytes with tinc's own header, cipher's padding and digest, as it finds out.
MTU_BYTES = 1400


@contextmanager
def joined(ends: Sequence[End]) -> Iterator[None]:
    """Start both ends."""
    publics = [_key(end) for end in ends]
    for number, end in enumerate(ends):
        hosts = end.folder / "hosts"
        hosts.mkdir()
        for one, (other, public) in enumerate(zip(ends, publics, strict=True)):
            text = f"Address = {other.host.address}\nSubnet = {other.container.address}/32\n{public}"
            (hosts / f"host{one}").write_text(text)
        (end.folder / "tinc.conf").write_text(
            f"Name = host{number}\nConnectTo = host{1 - number}\nInterface = {end.device}\nDeviceType = tun\n"
            f"BindToAddress = {end.host.address}\n"
        )
    with ExitStack() as stack:
        for number, end in enumerate(ends):
            log = end.folder / "tinc.log"
            words = ["tincd", "-c", str(end.folder), "-D", "-d1", f"--pidfile={end.folder / 'tinc.pid'}"]
            started = stack.enter_context(running(end.host.words(*words), log))
            wait_for(started, "tinc's device", end.has_device, log)
            end.bring_up(MTU_BYTES, ends[1 - number])
        yield


def _key(end: End) -> str:
    """Make a key pair where tinc looks for the private one; the public one."""
    private = end.folder / "rsa_key.priv"
    process.run(["openssl", "genrsa", "-traditional", "-out", str(private), "2048"])
    return process.run(["openssl", "rsa", "-in", str(private), "-RSAPublicKey_out"])
