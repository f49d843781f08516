"""CentOS Stream: packages come from the project's mirrors, Docker from Docker's own repository, signatures checked."""

from __future__ import annotations

import json
import os
from pathlib import Path

from images.bases import dnf, keys
from images.bases.base import Base, Repository
from images.engine import inputs, sandbox
from images.engine.graph import Target
from images.engine.step import Step

_HERE = Path(__file__)
_KEY_FINGERPRINT = "99DB70FAE1D7CE227FB6488205B555B38483C65D"
_DOCKER_FINGERPRINT = "060A61C51B558A7F742B77AAC52FEB6B621E9F35"
ARCH = "x86_64"
# A mirror near by, or a pinned compose, in place of the project's own: the part before /9-stream or /10-stream.
MIRROR_VARIABLE = "OVERLAYD_CENTOS_MIRROR"
DOCKER_MIRROR_VARIABLE = "OVERLAYD_DOCKER_MIRROR"


def stream(release: int, *, key: str, python: str, builder: tuple[str, ...], notes: tuple[str, ...] = ()) -> Base:
    """The base `centos-stream<release>`. `builder` are the packages around `python`."""
    mirror = os.environ.get(MIRROR_VARIABLE, "https://mirror.stream.centos.org").rstrip("/")
    docker = os.environ.get(DOCKER_MIRROR_VARIABLE, "https://download.docker.com/linux/centos").rstrip("/")
    parts = [
        Repository(
            name=f"CentOS Stream {release} {part}",
            url=f"{mirror}/{release}-stream/{part}/{ARCH}/os/",
            key_url=f"https://www.centos.org/keys/{key}",
            key_fingerprint=_KEY_FINGERPRINT,
        )
        for part in ("BaseOS", "AppStream", "CRB")
    ]
    docker_ce = Repository(
        name="Docker CE",
        url=f"{docker}/{release}/{ARCH}/stable/",
        key_url=f"{docker}/gpg",
        key_fingerprint=_DOCKER_FINGERPRINT,
    )
    repositories = (*parts, docker_ce)
    return Base(
        name=f"centos-stream{release}",
        title=f"CentOS Stream {release}",
        releasever=str(release),
        repositories=repositories,
        rpm_dbpath="/var/lib/rpm" if release < 10 else "/usr/lib/sysimage/rpm",
        python=python,
        packages={
            "base": (
                *("centos-stream-release", "systemd", "dbus", "openssh-server", "openssh-clients", "dnf", "yum", "rpm"),
                *("bash", "coreutils", "util-linux", "procps-ng", "iproute", "iputils", "kmod", "hostname", "less"),
                *("ca-certificates", "curl", "tar", "gzip", "findutils", "passwd"),
            ),
            "docker": (
                *("docker-ce", "docker-ce-cli", "containerd.io", "iptables-nft", "nftables"),
                *("iperf3", "tcpdump", "ethtool", "conntrack-tools"),
            ),
            "etcd": (),
            "builder": (*builder, "binutils", "rpm-build", "createrepo_c", "systemd-rpm-macros", "zstd", "file"),
            "probe": ("/bin/sh", "bash", "coreutils", "iproute", "iputils", "iperf3", "hostname", "grep", "sed"),
        },
        enable={"base": ("sshd.service",), "docker": ("docker.service",)},
        packaged_etcd=False,
        questions=lambda: tuple(repository.question for repository in repositories),
        repository_targets=repository_targets,
        notes=notes,
    )


def repository_targets(base: Base) -> tuple[Target, ...]:
    """The target that fetches all packages of all roles, and what they need, into one folder."""
    packages = sorted({name for names in base.packages.values() for name in names})

    def build(step: Step) -> None:
        fetch(step, base, packages)

    return (
        Target(
            name=base.repository_target,
            build=build,
            inputs={
                **inputs.of_values(packages=packages, repositories=[vars(r) for r in base.repositories]),
                **inputs.of_files(_HERE.parent, [_HERE]),
                **inputs.of_tools("dnf", "rpm", "createrepo_c"),
            },
            outputs=(base.repository, base.packages_file),
            facts=base.packages_file,
            network=True,
        ),
    )


def fetch(step: Step, base: Base, packages: list[str]) -> None:
    """Download packages with their dependencies, signatures checked against the expected keys, as one repository."""
    sandbox.require_root_user()
    sandbox.require("dnf", "createrepo_c")
    out = step.output(base.repository)
    out.mkdir(parents=True)
    armoured = {repository.key_url: keys.fetch(repository) for repository in base.repositories}
    (out / dnf.KEYS).write_bytes(b"\n".join(armoured.values()))
    repos = step.scratch / "repos.d"
    repos.mkdir()
    (repos / "base.repo").write_text("".join(_section(n, r, out) for n, r in enumerate(base.repositories)))
    root = step.scratch / "root"
    root.mkdir()
    # With --downloadonly dnf resolves against an empty root, downloads, and checks the signatures, in this order.
    step.run(
        [
            *(
                "dnf",
                "--assumeyes",
                f"--installroot={root}",
                f"--setopt=reposdir={repos}",
                f"--releasever={base.releasever}",
            ),
            *("--setopt=install_weak_deps=False", "--downloadonly", f"--downloaddir={out}", "install", *packages),
        ],
        env=dnf.home(step, base),
    )
    step.run(["createrepo_c", "--quiet", out])
    step.output(base.packages_file).write_text(json.dumps(dnf.facts(step, out), indent=1, sort_keys=True))


def _section(number: int, repository: Repository, out: Path) -> str:
    return (
        f"[base{number}]\nname={repository.name}\nbaseurl={repository.url}\nenabled=1\ngpgcheck=1\n"
        f"gpgkey=file://{out / dnf.KEYS}\n\n"
    )
