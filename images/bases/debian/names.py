"""EL's names of packages that have another name in Debian: the RPMs provide these too, as on the other bases."""

from __future__ import annotations

import re
from collections.abc import Collection

# Debian's name -> EL's names for the same thing. What both call the same is not listed.
EL_NAMES: dict[str, tuple[str, ...]] = {
    "base-files": ("system-release",),
    "binutils": ("binutils-gold",),
    "conntrack": ("conntrack-tools",),
    "containerd": ("containerd.io",),
    "coreutils": ("coreutils-single",),
    "createrepo-c": ("createrepo_c",),
    "cron": ("cronie", "crontabs"),
    "dash": ("/bin/sh",),
    "docker-cli": ("docker-ce-cli",),
    "docker.io": ("docker-ce", "docker"),
    "etcd-server": ("etcd",),
    "gpg": ("gnupg2",),
    "iproute2": ("iproute", "iproute-tc"),
    "iptables": ("iptables-nft", "iptables-utils"),
    "iputils-ping": ("iputils",),
    "libc6": ("glibc", "glibc-common"),
    "locales": ("glibc-locale-source",),
    "libbpf-dev": ("libbpf-devel",),
    "libbpf1": ("libbpf",),
    "libsystemd0": ("systemd-libs",),
    "linux-libc-dev": ("kernel-headers",),
    "openssh-client": ("openssh-clients", "openssh"),
    "passwd": ("shadow-utils",),
    "procps": ("procps-ng",),
    "python3": ("python3-libs",),
    "rpm": ("rpm-build",),
    "udev": ("systemd-udev",),
    "xz-utils": ("xz",),
}
# Packages that newer suites have split off, and the package that has their files in older ones.
_SPLIT_OFF = {"docker-cli": "docker.io"}
# What EL's package of this name needs, and Debian's only recommends: `yum install docker-ce` brings the command docker.
_EL_NEEDS = {"docker.io": ("docker-cli",)}
# The name has the version of Python in it: python3.11-venv has what EL calls python3.11-pip.
_PYTHON = re.compile(r"lib(?P<libs>python3\.\d+)|(?P<venv>python3\.\d+)-venv")


def el_names(package: str, installed: Collection[str]) -> tuple[str, ...]:
    """EL's names for a package of Debian. `installed` are the names of all packages of the suite's root filesystem."""
    if python := _PYTHON.fullmatch(package):
        return (f"{python['libs']}-libs" if python["libs"] else f"{python['venv']}-pip",)
    inside = (part for part, whole in _SPLIT_OFF.items() if whole == package and part not in installed)
    return (*EL_NAMES.get(package, ()), *(name for part in inside for name in EL_NAMES[part]))


def el_needs(package: str, installed: Collection[str]) -> tuple[str, ...]:
    """Packages that this one brings along on EL, and not on Debian."""
    return tuple(name for name in _EL_NEEDS.get(package, ()) if name in installed)
