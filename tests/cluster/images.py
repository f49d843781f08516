"""Which image a container is started from: the one place that says so."""

from __future__ import annotations

from tests.cluster import docker_engine


def image_of(role: str, base: str) -> str:
    """The ID of the image of a role (`host`, `etcd`, `probe`, `docker`, `freezer`, `base`) on a base.

    Containers are started by it, as a tag may be moved by another build in the meantime. Raises OverlaydError where the
    image has not been built.
    """
    return docker_engine.image_id(f"overlayd/{role}:{base}")
