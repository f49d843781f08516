"""Repositories that are made here: their metadata is signed, and every install from them checks the signature.

The key is one of this build folder, which is made when it is first needed and never leaves the folder, or the one that
the user names (images.signing.VARIABLE). The packages are not signed, so that an image is the same whatever the key.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

from images import signing
from images.engine.errors import BuildError
from images.engine.step import Step


@dataclass(frozen=True, kw_only=True)
class LocalRepository:
    """A repository that one target makes and another installs from.

    `folder` holds the packages, `keys` the public key that the metadata is checked against: beside it, and never
    inside. Both are below the build folder.
    """

    target: str
    folder: Path
    keys: Path


# Made by rpm/, installed from by the image `host`.
RPM_REPOSITORY = LocalRepository(target="rpm.build", folder=Path("rpm/repo"), keys=Path("rpm/keys/rpm.asc"))
HOME = Path("keys/repositories")
_UID = "overlayd build folder (signs local repositories only)"
_one_at_a_time = threading.Lock()


def sign(step: Step, repository: Path, public: Path) -> None:
    """Sign the metadata of a repository (repomd.xml.asc), and write the public key to `public`. Raises BuildError."""
    with _one_at_a_time:
        key = _key(step.build)
        [signature] = signing.sign_detached(key, repository / "repodata/repomd.xml")
        public.write_bytes(signing.export_public(key))
    # It helps to find out why dnf refuses a repository.
    step.report(f"{signature.name} by {key.fingerprint} ({key.uid})")


def _key(build: Path) -> signing.SigningKey:
    wanted = os.environ.get(signing.VARIABLE)
    if wanted:
        return signing.find(wanted)
    home = build / HOME
    if not home.is_dir():
        return signing.generate(home, _UID)
    try:
        return signing.find(None, home=home)
    except BuildError as error:
        raise BuildError(error.message, hint=f"remove {home}: the next build makes a new key") from error
