"""Single containers of the etcd image, as tests run them."""

from __future__ import annotations

import json
from typing import Any

from docker.models.containers import Container

from images.etcd.recipe import VOLUME
from tests.testbed.cluster.docker_engine import client, outcome
from tests.testbed.cluster.images import image_of
from tests.testbed.polling import eventually

LABEL = "org.overlayd.test=etcd-image"
_HARDENED: dict[str, Any] = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"]}


def run(base: str, volume: str, **how: Any) -> Container:
    """A container of the image, with as few rights as there are and its data on `volume`."""
    binds = [f"{volume}:{VOLUME}", *how.pop("binds", [])]
    key, _, value = LABEL.partition("=")
    found: Container = client().containers.run(
        image_of("etcd", base), detach=True, volumes=binds, labels={key: value}, **_HARDENED, **how
    )
    return found


def serves(container: Container, **variables: str) -> None:
    """Wait until the health check, with more variables, says that etcd serves."""
    eventually("etcd is healthy", lambda: outcome(container, "etcd-health", **variables)[0] == 0)


def cluster_id(container: Container) -> int:
    """The id of the cluster that the container's etcd is a member of."""
    _, output = outcome(container, "etcdctl", "endpoint", "status", "--write-out=json")
    return int(json.loads(output.splitlines()[-1])[0]["Status"]["header"]["cluster_id"])
