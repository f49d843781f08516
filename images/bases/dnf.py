"""Installs a base's packages from its local repository and from no other, whatever is configured on the machine."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from images.bases.base import Base
from images.engine import process, sandbox
from images.engine.errors import BuildCommandFailed, BuildError
from images.engine.graph import EPOCH
from images.engine.step import Step

# Where the local repository, and its public keys, are mounted while a script runs in a container.
MOUNT = "/run/overlayd/packages"
KEYS_MOUNT = "/run/overlayd/keys"
# The messages of dnf and of EL 7's yum.
_NO_MATCH = re.compile(r"No match for argument: (\S+)|[Nn]othing provides (\S+)|No package (\S+) available")
_FACT = "%{NAME} %{EVR} %{SHA256HEADER} %{BUILDTIME}\n"

# Where the root that serves as a tool has the same folders, and the root that it installs into.
_TOOL_MOUNTS = "/overlayd"
_BIND = f"""
tool=$1 packages=$2 keys=$3 root=$4; shift 4
cd "$tool{_TOOL_MOUNTS}"
mkdir packages keys root
mount --bind "$packages" packages
mount --bind "$keys" keys
mount --rbind "$root" root
cd /
exec "$@"
"""


def configuration(
    title: str, repository: Path | str, key: Path | str, *, signed_packages: bool, section: str = "packages"
) -> str:
    """A yum.conf for dnf and for EL 7's yum: one repository on disk, checked against one file of public keys.

    Packages of a distribution have its signatures. In repositories that are made here the metadata is signed instead
    (repo_gpgcheck), and it has the checksum of each package: so the key is no input of an image.
    """
    check = "gpgcheck=1\nrepo_gpgcheck=0" if signed_packages else "gpgcheck=0\nrepo_gpgcheck=1"
    return (
        "[main]\nassumeyes=1\nreposdir=/nonexistent\ngpgcheck=1\ninstall_weak_deps=0\ntsflags=nodocs\nkeepcache=0\n"
        f"plugins=0\n\n[{section}]\nname={title}\nbaseurl=file://{repository}\nenabled=1\ngpgkey=file://{key}\n{check}\n"
    )


def home(step: Step, base: Base) -> dict[str, str]:
    """Variables that make this machine's rpm write a root's database to the folder where that root's rpm reads it."""
    folder = step.scratch / "home"
    folder.mkdir(exist_ok=True)
    (folder / ".rpmmacros").write_text(f"%_dbpath {base.rpm_dbpath}\n")
    return {"HOME": str(folder)}


def install_root(step: Step, base: Base, root: Path, packages: Sequence[str]) -> None:
    """Install packages of a base's local repository, and what they need, into an empty folder."""
    root.mkdir(parents=True)
    add_to_root(step, base, root, packages)


def add_to_root(step: Step, base: Base, root: Path, packages: Sequence[str]) -> None:
    """The same into a root filesystem of that base which is there."""
    sandbox.require_root_user()
    sandbox.require("dnf", "gpg", "unshare", "setpriv")
    try:
        _install(step, base, root, packages)
    except BuildCommandFailed as error:
        raise explained(error, base, hint=f"its packages lie in {step.build / base.repository}") from error


def explained(error: BuildCommandFailed, base: Base, *, hint: str) -> BuildError:
    """The failure of dnf, with the base that lacks the package, and the roles that it was asked for."""
    names = {name for groups in _NO_MATCH.findall(error.message) for name in groups if name}
    lines = []
    for name in sorted(names):
        roles = [role for role, packages in base.packages.items() if name in packages]
        lines.append(f"package {name} of {base.name}" + (f", asked for by {', '.join(roles)}" if roles else ""))
    lead = f"there is no {'; '.join(lines)}\n" if lines else ""
    return BuildCommandFailed(f"{lead}{error.message}", hint=hint)


def _install(step: Step, base: Base, root: Path, packages: Sequence[str]) -> None:
    if not base.bootstrap:
        _install_from_here(step, base, root, packages)
        return
    tool = root.with_name(f"{root.name}.tool")
    tool.mkdir()
    step.report(f"first root, by this machine's rpm: {' '.join(base.bootstrap)}")
    _install_from_here(step, base, tool, base.bootstrap)
    step.report("second root, by the first one's yum and rpm")
    _install_from_inside(step, base, tool, root, packages)
    shutil.rmtree(tool)


