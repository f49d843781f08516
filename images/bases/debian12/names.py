"""EL's names of packages that have another name in Debian: the RPMs provide these too, as on the other bases."""

from __future__ import annotations

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
    "docker.io": ("docker-ce", "docker-ce-cli", "docker"),
    "etcd-server": ("etcd",),
    "gpg": ("gnupg2",),
    "iproute2": ("iproute", "iproute-tc"),
    "iptables": ("iptables-nft", "iptables-utils"),
    "iputils-ping": ("iputils",),
    "libc6": ("glibc", "glibc-common"),
    "locales": ("glibc-locale-source",),
    "libpython3.11": ("python3.11-libs",),
    "libsystemd0": ("systemd-libs",),
    "openssh-client": ("openssh-clients", "openssh"),
    "passwd": ("shadow-utils",),
    "procps": ("procps-ng",),
    "python3": ("python3-libs",),
    "python3.11-venv": ("python3.11-pip",),
    "rpm": ("rpm-build",),
    "udev": ("systemd-udev",),
    "xz-utils": ("xz",),
}
