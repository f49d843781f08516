"""What the RPM is made of: the files that count, the version, and the time that stands in it."""

from __future__ import annotations

from pathlib import Path

from images.engine.errors import CommandFailed
from images.engine.inputs import given_epoch
from images.engine.process import capture

ROOT = Path(__file__).resolve().parents[1]
DAEMON = Path("daemon")
PACKAGE = DAEMON / "overlayd"
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
)


def epoch(root: Path) -> int:
    """The time that counts as the build's, in seconds since 1970.

    SOURCE_DATE_EPOCH, or the time of the commit that last changed one of the files; 0 where there is no git. Raises
    BuildError.
    """
    given = given_epoch()
    if given is not None:
        return given
    try:
        paths = (PACKAGE, FREEZE, DOCS, LICENCES, SPEC, LOCK, *SOURCES)
        found = capture(["git", "log", "-1", "--format=%ct", "--", *paths], cwd=root)
    except CommandFailed:
        return 0
    return int(found.strip() or 0)
