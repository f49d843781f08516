"""SELinux: the programs that the daemon starts keep its context, where no other can be entered."""

from __future__ import annotations

import contextlib
from pathlib import Path

_PROC = Path("/proc")


def keep_context(proc: Path = _PROC) -> None:
    """Let what this thread and its later threads start have this process's own SELinux context.

    Policies have a domain for iptables(8). Who is forbidden new privileges, as by the unit, cannot enter it unless the
    policy has `nnp_transition`: the kernel goes on in our domain, and logs a denial for each call
    (security/selinux/hooks.c, Linux 4.14). To ask for our own context is no transition. Elsewhere nothing is done.
    """
    filesystems = (proc / "filesystems").read_text().split()
    if "selinuxfs" not in filesystems or "NoNewPrivs:\t1" not in (proc / "self/status").read_text().splitlines():
        return
    own = (proc / "thread-self/attr/current").read_bytes()
    # A policy that does not allow it leaves the program as it is.
    with contextlib.suppress(OSError), (proc / "thread-self/attr/exec").open("wb", buffering=0) as file:
        file.write(own)
