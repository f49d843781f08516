"""overlayd/docker: a Docker host without overlayd, as a user has it before `yum install overlayd`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from images import layered_image
from images.base import recipe as system
from images.bases.base import Base
from images.bases.product import Product, image_target
from images.engine.graph import Target

CONFIG = replace(
    system.CONFIG,
    description="A system container with a Docker of its own",
    # Docker inside must not store its layers in the container's own: overlay2 does not stack on overlay2.
    volumes=("/var/lib/docker", "/var/lib/containerd"),
)


def _targets(base: Base) -> tuple[Target, ...]:
    image = layered_image.target(
        image="docker",
        recipe=Path(__file__),
        base=base,
        parent="base",
        packages=base.packages["docker"],
        config=CONFIG,
        script=f"systemctl enable {' '.join(base.enable['docker'])}\ndockerd --version\n",
    )
    return (image,)


PRODUCT = Product(name=image_target("docker"), roles=("docker",), targets=_targets, build_all=(image_target("docker"),))
