"""Makes the local RPM repository of a suite of Debian: a root filesystem, then an RPM of each package."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from images.bases import dnf, local_repository
from images.bases.base import Base
from images.bases.debian import assign, dpkg, licences, sources, spec
from images.bases.debian.suite import DebianSuite
from images.engine import sandbox, target
from images.engine.errors import BuildError
from images.engine.graph import Target
from images.engine.step import Step

_FILES = Path("images/bases/debian/files")

APT_OPTIONS = (
    *('APT::Install-Recommends "false"', 'Acquire::Languages "none"'),
    # A mirror that sends nothing for so many seconds has failed.
    *('Acquire::http::Timeout "20"', 'Acquire::https::Timeout "20"', 'Acquire::Retries "2"'),
)
# Only PACKAGES, what they need, and what every Debian system has.
VARIANT = "minbase"
# By Debian's names; names.py has EL's. Their dependencies come with them. A suite adds its Python, and its own.
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "openssh-server", "openssh-client", "rpm", "dnf", "gpg", "bash", "util-linux"),
    *("iproute2", "iputils-ping", "procps", "ca-certificates", "kmod", "curl", "hostname", "less"),
    *("docker.io", "iptables", "nftables", "tcpdump", "ethtool", "conntrack", "iperf3"),
    *("binutils", "createrepo-c", "zstd", "file"),
    # By EL's names images.bases.base.BPF_TOOLS.
    *("clang", "bpftool", "libbpf-dev", "linux-libc-dev"),
    *("etcd-server", "etcd-client"),
    *("cron", "tzdata", "locales"),
    # For machines with a kernel of their own (images/machine).
    *("udev", "e2fsprogs", "fdisk"),
)
# Debian's locales come as sources. This one is compiled, and becomes the RPM glibc-langpack-en, as EL calls it.
LOCALES = ("en_US.UTF-8",)
# Pages and translations are of no use in a container. The licences stay.
_EXCLUDED = ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*", "/usr/share/doc/*")
_INCLUDED = ("/usr/share/doc/*/copyright",)


def packages_of(suite: DebianSuite) -> tuple[str, ...]:
    """The packages that the root filesystem of a suite is made of, with what these need."""
    return (*PACKAGES, f"{suite.python}-venv", f"lib{suite.python}", *suite.packages)


def targets(suite: DebianSuite, base: Base) -> tuple[Target, ...]:
    """The targets of the root filesystem, and of the repository that is made from it."""

    def build_root(step: Step) -> None:
        make_root(step, suite, base)

    root = target.target(
        name=f"bases.{base.name}.root",
        build=build_root,
        code=[Path(__file__)],
        values={
            **{"suite": vars(suite), "packages": packages_of(suite)},
            **{"excluded": _EXCLUDED, "included": _INCLUDED, "locales": LOCALES},
        },
        tools=("mmdebstrap",),
        outputs=(suite.root, suite.versions),
        facts=suite.versions,
        network=True,
    )

    def build(step: Step) -> None:
        _make_repository(step, suite, base)

    repository = target.target(
        name=base.repository_target,
        build=build,
        code=[Path(__file__)],
        values={"suite": vars(suite)},
        tools=("rpmbuild", "createrepo_c"),
        files=(_FILES,),
        needs=(root.name,),
        outputs=(base.repository, base.keys, base.packages_file),
        facts=base.packages_file,
    )
    return root, repository


def make_root(step: Step, suite: DebianSuite, base: Base) -> None:
    """Make the root filesystem with mmdebstrap. Raises BuildError."""
    sandbox.require_root_user()
    sandbox.require("mmdebstrap", "gpg", "unshare", "setpriv")
    lines = sources.lines(suite, base)
    keyring = step.scratch / "debian.asc"
    keyring.write_bytes(sources.keyring(suite))
    out = step.output(suite.root)
    cache = step.build / suite.fetched
    cache.mkdir(parents=True, exist_ok=True)
    command: list[str | Path] = [
        *(
            "mmdebstrap",
            "--mode=root",
            f"--variant={VARIANT}",
            "--format=directory",
            f"--include={','.join(packages_of(suite))}",
        ),
        *("--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", "--skip=output/dev"),
        *(f"--aptopt={option}" for option in APT_OPTIONS),
        "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt=path-exclude={path}" for path in _EXCLUDED),
        *(f"--dpkgopt=path-include={path}" for path in _INCLUDED),
        # Fetched packages are kept, so that after `invoke clean`, or with other PACKAGES, few are fetched.
        *("--skip=essential/unlink,download/empty,cleanup/apt/cache",),
        '--setup-hook=mkdir -p "$1/var/cache/apt/archives"',
        f"--setup-hook=sync-in {cache} /var/cache/apt/archives",
        f"--customize-hook=sync-out /var/cache/apt/archives {cache}",
        '--customize-hook=rm -rf "$1"/var/cache/apt/archives/*',
        *(
            f'--customize-hook=chroot "$1" localedef --no-archive -i {name.partition(".")[0]} -f UTF-8 {name}'
            for name in LOCALES
        ),
        suite.codename,
        out,
        *(_for_apt(line, keyring, suite) for line in lines),
    ]
    # dpkg reads ~/.dpkg.cfg.
    step.run(sandbox.isolated(command), env={"HOME": str(step.scratch)})
    (cache / "lock").unlink(missing_ok=True)
    step.write_facts({f"package {package.name}": package.full_version for package in dpkg.installed(out)})


def _for_apt(line: str, keyring: Path, suite: DebianSuite) -> str:
    """A line of sources.list as it is given to mmdebstrap."""
    options = f"signed-by={keyring}" if suite.dated else f"signed-by={keyring} check-valid-until=no"
    # Only these keys are trusted, whatever keys this machine has. Packages on disk are copied into the root: dpkg runs
    # inside it and would not find them.
    return line.replace("deb ", f"deb [{options}] ", 1).replace(" file:", " copy:", 1)


def _make_repository(step: Step, suite: DebianSuite, base: Base) -> None:
    """Make all RPMs by one rpmbuild over hard links to the root filesystem's files, and our own files."""
    sandbox.require("rpmbuild", "createrepo_c")
    root, out = step.scratch / "root", step.output(base.repository)
    step.run(["cp", "--archive", "--link", step.build / suite.root, root])
    extra = _add_files(step.checkout / _FILES, root)
    packages = dpkg.installed(root)
    contents = assign.assign(root, packages, extra)
    step.report(f"{len(packages)} packages, {sum(len(c.files) for c in contents.values())} files")
    file = step.scratch / "debian.spec"
    names = contents.keys() | {package.name for package in packages}
    told = licences_of(root, names)
    named = sum(bool(licences.identifiers(expression)) for expression in told.values())
    step.report(f"{named} of {len(told)} packages have licences by SPDX identifiers")
    file.write_text(spec.write(suite, packages, contents, told, root))
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
        env={"SOURCE_DATE_EPOCH": str(_newest(root, packages))},
    )
    (top / "RPMS" / "x86_64").rename(out)
    step.run(["createrepo_c", "--quiet", out])
    step.write_facts(dnf.facts(step, out))
    local_repository.sign(step, out, step.output(base.keys))


