"""An entry of the catalogue for a suite of Debian: all such bases have the same packages, by EL's names."""

from __future__ import annotations

from functools import partial

from images.bases.base import BPF_TOOLS, Base
from images.bases.debian import repository, sources
from images.bases.debian.suite import DebianSuite


def entry(
    suite: DebianSuite,
    *,
    preference: int,
    systemd: tuple[str, ...] = (),
    cgroups: tuple[int, ...] = (1, 2),
    notes: tuple[str, ...] = (),
) -> Base:
    """The base that is made of a suite. `systemd` are libraries that systemd loads, and only recommends."""
    return Base(
        name=suite.base,
        title=f"{suite.title} in RPMs",
        preference=preference,
        purl_namespace=suite.base,
        releasever=suite.release,
        rpm_dbpath="/var/lib/rpm",
        python=suite.python,
        packages={
            "base": (
                *("system-release", "systemd", "systemd-sysv", "dbus", "openssh-server", "openssh-clients"),
                # dnf checks signed metadata with gnupg2.
                *("dnf", "yum", "rpm", "gnupg2"),
                *("bash", "coreutils", "util-linux", "procps-ng", "iproute", "iputils", "kmod", "hostname", "less"),
                *("ca-certificates", "curl", "tar", "gzip", "findutils", "passwd", "mount", "login"),
                *("cronie", "tzdata", "glibc-langpack-en"),
                *systemd,
            ),
            "docker": (
                *("docker-ce", "containerd.io", "iptables", "nftables"),
                *("iperf3", "tcpdump", "ethtool", "conntrack-tools"),
            ),
            "etcd": ("etcd", "etcd-client"),
            "builder": (
                *(suite.python, f"{suite.python}-libs", f"{suite.python}-pip", "binutils", "rpm-build"),
                *("createrepo_c", "systemd-rpm-macros", "zstd", "file"),
                *BPF_TOOLS,
            ),
            "probe": (
                *("system-release", "/bin/sh", "bash", "coreutils", "iproute", "iputils", "iperf3", "hostname"),
                *("grep", "sed"),
            ),
            "machine": ("udev", "e2fsprogs", "fdisk"),
        },
        enable={"base": ("ssh.service", "cron.service"), "docker": ("docker.service",)},
        sites=sources.SITES,
        questions=partial(sources.questions, suite),
        repository_targets=partial(repository.targets, suite),
        cgroups=cgroups,
        kernel=suite.codename,
        notes=notes,
    )
