"""The right to load BPF programs, for hosts that are containers: Docker before 23 cannot give them CAP_BPF."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.testbed.cluster.machine import Machine

# capability(7), as a bit of the sets in proc(5).
_CAP_BPF = 1 << 39
_DROP_IN = "/run/systemd/system/overlayd.service.d/bpf.conf"
_RESTART = "systemctl daemon-reload && systemctl restart overlayd"


@contextmanager
def may_load_bpf(host: Machine) -> Iterator[None]:
    """Let the daemon of a host load BPF programs, for the length of the block.

    Where the host lacks CAP_BPF, its unit gets what kernels before 5.8 want (rpm/README.md).
    """
    bounding = int(host.run("grep", "CapBnd", "/proc/1/status").split()[1], 16)
    if bounding & _CAP_BPF:
        yield
        return
    host.shell(f"mkdir -p {Path(_DROP_IN).parent}")
    host.shell(f"printf '[Service]\\nCapabilityBoundingSet=CAP_SYS_ADMIN\\n' >{_DROP_IN}")
    try:
        host.shell(_RESTART)
        yield
    finally:
        host.shell(f"rm {_DROP_IN} && {_RESTART}")
