"""The images in Docker: loaded from the layout, named, removed.

An image's name, `overlayd/base:debian12-rpm`, is for people; every checkout that builds on the same dockerd moves it.
So each build folder also has tags of its own for its images (images.engine.tags), and starts containers by image ID.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

from docker.errors import APIError, NotFound

from images.engine.annotations import LABEL, LABEL_INPUTS
from images.engine.containers import engine
from images.engine.errors import BuildError
from images.engine.oci import Image, Layer, Layout
from images.engine.tags import NEW, OWN, TaggedImage, folder_of, own_tag


def labelled_images() -> dict[str, TaggedImage]:
    """The images in Docker that any checkout built, by each of their tags. One request."""
    with engine() as client:
        images = _listed(client, label=LABEL_INPUTS)
    return {
        tag: TaggedImage(id=image["Id"], labels=image["Labels"])
        for image in images
        for tag in image.get("RepoTags") or ()
    }


def docker_id(layout: Layout, image: Image, owner: str, scratch: Path) -> str:
    """Docker's ID of an image of the layout. Docker is given the image where the folder's own tag is not on it.

    A container that is started by this ID is of this image, whoever moves a tag meanwhile.
    """
    own = own_tag(owner, image.name)
    with engine() as client:
        try:
            found = client.inspect_image(own)
        except NotFound:
            found = None
        if found is not None and _is(found, image):
            return str(found["Id"])
        return _move(client, load(layout, image, owner, scratch), own)


def load(layout: Layout, image: Image, owner: str, scratch: Path, *, known: Sequence[Layer] = ()) -> str:
    """Give an image of the layout to Docker; the temporary tag that it has there.

    `known` are layers that Docker has already: it is sent them only when it refuses the image without.
    """
    new = own_tag(owner, f"{NEW}{secrets.token_hex(4)}-{image.name.rpartition('/')[2]}")
    archive = scratch / "docker.tar"
    try:
        with engine() as client:
            for left_out in (known, ()):
                layout.docker_archive(image, archive, tags=[new], known=left_out)
                try:
                    with archive.open("rb") as file:
                        _check_loaded(client.load_image(file, quiet=True))
                    return new
                except (BuildError, APIError):
                    if not left_out:
                        raise
    finally:
        archive.unlink(missing_ok=True)
    raise AssertionError("unreachable")


def publish(new: str, owner: str, name: str) -> str:
    """Give a loaded image the folder's own tag in place of the temporary one, and its name; Docker's ID of it."""
    with engine() as client:
        found = _move(client, new, own_tag(owner, name))
        _tag(client, found, name)
    return found


def name(docker_id: str, name: str) -> None:
    """Give an image a name. The image that had it before is removed, unless it has another name or a container."""
    with engine() as client:
        _tag(client, docker_id, name)


def drop(new: str) -> None:
    """Remove the image that `load` gave to Docker. One that is gone, or is in use, is no error."""
    with engine() as client, contextlib.suppress(APIError):
        client.remove_image(new, force=False)


class Forgotten(NamedTuple):
    """What `forget` did: the tags that it removed, and those that it left because a container uses the image."""

    removed: list[str]
    in_use: list[str]


def forget(owner: str, *, gone: bool = False) -> Forgotten:
    """Remove a build folder's own tags, and with them images that have no other name. One that is in use is left.

    With `gone` also those of build folders that do not exist here. They may exist for others, who build in a container.
    """
    done = Forgotten([], [])
    with engine() as client:
        ours = own_tag(owner, "")
        for tag in _own_tags(client):
            if not (tag.startswith(ours) or (gone and _is_of_nobody(tag))):
                continue
            try:
                client.remove_image(tag, force=False)
            except NotFound:
                continue
            except APIError as error:
                if error.status_code != HTTPStatus.CONFLICT:
                    raise
                done.in_use.append(tag)
            else:
                done.removed.append(tag)
    return done


def remove_leftovers(owner: str) -> list[str]:
    """Remove the images that a killed build of the same build folder left; their tags.

    And all images of ours that have no tag: containers used them when they were replaced.
    """
    with engine() as client:
        left = [tag for tag in _own_tags(client) if tag.startswith(own_tag(owner, NEW))]
        unnamed = [image["Id"] for image in _listed(client, dangling=True, label=LABEL)]
        for one in [*left, *unnamed]:
            with contextlib.suppress(APIError):
                client.remove_image(one, force=False)
    return left


def _is_of_nobody(tag: str) -> bool:
    """Whether the build folder whose tag this is has been removed."""
    folder = folder_of(tag)
    return folder is not None and not Path(folder).exists()


def _listed(client: Any, **filters: object) -> list[dict[str, Any]]:
    """Images as Docker lists them. Tried three times: dockerd 20.10 fails when an image is removed meanwhile."""
    for last in (False, False, True):
        try:
            return list(client.images(filters=filters))
        except APIError:
            if last:
                raise
    raise AssertionError("unreachable")


def _own_tags(client: Any) -> list[str]:
    listed = _listed(client, reference=f"{OWN}*")
    return [tag for image in listed for tag in image.get("RepoTags") or () if tag.startswith(OWN)]


def _move(client: Any, new: str, to: str) -> str:
    """Give the image with the tag `new` the tag `to` instead; Docker's ID of it."""
    found = str(client.inspect_image(new)["Id"])
    _tag(client, found, to)
    client.remove_image(new, force=False)
    return found


def _tag(client: Any, image: str, to: str) -> None:
    try:
        before = str(client.inspect_image(to)["Id"])
    except NotFound:
        before = image
    repository, _, version = to.rpartition(":")
    client.tag(image, repository, version)
    if before != image:
        # Not by force: it stays where it has another name, a container, or an image that is made of it.
        with contextlib.suppress(APIError):
            if not client.inspect_image(before)["RepoTags"]:
                client.remove_image(before, force=False)


def _is(found: Mapping[str, Any], image: Image) -> bool:
    """Whether an image in Docker has the layers and the labels of one of the layout."""
    same = found["RootFS"]["Layers"] == [layer.digest for layer in image.layers]
    return same and (found["Config"]["Labels"] or {}) == image.labels


def _check_loaded(answer: Iterable[Mapping[str, Any]]) -> None:
    for line in answer:
        if "error" in line:
            raise BuildError(f"Docker could not load the image: {line['error']}")
