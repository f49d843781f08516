"""overlayd/etcd: etcd as the one process of a container, as a user of its own, with its data on a volume."""

from __future__ import annotations

from pathlib import Path

from images import scripts
from images.base import recipe as system
from images.bases.base import Base
from images.engine.containers import ImageConfig
from images.engine.graph import Target
from images.etcd import release

NAME = "images.etcd"
DATA = "/var/lib/etcd"

CONFIG = ImageConfig(
    description="etcd as the one process of a container",
    command=("etcd",),
    # Variables and not flags: who starts the container overrides one of them and leaves the others.
    env={
        "ETCD_NAME": "default",
        "ETCD_DATA_DIR": DATA,
        "ETCD_LISTEN_CLIENT_URLS": "http://0.0.0.0:2379",
        "ETCD_ADVERTISE_CLIENT_URLS": "http://127.0.0.1:2379",
        "ETCDCTL_API": "3",
    },
    user="etcd",
    workdir=DATA,
    ports=(2379, 2380),
    volumes=(DATA,),
    healthcheck=("etcdctl", "--endpoints=http://127.0.0.1:2379", "endpoint", "health"),
)
_SCRIPT = f"""\
id -u etcd >/dev/null 2>&1 || useradd --system --home-dir {DATA} --shell /sbin/nologin etcd
install -d -o etcd -g etcd -m 700 {DATA}
etcd --version
etcdctl version
"""


def targets(base: Base) -> tuple[Target, ...]:
    """The target of this image; before it, on a base without a package of etcd, the one that fetches its release."""
    fetched = () if base.packaged_etcd else (release.target(release_url(base)),)
    unpack = "" if base.packaged_etcd else release.INSTALL_SCRIPT
    image = scripts.target(
        name=NAME,
        recipe=Path(__file__),
        base=base,
        image="etcd",
        parent="base",
        parent_target=system.NAME,
        packages=base.packages["etcd"],
        config=CONFIG,
        script=unpack + _SCRIPT,
        mounts={} if base.packaged_etcd else {release.FOLDER: release.MOUNT},
        needs=tuple(target.name for target in fetched),
    )
    return (*fetched, image)


def release_url(base: Base) -> str:
    """Where the release is fetched from: upstream's own place, or a mirror of it."""
    return f"{base.site('etcd')}/v{release.VERSION}/{release.URL.rpartition('/')[2]}"
