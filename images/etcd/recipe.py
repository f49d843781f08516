"""overlayd/etcd: etcd alone in a container, run by a user of its own, with its data on a volume."""

from __future__ import annotations

from pathlib import Path

from images import layered_image
from images.bases.base import Base
from images.bases.product import Product, image_target
from images.engine.containers import ImageConfig
from images.engine.graph import Target
from images.etcd import release

VOLUME = "/var/lib/etcd"
# The user's number is the same on every base and in every release, as the files of a volume belong to a number. It is
# above the numbers that distributions give to accounts of their packages.
USER_ID = 2379

CONFIG = ImageConfig(
    description="etcd as the one process of a container",
    # etcd-start checks settings, files and volume, then becomes etcd. It has the defaults, not this image: a variable
    # that an image sets cannot be unset when a container is started.
    command=("etcd-start",),
    env={"ETCDCTL_API": "3"},
    user="etcd",
    workdir=VOLUME,
    ports=(2379, 2380),
    volumes=(VOLUME,),
    healthcheck=("etcd-health",),
)
# A package of etcd makes the account with a number that is free: it gets ours.
SCRIPT = f"""\
getent group etcd >/dev/null || groupadd --gid {USER_ID} etcd
getent passwd etcd >/dev/null ||
    useradd --uid {USER_ID} --gid etcd --home-dir {VOLUME} --no-create-home --shell /sbin/nologin etcd
groupmod --gid {USER_ID} etcd
usermod --uid {USER_ID} --gid {USER_ID} etcd
rm -rf {VOLUME}
install -d -o etcd -g etcd -m 700 {VOLUME}
etcd --version
etcdctl version
# Tests may have compiled the sources in the checkout.
rm -rf /usr/libexec/etcd/etcd_container/__pycache__
python3 -IB -c 'import sys; sys.path.insert(0, "/usr/libexec/etcd"); import etcd_container.health'
"""


def _targets(base: Base) -> tuple[Target, ...]:
    """The target of this image; before it, on a base without a package of etcd, the one that fetches its release."""
    fetched = () if base.packaged_etcd else (release.target(release_url(base)),)
    unpack = "" if base.packaged_etcd else release.INSTALL_SCRIPT
    image = layered_image.target(
        image="etcd",
        recipe=Path(__file__),
        base=base,
        parent="base",
        packages=base.packages["etcd"],
        config=CONFIG,
        script=unpack + SCRIPT,
        mounts={} if base.packaged_etcd else {release.PROGRAMS_FOLDER: release.MOUNT},
        needs=tuple(target.name for target in fetched),
    )
    return (*fetched, image)


def release_url(base: Base) -> str:
    """Where the release is fetched from: upstream's own place, or a mirror of it."""
    return f"{base.site('etcd')}/v{release.VERSION}/{release.URL.rpartition('/')[2]}"


PRODUCT = Product(name=image_target("etcd"), roles=("etcd",), targets=_targets, build_all=(image_target("etcd"),))
