"""Makes a yum repository of the RPMs, with signed metadata and a file for /etc/yum.repos.d of a host."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from images import signing
from images.engine import process, sandbox
from images.engine.errors import BuildError
from images.signing import SigningKey

KEY_FILE = "RPM-GPG-KEY-overlayd"
REPO_FILE = "overlayd.repo"
# The place that overlayd.repo names when no URL was given: a copy of the release on the host.
BASEURL = "file:///srv/overlayd/yum"
_URL = re.compile(r"(?:https?|ftp|file)://[!-~]+")


def checked(baseurl: str) -> str:
    """A URL at which a repository can be served, without a slash at its end. Raises BuildError for any other text."""
    if not _URL.fullmatch(baseurl):
        raise BuildError(
            f"--baseurl={baseurl!r} is no URL of a repository", hint="allowed: http, https, ftp and file, as yum reads"
        )
    return baseurl.rstrip("/")


def repo_file(baseurl: str) -> str:
    """The text of overlayd.repo, by which yum refuses packages and metadata without a good signature."""
    return f"""\
# baseurl is where the folder that holds this file is served; gpgkey is below it.
[overlayd]
name=overlayd
baseurl={baseurl}
enabled=1
gpgcheck=1
repo_gpgcheck=1
gpgkey={baseurl}/{KEY_FILE}
"""


def make(rpms: Sequence[Path], to: Path, *, epoch: int, key: SigningKey | None, baseurl: str) -> None:
    """Make the repository in `to`, of copies of the RPMs. Without a key nothing is signed.

    `epoch`, in Unix seconds, is the time in the metadata and of the files: the same RPMs give the same bytes, apart
    from signatures. Raises BuildError.
    """
    sandbox.require("createrepo_c")
    to.mkdir()
    copies = [to / rpm.name for rpm in rpms]
    for rpm, copy in zip(rpms, copies, strict=True):
        shutil.copyfile(rpm, copy)
    if key is not None:
        sandbox.require("rpmsign")
        signing.sign_rpms(key, copies)
    for copy in copies:
        os.utime(copy, (epoch, epoch))
    process.capture(
        [
            *("createrepo_c", "--quiet", "--no-database", f"--revision={epoch}", "--set-timestamp-to-revision"),
            *("--simple-md-filenames", to),
        ]
    )
    if key is not None:
        signing.sign_detached(key, to / "repodata/repomd.xml")
        (to / KEY_FILE).write_bytes(signing.export_public(key))
    (to / REPO_FILE).write_text(repo_file(baseurl))
