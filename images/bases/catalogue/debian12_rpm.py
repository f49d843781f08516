"""The base `debian12-rpm`: Debian 12's packages as RPMs that have EL's names too. It does not claim to be CentOS."""

from __future__ import annotations

from images.bases.base import Base
from images.bases.debian12 import repository, sources

BASE = Base(
    name="debian12-rpm",
    title="Debian 12 in RPMs",
    preference=3,
    purl_namespace="debian12-rpm",
    releasever="12",
    rpm_dbpath="/var/lib/rpm",
    python="python3.11",
    packages={
        "base": (
            *(
                "system-release",
                "systemd",
                "systemd-sysv",
                "dbus",
                "openssh-server",
                "openssh-clients",
                "dnf",
                "yum",
                "rpm",
                # dnf checks signed metadata with it.
                "gnupg2",
            ),
            *("bash", "coreutils", "util-linux", "procps-ng", "iproute", "iputils", "kmod", "hostname", "less"),
            *("ca-certificates", "curl", "tar", "gzip", "findutils", "passwd", "mount", "login"),
            *("cronie", "tzdata", "glibc-langpack-en"),
        ),
        "docker": (
            *("docker-ce", "containerd.io", "iptables", "nftables"),
            *("iperf3", "tcpdump", "ethtool", "conntrack-tools"),
        ),
        "etcd": ("etcd", "etcd-client"),
        "builder": (
            *("python3.11", "python3.11-libs", "python3.11-pip", "binutils", "rpm-build", "createrepo_c"),
            *("systemd-rpm-macros", "zstd", "file"),
        ),
        "probe": (
            "system-release",
            "/bin/sh",
            "bash",
            "coreutils",
            "iproute",
            "iputils",
            "iperf3",
            "hostname",
            "grep",
            "sed",
        ),
        "machine": ("udev", "e2fsprogs"),
    },
    enable={"base": ("ssh.service", "cron.service"), "docker": ("docker.service",)},
    kernel="bookworm",
    sites=sources.SITES,
    questions=sources.questions,
    repository_targets=repository.targets,
    notes=("for machines that reach no CentOS mirror: the same dnf, yum and rpm, other packages",),
)
