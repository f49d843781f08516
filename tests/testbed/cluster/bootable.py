"""Whether the hosts of a base can be containers of this machine: not where their systemd wants other cgroups."""

from __future__ import annotations

from images.bases import catalogue, choose
from overlayd.errors import UnsupportedError


def why_not(base: str) -> str | None:
    """Why a base's systemd does not boot in a container here; None when it does, and for a name that is no base's."""
    return choose.unbootable(catalogue.get(base)) if base in catalogue.NAMES else None


def require(base: str) -> None:
    """Raises UnsupportedError, which names virtual machines as the way, when hosts of a base cannot be containers."""
    if why := why_not(base):
        raise UnsupportedError(
            f"hosts of {base} cannot be containers here: {why}",
            hint=f"invoke cluster.up --machines --base {base} starts them as virtual machines",
        )
