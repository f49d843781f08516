"""nebula: encrypted by AES-GCM, with certificates, in user space."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Interface

from overlayd.lib import process
from tests.perf.place import running, wait_for
from tests.perf.topology import End

NAME = "nebula"
PROGRAMS = ("nebula", "nebula-cert")
# nebula's own default (tun.mtu).
MTU_BYTES = 1300
_PORT = 4242
_ADDRESSES = (IPv4Interface("198.19.250.1/24"), IPv4Interface("198.19.250.2/24"))


@contextmanager
def joined(ends: Sequence[End]) -> Iterator[None]:
    """Start both ends."""
    authority = ends[0].folder / "ca"
    files = ["-out-crt", f"{authority}.crt", "-out-key", f"{authority}.key"]
    process.run(["nebula-cert", "ca", "-name", "bench", *files])
    with ExitStack() as stack:
        for number, end in enumerate(ends):
            config = _configure(end, ends[1 - number], number, str(authority))
            log = end.folder / "nebula.log"
            started = stack.enter_context(running(end.host.words("nebula", "-config", config), log))
            wait_for(started, "nebula's device", end.has_device, log)
        yield


def _configure(end: End, other: End, number: int, authority: str) -> str:
    """Write a certificate and the configuration, which is YAML and so may be JSON; its path."""
    own, remote = _ADDRESSES[number], _ADDRESSES[1 - number]
    pair = str(end.folder / "host")
    sign = ["nebula-cert", "sign", "-ca-crt", f"{authority}.crt", "-ca-key", f"{authority}.key"]
    sign += ["-name", f"host{number}", "-ip", str(own), "-subnets", f"{end.container.address}/32"]
    process.run([*sign, "-out-crt", f"{pair}.crt", "-out-key", f"{pair}.key"])
    everything = [{"port": "any", "proto": "any", "host": "any"}]
    route = {"route": f"{other.container.address}/32", "via": str(remote.ip), "mtu": MTU_BYTES}
    config = end.folder / "nebula.json"
    config.write_text(
        json.dumps(
            {
                "pki": {"ca": f"{authority}.crt", "cert": f"{pair}.crt", "key": f"{pair}.key"},
                "static_host_map": {str(remote.ip): [f"{other.host.address}:{_PORT}"]},
                "lighthouse": {"am_lighthouse": False, "hosts": []},
                "listen": {"host": str(end.host.address), "port": _PORT},
                "tun": {"dev": end.device, "mtu": MTU_BYTES, "unsafe_routes": [route]},
                "firewall": {"outbound": everything, "inbound": everything},
            }
        )
    )
    return str(config)
