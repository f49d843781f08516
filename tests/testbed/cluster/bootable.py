"""Whether the hosts of a base can be containers of this machine: not where their systemd wants other cgroups."""

from __future__ import annotations

from pathlib import Path

from images.bases import catalogue, choose
from overlayd.errors import UnsupportedError

CGROUP = Path("/sys/fs/cgroup")


def why_not(base: str, cgroup: Path = CGROUP) -> str | None:
    """Why a base's systemd does not boot in a container here; None when it does, and for a name that is no base's."""
    return choose.unbootable(catalogue.get(base), cgroup) if base in catalogue.NAMES else None


def cgroup_folder(base: str) -> Path:
    """The folder of this machine that a host of a base has at /sys/fs/cgroup."""
    found = choose.cgroup_folder(catalogue.get(base), CGROUP) if base in catalogue.NAMES else None
    return found or CGROUP


def require(base: str) -> None:
    """Raises UnsupportedError, which names virtual machines as the way, when hosts of a base cannot be containers."""
    if why := why_not(base):
        raise UnsupportedError(
            f"hosts of {base} cannot be containers here: {why}",
            hint=f"invoke cluster.up --machines --base {base} starts them as virtual machines",
        )
