"""overlayd/host: a Docker host with overlayd, whose RPM yum installs; the services of both are enabled."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from images import layered_image
from images.bases import dnf
from images.bases.base import Base
from images.bases.local_repository import RPM_REPOSITORY
from images.bases.product import Product, image_target
from images.docker import recipe as docker
from images.engine.annotations import version
from images.engine.graph import Target
from images.engine.place import ROOT
from images.probe import recipe as probe

_RPM_MOUNT = "/run/overlayd/rpm"
_PROBE_MOUNT = "/run/overlayd/probe"

_CONFIG = dnf.configuration(
    "the RPM of overlayd",
    _RPM_MOUNT,
    f"{dnf.KEYS_MOUNT}/{RPM_REPOSITORY.keys.name}",
    signed_packages=False,
    section="overlayd",
)
_SCRIPT = f"""\
{dnf.script(_CONFIG, "install overlayd")}
install -D -m 644 {_PROBE_MOUNT}/{probe.TAR.name} /usr/share/overlayd/probe.tar
systemctl enable overlayd-environment.service overlayd.service
rpm --query overlayd
"""


def _targets(base: Base) -> tuple[Target, ...]:
    image = layered_image.target(
        image="host",
        recipe=Path(__file__),
        base=base,
        parent="docker",
        packages=(),
        config=dataclasses.replace(docker.CONFIG, description="A Docker host with overlayd", version=version(ROOT)),
        script=_SCRIPT,
        mounts={
            RPM_REPOSITORY.folder: _RPM_MOUNT,
            RPM_REPOSITORY.keys.parent: dnf.KEYS_MOUNT,
            probe.TAR.parent: _PROBE_MOUNT,
        },
        needs=(RPM_REPOSITORY.target, probe.TAR_NAME),
    )
    return (image,)


# It needs what the RPM needs, which is made in the image builder.
PRODUCT = Product(
    name=image_target("host"), roles=("builder", "docker"), targets=_targets, build_all=(image_target("host"),)
)
