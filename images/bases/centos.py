"""What all bases of CentOS share: signed packages from the project's mirrors, and Docker from its own repository."""

from __future__ import annotations

from collections.abc import Mapping

from images.bases import fetch
from images.bases.base import BPF_TOOLS, Base, Repository
from images.bases.mirrors import ARCH

# Where the fingerprints are published: centos.org/keys, and docs.docker.com's page on installing on CentOS.
STREAM_FINGERPRINT = "99DB70FAE1D7CE227FB6488205B555B38483C65D"
DOCKER_FINGERPRINT = "060A61C51B558A7F742B77AAC52FEB6B621E9F35"
PURL_NAMESPACE = "centos"
# Where the project publishes its public keys.
KEYS = "https://www.centos.org/keys"
_DOCKER_SITE = "https://download.docker.com/linux/centos"
_ETCD_SITE = "https://github.com/etcd-io/etcd/releases/download"
ENABLE: Mapping[str, tuple[str, ...]] = {"base": ("sshd.service", "crond.service"), "docker": ("docker.service",)}


def stream(
    release: int,
    *,
    preference: int,
    key: str,
    python: str,
    builder: tuple[str, ...],
    cgroups: tuple[int, ...] = (1, 2),
    notes: tuple[str, ...] = (),
) -> Base:
    """The base `centos-stream<release>`. `builder` are the packages around `python`."""
    where = sites("https://mirror.stream.centos.org")
    parts = tuple(
        repository(
            part,
            title=f"CentOS Stream {release} {part}",
            site=where["centos"],
            path=f"{release}-stream/{part}/{ARCH}/os/",
            key=key,
            key_fingerprint=STREAM_FINGERPRINT,
        )
        for part in ("BaseOS", "AppStream", "CRB")
    )
    return Base(
        name=f"centos-stream{release}",
        title=f"CentOS Stream {release}",
        preference=preference,
        purl_namespace=PURL_NAMESPACE,
        releasever=str(release),
        sites=where,
        repositories=(*parts, docker_ce(release)),
        rpm_dbpath="/var/lib/rpm" if release < 10 else "/usr/lib/sysimage/rpm",
        python=python,
        packages={
            "base": (
                *("centos-stream-release", "systemd", "dbus", "openssh-server", "openssh-clients", "dnf", "yum", "rpm"),
                *("bash", "coreutils", "util-linux", "procps-ng", "iproute", "iputils", "kmod", "hostname", "less"),
                *("ca-certificates", "curl", "tar", "gzip", "findutils", "passwd", "shadow-utils"),
                *("cronie", "crontabs", "tzdata", "glibc-langpack-en", "gawk", "diffutils", "grep", "sed"),
            ),
            "docker": (
                *("docker-ce", "docker-ce-cli", "containerd.io", "iptables-nft", "nftables"),
                *("iperf3", "tcpdump", "ethtool", "conntrack-tools"),
            ),
            "etcd": ("openssl",),
            "builder": (
                *(*builder, "binutils", "rpm-build", "createrepo_c", "systemd-rpm-macros", "zstd", "file"),
                *BPF_TOOLS,
            ),
            "probe": ("/bin/sh", "bash", "coreutils", "iproute", "iputils", "iperf3", "hostname", "grep", "sed"),
            "machine": ("systemd-udev", "e2fsprogs"),
        },
        enable=ENABLE,
        cgroups=cgroups,
        packaged_etcd=False,
        questions=questions,
        repository_targets=fetch.targets,
        notes=notes,
    )


def sites(main: str) -> dict[str, str]:
    """The servers of a base of CentOS by name, the main one first."""
    return {"centos": main, "docker": _DOCKER_SITE, "etcd": _ETCD_SITE}


def repository(name: str, *, title: str, site: str, path: str, key: str, key_fingerprint: str) -> Repository:
    """A repository of the project's own at `path` below the URL `site`; `key` is the file of its public key."""
    return Repository(
        name=name,
        title=title,
        site="centos",
        path=path,
        url=f"{site}/{path}",
        key_url=f"{KEYS}/{key}",
        key_fingerprint=key_fingerprint,
    )


def docker_ce(release: int) -> Repository:
    """Docker's own repository for a release of EL."""
    return Repository(
        name="docker-ce",
        title="Docker CE",
        site="docker",
        path=f"{release}/{ARCH}/stable/",
        url=f"{_DOCKER_SITE}/{release}/{ARCH}/stable/",
        key_url=f"{_DOCKER_SITE}/gpg",
        key_fingerprint=DOCKER_FINGERPRINT,
    )


def questions(base: Base) -> tuple[str, ...]:
    """The URLs that answer when all repositories of a base can be reached."""
    return tuple(repository.question for repository in base.repositories)
