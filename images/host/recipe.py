"""overlayd/host: the Docker host with the RPM of overlayd installed by yum, both enabled."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from images import scripts
from images.bases import dnf
from images.bases.base import Base
from images.docker import recipe as docker
from images.engine.annotations import version
from images.engine.graph import Target
from images.probe import recipe as probe

NAME = "images.host"
# The contract with rpm/: the target that makes this repository and the public key that its metadata is checked against,
# and where they lie below the build folder.
RPM_TARGET = "rpm.build"
RPM_REPOSITORY = Path("rpm/repo")
RPM_KEYS = Path("rpm/keys/rpm.asc")
_RPM_MOUNT = "/run/overlayd/rpm"
_PROBE_MOUNT = "/run/overlayd/probe"

_CONFIG = dnf.configuration(
    "the RPM of overlayd", _RPM_MOUNT, f"{dnf.KEYS_MOUNT}/{RPM_KEYS.name}", signed_packages=False, section="overlayd"
)
_SCRIPT = f"""\
{dnf.script(_CONFIG, "install overlayd")}
install -D -m 644 {_PROBE_MOUNT}/{probe.TAR.name} /usr/share/overlayd/probe.tar
systemctl enable overlayd-environment.service overlayd.service
rpm --query overlayd
"""


def target(base: Base) -> Target:
    """The target of this image."""
    return scripts.target(
        name=NAME,
        recipe=Path(__file__),
        base=base,
        image="host",
        parent="docker",
        parent_target=docker.NAME,
        packages=(),
        config=dataclasses.replace(
            docker.CONFIG, description="A Docker host with overlayd", version=version(Path(__file__).parents[2])
        ),
        script=_SCRIPT,
        mounts={RPM_REPOSITORY: _RPM_MOUNT, RPM_KEYS.parent: dnf.KEYS_MOUNT, probe.TAR.parent: _PROBE_MOUNT},
        needs=(RPM_TARGET, probe.TAR_NAME),
    )
