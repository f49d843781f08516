"""The base `debian13-rpm`: Debian 13's packages as RPMs."""

from __future__ import annotations

from images.bases.debian.entry import entry
from images.bases.debian.suite import DebianSuite

SUITE = DebianSuite(
    base="debian13-rpm",
    title="Debian 13",
    codename="trixie",
    release="13",
    # Its archive, security, and release key.
    fingerprints=(
        "04B54C3CDCA79751B16BC6B5225629DF75B188BD",
        "5E04A1E3223A19A20706E20F9904613D4CCE68C6",
        "41587F7DB8C774BCCF131416762F67A0B2C39DE4",
    ),
    python="python3.13",
    packages=("docker-cli",),
)
BASE = entry(
    SUITE,
    preference=5,
    cgroups=(2,),
    notes=("its systemd starts on cgroup v2 only, which a hybrid machine has beside v1",),
)
