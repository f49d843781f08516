"""The base `centos-7`: for hosts that still run it. It is built with its own yum, and boots on cgroup v1 only."""

from __future__ import annotations

from images.bases import centos, fetch
from images.bases.base import Base
from images.bases.mirrors import ARCH

FINGERPRINT = "6341AB2753D78A78A7C27BB124C6A8A7F4A80EB5"
_POINT = "7.9.2009"
_SITES = centos.sites("https://vault.centos.org")
# What CentOS-Base.repo calls "base" is the folder os/.
_PARTS = ("os", "updates", "extras")

BASE = Base(
    name="centos-7",
    title="CentOS 7",
    preference=4,
    purl_namespace=centos.PURL_NAMESPACE,
    releasever="7",
    sites=_SITES,
    repositories=(
        *(
            centos.repository(
                part,
                title=f"CentOS {_POINT} {part}",
                site=_SITES["centos"],
                path=f"{_POINT}/{part}/{ARCH}/",
                key="RPM-GPG-KEY-CentOS-7",
                key_fingerprint=FINGERPRINT,
            )
            for part in _PARTS
        ),
        centos.docker_ce(7),
    ),
    rpm_dbpath="/var/lib/rpm",
    python="python3",
    # Its RPM database is Berkeley DB, which no rpm since 4.17 writes: the root that this machine's rpm makes is only a
    # tool: the yum and rpm in it make the image's.
    bootstrap=("centos-release", "yum", "rpm", "bash", "coreutils"),
    packages={
        "base": (
            *("centos-release", "systemd", "dbus", "openssh-server", "openssh-clients", "yum", "rpm"),
            *("bash", "coreutils", "util-linux", "procps-ng", "iproute", "iputils", "kmod", "hostname", "less"),
            *("ca-certificates", "curl", "tar", "gzip", "findutils", "passwd", "shadow-utils"),
            *("cronie", "crontabs", "tzdata", "gawk", "diffutils", "grep", "sed"),
        ),
        "docker": (
            *("docker-ce", "docker-ce-cli", "containerd.io", "iptables", "nftables"),
            *("iperf3", "tcpdump", "ethtool", "conntrack-tools"),
        ),
        "probe": ("/bin/sh", "bash", "coreutils", "iproute", "iputils", "iperf3", "hostname", "grep", "sed"),
    },
    enable=centos.ENABLE,
    lacks={
        "builder": "its newest Python is 3.6, and the program needs 3.11",
        "etcd": "its newest Python is 3.6, and what looks after etcd needs 3.9",
        "machine": "it has no image with overlayd",
    },
    cgroups=(1,),
    # Its C library is older than the locale C.UTF-8; glibc-common brings all others.
    locale="en_US.UTF-8",
    packaged_etcd=False,
    questions=centos.questions,
    repository_targets=fetch.targets,
    notes=(
        "build-only: its systemd (219) starts on a machine with cgroup v1, and on cgroup v2 not at all",
        "end of life since 30 June 2024: these packages get no security fixes any more",
    ),
)
