"""Makes the local RPM repository of `debian12-rpm`: a root filesystem of Debian 12, then an RPM of each package."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from images.bases import dnf
from images.bases.base import Base
from images.bases.debian12 import assign, dpkg, spec
from images.engine import inputs, process, sandbox
from images.engine.errors import BuildError
from images.engine.graph import CACHE, Target
from images.engine.step import Step

_HERE = Path(__file__).parent
_FILES = _HERE / "files"
CODENAME = "bookworm"
ROOT = CACHE / "bases/debian12-rpm/root"
VERSIONS = CACHE / "bases/debian12-rpm/debian.json"
FETCHED = CACHE / "debian12"

# Debian's names, of what EL calls otherwise too (names.py). What these need comes with them.
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "openssh-server", "openssh-client", "rpm", "dnf", "bash", "util-linux"),
    *("iproute2", "iputils-ping", "procps", "ca-certificates", "kmod", "curl", "hostname", "less"),
    *("docker.io", "iptables", "nftables", "tcpdump", "ethtool", "conntrack", "iperf3"),
    *("python3.11-venv", "libpython3.11", "binutils", "createrepo-c", "zstd", "file"),
    *("etcd-server", "etcd-client"),
)
# Pages and translations nobody reads in a container; the licences stay.
_EXCLUDED = ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*", "/usr/share/doc/*")
_INCLUDED = ("/usr/share/doc/*/copyright",)


def sources() -> tuple[str, ...]:
    """Lines of sources.list for Debian 12, as this machine's own apt has them. Raises BuildError where it has none."""
    if shutil.which("apt-get") is None or shutil.which("mmdebstrap") is None:
        raise BuildError("debian12-rpm is made with apt and mmdebstrap, and this machine lacks them")
    rows = process.capture(
        ["apt-get", "indextargets", "--format", "$(CREATED_BY)|$(ORIGIN)|$(REPO_URI)|$(CODENAME)|$(COMPONENT)"]
    ).splitlines()
    found = {
        f"deb {uri.rstrip('/')} {codename} {component}"
        for created, origin, uri, codename, component in (row.split("|") for row in rows if row.count("|") == 4)
        if created == "Packages"
        and origin == "Debian"
        and codename.partition("-")[0] == CODENAME
        and component == "main"
    }
    if not found:
        raise BuildError(
            "this machine's apt has no lists of Debian 12's packages",
            hint="on a Debian 12 machine `apt-get update` fetches them; elsewhere take another base",
        )
    return tuple(sorted(found))


def questions() -> tuple[str, ...]:
    """The URL that answers when Debian's mirror is there. Raises BuildError where this machine knows of none."""
    first = next((line for line in sources() if line.split()[2] == CODENAME), sources()[0])
    _, uri, suite, _ = first.split()
    return (f"{uri}/dists/{suite}/InRelease",)


def targets(base: Base) -> tuple[Target, ...]:
    """The root filesystem, and the repository that is made from it."""
    root = Target(
        name=f"bases.{base.name}.root",
        build=_make_root,
        inputs={
            **inputs.of_values(packages=PACKAGES, excluded=_EXCLUDED, included=_INCLUDED),
            **inputs.of_tools("mmdebstrap"),
        },
        outputs=(ROOT, VERSIONS),
        facts=VERSIONS,
        network=True,
    )
    code = [_HERE / name for name in ("assign.py", "dpkg.py", "names.py", "repository.py", "spec.py", "files")]

    def build(step: Step) -> None:
        _make_repository(step, base)

    repository = Target(
        name=base.repository_target,
        build=build,
        inputs={**inputs.of_files(_HERE, code), **inputs.of_tools("rpmbuild", "createrepo_c")},
        needs=(root.name,),
        outputs=(base.repository, base.packages_file),
        facts=base.packages_file,
    )
    return root, repository


def _make_root(step: Step) -> None:
    sandbox.require_root_user()
    sandbox.require("mmdebstrap", "unshare", "setpriv")
    out = step.output(ROOT)
    cache = step.build / FETCHED
    cache.mkdir(parents=True, exist_ok=True)
    command: list[str | Path] = [
        *("mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory", f"--include={','.join(PACKAGES)}"),
        *("--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", "--skip=output/dev"),
        *('--aptopt=APT::Install-Recommends "false"', '--aptopt=Acquire::Languages "none"'),
        "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt=path-exclude={path}" for path in _EXCLUDED),
        *(f"--dpkgopt=path-include={path}" for path in _INCLUDED),
        # Packages fetched once are kept, so that `invoke clean` and a new list cost little.
        *("--skip=essential/unlink,download/empty,cleanup/apt/cache",),
        '--setup-hook=mkdir -p "$1/var/cache/apt/archives"',
        f"--setup-hook=sync-in {cache} /var/cache/apt/archives",
        f"--customize-hook=sync-out /var/cache/apt/archives {cache}",
        '--customize-hook=rm -rf "$1"/var/cache/apt/archives/*',
        CODENAME,
        out,
        *sources(),
    ]
    step.run(sandbox.isolated(command))
    (cache / "lock").unlink(missing_ok=True)
    versions = {f"package {package.name}": package.full_version for package in dpkg.installed(out)}
    step.output(VERSIONS).write_text(json.dumps(versions, indent=1, sort_keys=True))


def _make_repository(step: Step, base: Base) -> None:
    """One rpmbuild over a copy of the root filesystem made of hard links, to which our own files are added."""
    sandbox.require("rpmbuild", "createrepo_c")
    root, out = step.scratch / "root", step.output(base.repository)
    step.run(["cp", "--archive", "--link", step.build / ROOT, root])
    extra = _add_files(root)
    packages = dpkg.installed(root)
    contents = assign.assign(root, packages, extra)
    step.say(f"{len(packages)} packages, {sum(len(c.files) for c in contents.values())} files")
    file = step.scratch / "debian12.spec"
    file.write_text(spec.write(packages, contents, root))
    top = step.scratch / "rpmbuild"
    step.run(
        [
            *(
                "rpmbuild",
                "-bb",
                "--quiet",
                "--noclean",
                "--define",
                f"_topdir {top}",
                "--define",
                f"_rpmdir {top}/RPMS",
            ),
            *("--buildroot", root, file),
        ],
        env={"SOURCE_DATE_EPOCH": str(_newest(root))},
    )
    (top / "RPMS" / "x86_64").rename(out)
    step.run(["createrepo_c", "--quiet", out])
    step.output(base.packages_file).write_text(json.dumps(dnf.facts(step, out), indent=1, sort_keys=True))


def _add_files(root: Path) -> dict[str, str]:
    """Copy what is in files/<package>/ into the root; the package of every path."""
    owners: dict[str, str] = {}
    for folder in sorted(_FILES.iterdir()):
        for path, _ in assign.walk(folder):
            source, place = folder / path.lstrip("/"), root / path.lstrip("/")
            if source.is_dir() and not source.is_symlink():
                place.mkdir(exist_ok=True)
                continue
            place.unlink(missing_ok=True)
            shutil.copy2(source, place, follow_symlinks=False)
            if not place.is_symlink():
                place.chmod(0o755 if os.access(source, os.X_OK) else 0o644)
                os.chown(place, 0, 0)
            owners[path] = folder.name
    return owners


def _newest(root: Path) -> int:
    """The time of the newest package, by its copyright file: the same for the same packages, whenever built."""
    times = [folder / "copyright" for folder in (root / "usr/share/doc").iterdir()]
    return max(int(path.stat().st_mtime) for path in times if path.is_file())
