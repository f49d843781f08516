"""dnf, told to use one repository and nothing of the machine it runs on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from images.bases.base import Base
from images.engine import process, sandbox
from images.engine.graph import EPOCH
from images.engine.step import Step

KEYS = "keys.asc"
# Where the local repository is mounted while a script runs in a container.
MOUNT = "/run/overlayd/packages"
_FACT = "%{NAME} %{EVR} %{SHA256HEADER} %{BUILDTIME}\n"


def options(base: Base, repository: Path | str) -> list[str]:
    """Options that let dnf take packages of a base from its local repository alone, checking what can be checked."""
    words = [
        "--assumeyes",
        "--setopt=reposdir=/nonexistent",
        f"--repofrompath=packages,file://{repository}",
        "--repo=packages",
        f"--releasever={base.releasever}",
        "--setopt=install_weak_deps=False",
        "--setopt=tsflags=nodocs",
        "--setopt=keepcache=False",
    ]
    if base.signed:
        words += ["--setopt=packages.gpgcheck=1", f"--setopt=packages.gpgkey=file://{repository}/{KEYS}"]
    else:
        words.append("--nogpgcheck")
    return words


def home(step: Step, base: Base) -> dict[str, str]:
    """The environment in which this machine's rpm keeps a root's database where that root's own rpm looks for it."""
    folder = step.scratch / "home"
    folder.mkdir(exist_ok=True)
    (folder / ".rpmmacros").write_text(f"%_dbpath {base.rpm_dbpath}\n")
    return {"HOME": str(folder)}


def install_root(step: Step, base: Base, root: Path, packages: Sequence[str]) -> None:
    """Install packages of a base's local repository, and what they need, into an empty folder."""
    sandbox.require_root_user()
    sandbox.require("dnf", "unshare", "setpriv")
    root.mkdir(parents=True)
    # rpm then notes this as the time of installation, and the same packages give the same database.
    env = {**home(step, base), "SOURCE_DATE_EPOCH": str(step.epoch)}
    dnf = ["dnf", f"--installroot={root}", *options(base, step.build / base.repository), "install", *packages]
    step.run(sandbox.with_devices(root, dnf), env=env)


def install_script(base: Base, packages: Sequence[str]) -> str:
    """Lines of shell that install packages in a container, where the local repository is mounted at MOUNT."""
    return f"yum {' '.join(options(base, MOUNT))} install {' '.join(packages)}\n"


def clean_script(base: Base) -> str:
    """Lines of shell that remove what dnf and rpm leave behind that says when and how, not what.

    The database is written anew, as the base's own is (images.base.recipe): the same packages, the same bytes.
    """
    database = f"{base.rpm_dbpath}/rpmdb.sqlite"
    tidy = "; ".join(
        (
            "import sqlite3, sys",
            "c = sqlite3.connect(sys.argv[1])",
            "c.execute('PRAGMA journal_mode=DELETE')",
            "c.execute('VACUUM')",
        )
    )
    return f"""\
rm -rf /var/cache/dnf /var/cache/yum /var/cache/ldconfig/* /var/lib/dnf/history.sqlite* /var/lib/dnf/repos
rm -f /var/log/dnf*.log /var/log/hawkey.log /var/log/yum.log
[ ! -e {database} ] || /usr/bin/python3 -c "{tidy}" {database}
"""


def facts(step: Step, repository: Path) -> dict[str, str]:
    """What a repository holds, by package: version, and digest of its header, which binds all of its content.

    And the time of the newest of them, which is what images made of them have as their own.
    """
    lines = process.capture(
        ["rpm", "--query", "--package", "--nosignature", "--queryformat", _FACT, *sorted(repository.glob("*.rpm"))],
        env={"HOME": str(step.scratch)},
    ).splitlines()
    rows = [line.split(" ") for line in lines]
    found = {f"package {name}": f"{version} {digest[:8]}" for name, version, digest, _ in rows}
    return {**found, EPOCH: max((time for *_, time in rows), key=int, default="0")}
