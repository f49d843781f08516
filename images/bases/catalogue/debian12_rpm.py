"""The base `debian12-rpm`: Debian 12's packages as RPMs that have EL's names too. It does not claim to be CentOS."""

from __future__ import annotations

from images.bases.debian.entry import entry
from images.bases.debian.suite import DebianSuite

SUITE = DebianSuite(
    base="debian12-rpm",
    title="Debian 12",
    codename="bookworm",
    release="12",
    # Its archive, security, and release key.
    fingerprints=(
        "B8B80B5B623EAB6AD8775C45B7C5D7D6350947F8",
        "05AB90340C0C5E797F44A8C8254CF3B5AEC0A8F0",
        "4D64FEC119C2029067D6E791F8D2585B8783D481",
    ),
    python="python3.11",
)
BASE = entry(
    SUITE,
    preference=3,
    notes=("for machines that reach no CentOS mirror: the same dnf, yum and rpm, other packages",),
)
