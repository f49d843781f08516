"""The base `debian-testing-rpm`: as RPMs, the packages of Debian 14, which is being made; other ones each day."""

from __future__ import annotations

from images.bases.debian.entry import entry
from images.bases.debian.suite import DebianSuite

# systemd loads these when it needs them, so that Debian's package only recommends them.
_LOADED = (
    *("libacl1", "libapparmor1", "libaudit1", "libblkid1", "libcrypt1", "libkmod2", "libpam0g", "libseccomp2"),
    *("libselinux1", "libssl3t64", "libzstd1"),
)
SUITE = DebianSuite(
    base="debian-testing-rpm",
    title="Debian testing (14)",
    # By its name and not as `testing`: that becomes another release on the day when this one is out.
    codename="forky",
    release="14",
    # Until it has keys of its own, it is signed with those of Debian 13: archive and security.
    fingerprints=(
        "04B54C3CDCA79751B16BC6B5225629DF75B188BD",
        "5E04A1E3223A19A20706E20F9904613D4CCE68C6",
    ),
    python="python3.14",
    packages=("docker-cli", "login", "mount", "passwd", *_LOADED),
    dated=False,
)
BASE = entry(
    SUITE,
    preference=6,
    systemd=_LOADED,
    cgroups=(2,),
    notes=(
        "its packages change daily; how old the mirror's copy is, is not checked",
        "its systemd starts on cgroup v2 only, which a hybrid machine has beside v1",
    ),
)