def licences_of(root: Path, names: Iterable[str]) -> dict[str, str]:
    """The SPDX expression of each RPM, from its copyright files. Raises BuildError that names RPMs without one."""
    found: dict[str, str] = {}
    for name in names:
        # The first is Debian's; the second is that of files in files/<package>/.
        files = [root / folder / name / "copyright" for folder in ("usr/share/doc", "usr/share/licenses")]
        texts = [(file.resolve().parent.name, file.read_text(errors="replace")) for file in files if file.is_file()]
        if texts:
            found[name] = licences.joined(clause for holder, text in texts for clause in licences.clauses(text, holder))
    missing = sorted(set(names) - found.keys())
    if missing:
        raise BuildError(f"packages without a copyright file: {', '.join(missing)}")
    return found


def _add_files(files: Path, root: Path) -> dict[str, str]:
    """Copy the files of `files`/<package>/ into the root; the package that each path belongs to."""
    owners: dict[str, str] = {}
    for folder in sorted(files.iterdir()):
        for path, _ in assign.walk(folder):
            source, place = folder / path.lstrip("/"), root / path.lstrip("/")
            if source.is_dir() and not source.is_symlink():
                place.mkdir(exist_ok=True)
                if path in (f"/usr/share/doc/{folder.name}", f"/usr/share/licenses/{folder.name}"):
                    owners[path] = folder.name
                continue
            place.unlink(missing_ok=True)
            shutil.copy2(source, place, follow_symlinks=False)
            owners[path] = folder.name
    return owners


def _newest(root: Path, packages: Iterable[dpkg.DebianPackage]) -> int:
    """The time of the newest file of all packages, which is the same whenever they are built.

    rpmbuild gives that time to younger files. Compiled Python holds the time of its source, so a source that got
    another time would be compiled again at its first use.
    """
    found = 0
    for package in packages:
        for path in package.files:
            place = root / path.lstrip("/")
            if place.is_file() and not place.is_symlink():
                found = max(found, int(place.stat().st_mtime))
    return found