def _install_from_here(step: Step, base: Base, root: Path, packages: Sequence[str]) -> None:
    config = step.scratch / f"{root.name}.yum.conf"
    config.write_text(_own(base, step.build / base.repository, step.build / base.keys))
    # rpm takes this for the time of installation, so that the same packages give the same database.
    env = {**home(step, base), "SOURCE_DATE_EPOCH": str(step.epoch)}
    words: list[str | Path] = [
        "dnf",
        "-c",
        config,
        f"--installroot={root}",
        f"--releasever={base.releasever}",
        "install",
        *packages,
    ]
    step.run(sandbox.with_devices(root, words), env=env)


def _install_from_inside(step: Step, base: Base, tool: Path, root: Path, packages: Sequence[str]) -> None:
    """Install into `root` with the yum and rpm in `tool`, so that the RPM database has the format of that release."""
    places = tool / _TOOL_MOUNTS.lstrip("/")
    places.mkdir()
    (places / "yum.conf").write_text(_own(base, f"{_TOOL_MOUNTS}/packages", f"{_TOOL_MOUNTS}/keys/{base.keys.name}"))
    words = [
        *("env", f"SOURCE_DATE_EPOCH={step.epoch}", "yum", "-c", f"{_TOOL_MOUNTS}/yum.conf"),
        *(f"--installroot={_TOOL_MOUNTS}/root", f"--releasever={base.releasever}", "install", *packages),
    ]
    folders = [tool, step.build / base.repository, (step.build / base.keys).parent, root]
    bound: list[str | Path] = ["sh", "-euc", _BIND, "sh", *folders, *sandbox.inside(tool, words)]
    step.run(sandbox.with_devices(root, bound))


def _own(base: Base, repository: Path | str, key: Path | str) -> str:
    return configuration(f"packages of {base.name}", repository, key, signed_packages=base.signed)


def install_script(base: Base, packages: Sequence[str]) -> str:
    """Lines of shell that install packages in a container, with the repository at MOUNT and its keys at KEYS_MOUNT."""
    config = _own(base, MOUNT, f"{KEYS_MOUNT}/{base.keys.name}")
    return script(config, f"--releasever={base.releasever} install {' '.join(packages)}")


def script(config: str, words: str) -> str:
    """Lines of shell that run yum with this configuration and no other."""
    return f"cat >/run/yum.conf <<'END'\n{config}END\nyum -c /run/yum.conf {words}\n"


def leftovers(base: Base) -> tuple[str, ...]:
    """What dnf, yum, rpm and ldconfig leave behind that says when they ran: patterns below a root, without a slash."""
    return (
        *("var/cache/dnf/*", "var/cache/yum/*", "var/cache/ldconfig/*", "var/lib/dnf/repos"),
        *("var/lib/dnf/history.sqlite*", "var/lib/yum/history", "var/lib/yum/yumdb", "var/lib/yum/repos"),
        *("var/lib/yum/uuid", f"{base.rpm_dbpath.lstrip('/')}/__db.*"),
        *("var/log/dnf*.log", "var/log/hawkey.log", "var/log/yum.log"),
    )


def clean_script(base: Base) -> str:
    """Lines of shell that remove `leftovers` and rewrite the RPM database without its journal.

    images.base.recipe does the same to the base's: the same packages then give the same bytes.
    """
    database = f"{base.rpm_dbpath}/rpmdb.sqlite"
    vacuum = "; ".join(
        (
            "import sqlite3, sys",
            "c = sqlite3.connect(sys.argv[1])",
            "c.execute('PRAGMA journal_mode=DELETE')",
            "c.execute('VACUUM')",
        )
    )
    return f"""\
rm -rf {" ".join(f"/{pattern}" for pattern in leftovers(base))}
[ ! -e {database} ] || /usr/bin/python3 -c "{vacuum}" {database}
"""


def facts(step: Step, repository: Path) -> dict[str, str]:
    """The facts of a repository: of each package its version and a digest of its header, which covers its content.

    And EPOCH, the build time of the newest package, which images made of them state as their own.
    """
    lines = process.capture(
        ["rpm", "--query", "--package", "--nosignature", "--queryformat", _FACT, *sorted(repository.glob("*.rpm"))],
        env={"HOME": str(step.scratch)},
    ).splitlines()
    rows = [line.split(" ") for line in lines]
    found = {f"package {name}": f"{version} {digest[:8]}" for name, version, digest, _ in rows}
    return {**found, EPOCH: max((time for *_, time in rows), key=int, default="0")}
