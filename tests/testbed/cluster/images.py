"""Which image a container is started from: the one place that says so."""

from __future__ import annotations

from images.engine.place import PLACE
from images.engine.tags import own_tag
from tests.testbed.cluster import docker_engine


def image_of(role: str, base: str) -> str:
    """The ID of the image of a role (`host`, `etcd`, `probe`, `docker`, `freezer`, `base`) on a base.

    It is the one that this checkout built, even if another image has the name now; where this checkout built none
    (images.load brought it), the one that has the name. Raises OverlaydError where there is neither.
    """
    name = f"overlayd/{role}:{base}"
    own = own_tag(PLACE.owner, name)
    return docker_engine.image_id(own if docker_engine.has_image(own) else name)
