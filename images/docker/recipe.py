"""overlayd/docker: a Docker host without overlayd, as a user has it before `yum install overlayd`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from images import scripts
from images.base import recipe as system
from images.bases.base import Base
from images.engine.graph import Target

NAME = "images.docker"
CONFIG = replace(
    system.CONFIG,
    description="A system container with a Docker of its own",
    # overlay2 does not stack on overlay2: what Docker inside stores is never part of the container's own layer.
    volumes=("/var/lib/docker", "/var/lib/containerd"),
)


def target(base: Base) -> Target:
    """The target of this image."""
    return scripts.target(
        name=NAME,
        recipe=Path(__file__),
        base=base,
        image="docker",
        parent="base",
        parent_target=system.NAME,
        packages=base.packages["docker"],
        config=CONFIG,
        script=f"systemctl enable {' '.join(base.enable['docker'])}\ndockerd --version\n",
    )
