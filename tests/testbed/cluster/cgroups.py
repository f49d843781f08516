"""What a removed host leaves in the machine's cgroup tree.

A host shares the machine's cgroup namespace (cgroup v1 needs that for the docker inside), so the cgroups of the
containers on it stand beside its own in the machine's tree, and stay there when the host is removed under them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
# v2; v1 with a hierarchy for each controller. Docker's cgroupfs driver and its systemd driver name them differently.
_PATTERNS = ("docker/{}", "*/docker/{}", "system.slice/docker-{}.scope", "*/system.slice/docker-{}.scope")


def sweep(container_ids: Iterable[str], root: Path = _ROOT) -> None:
    """Remove the empty cgroups of containers that are gone. One that holds a process stays; never raises for it."""
    for container_id in container_ids:
        for pattern in _PATTERNS:
            for top in root.glob(pattern.format(container_id)):
                for folder, _, _ in os.walk(top, topdown=False):
                    # It is not ours to remove as another user, and not there with a Docker on another machine.
                    with contextlib.suppress(OSError):
                        Path(folder).rmdir()
