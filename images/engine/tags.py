"""The tags by which a build folder keeps its images in Docker. Pure.

An image's name, `overlayd/base:debian12-rpm`, is for people, and every checkout that builds on the same dockerd moves
it. A build folder's own tag stays where it is, whatever others do with the name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

# The repository that all of these tags are in.
OWN = "overlayd-build/"
# How the tag of an image begins that was loaded and has no name yet.
NEW = "new-"
# A repository's name has at most 255 bytes.
_LONGEST_FOLDER = 220


@dataclass(frozen=True, kw_only=True)
class TaggedImage:
    """An image that Docker has under a tag: its ID there, and its labels."""

    id: str
    labels: Mapping[str, str]


def own_tag(owner: str, name: str) -> str:
    """The tag by which the build folder `owner` keeps the image `name`.

    `overlayd-build/<the folder in hexadecimal>:<image>-<base>`; of a folder with a very long path its SHA-256.
    """
    folder = owner.encode().hex()
    if len(folder) > _LONGEST_FOLDER:
        folder = f"x{hashlib.sha256(owner.encode()).hexdigest()}"
    return f"{OWN}{folder}:{name.rpartition('/')[2].replace(':', '-')}"


def folder_of(tag: str) -> str | None:
    """The build folder whose tag this is; None for one that is only known by its SHA-256."""
    try:
        return bytes.fromhex(tag.removeprefix(OWN).partition(":")[0]).decode()
    except ValueError:
        return None
