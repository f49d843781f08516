"""What the RPM is made of: the files, its release, and the time that it states."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path

from images.engine import commit, inputs
from images.engine.errors import BuildError
from images.engine.inputs import given_epoch

DAEMON = Path("daemon")
PACKAGE = DAEMON / "overlayd"
BPF = DAEMON / "bpf"
FREEZE = Path("rpm/freeze")
DOCS = Path("rpm/docs")
LICENCES = Path("rpm/licenses")
SPEC = Path("rpm/overlayd.spec")
LOCK = Path("requirements/freeze.txt")
# What the spec installs beside the program, as it names them (Source1: and so on).
SOURCES = (
    Path("rpm/units/overlayd.service"),
    Path("rpm/units/docker.conf"),
    Path("rpm/units/overlayd.preset"),
    Path("rpm/units/overlayd.tmpfiles"),
    Path("rpm/units/overlayd.sysconfig"),
    Path("rpm/units/overlayd.link"),
    Path("rpm/units/overlayd.network"),
    Path("rpm/units/overlayd-networkmanager.conf"),
    Path("rpm/firewalld/policies/overlayd-forward.xml"),
    Path("rpm/firewalld/policies/overlayd-input.xml"),
    Path("rpm/firewalld/ipsets/overlayd-peers.xml"),
    Path("rpm/firewalld/ipsets/overlayd-peers6.xml"),
    Path("rpm/firewalld/services/overlayd.xml"),
    Path("rpm/README.md"),
    Path("LICENSE"),
    Path("rpm/units/overlayd-containers.socket"),
    Path("rpm/units/overlayd-containers.service"),
    Path("rpm/units/overlayd-of-number.sed"),
    Path("rpm/monitoring/overlayd-scrape.yml"),
    Path("rpm/monitoring/overlayd-alerts.yml"),
    Path("rpm/monitoring/overlayd-dashboard.json"),
)


# The variable that gives the RPM's release a number.
NUMBER = "OVERLAYD_RELEASE"
_NUMBER = re.compile(r"[1-9][0-9]*([._][0-9A-Za-z]+)*")


def epoch(root: Path) -> int:
    """The time that the RPM states, in Unix seconds: SOURCE_DATE_EPOCH, else the commit's. Raises BuildError."""
    given = given_epoch()
    return commit.of(root).time if given is None else given


def release(root: Path) -> str:
    """The RPM's release. Raises BuildError.

    Of a commit it is `0.<time>.g<commit>`, the time as 20261129101533 (UTC): the RPM of a later commit upgrades that of
    an earlier one. The variable NUMBER gives a number instead, of 1 or more, so that the numbered release upgrades all
    RPMs of commits before it. Where files differ from the commit, `.dirty` is added, or `~dirty` to a number, and a
    digest of all files.
    """
    number = os.environ.get(NUMBER, "")
    if number and not _NUMBER.fullmatch(number):
        raise BuildError(
            f"{NUMBER} is {number!r}", hint="allowed: a number from 1, then letters and digits after dots: 1, 2.el9"
        )
    found = commit.of(root)
    said = number or f"0.{datetime.fromtimestamp(found.time, UTC):%Y%m%d%H%M%S}.g{found.id[:8]}"
    if not commit.changed(root, commit.PARTS):
        return said
    # For rpm `.dirty` is newer than the commit itself, and `~dirty` is older than the numbered release.
    mark = "~dirty" if number else ".dirty"
    return f"{said}{mark}{inputs.fingerprint(inputs.of_files(root, [root / path for path in commit.PARTS]))[:8]}"
