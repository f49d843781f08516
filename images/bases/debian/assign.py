"""Assigns each file of a root filesystem to a package, also those that dpkg does not know. Only links are read."""

from __future__ import annotations

import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from images.bases.debian.dpkg import DebianPackage

FILESYSTEM = "filesystem"
ACCOUNTS = "setup"
LANGPACK = "glibc-langpack-en"
_LOCALE_FILES = (
    *("", "LC_ADDRESS", "LC_COLLATE", "LC_CTYPE", "LC_IDENTIFICATION", "LC_MEASUREMENT", "LC_MESSAGES", "LC_MONETARY"),
    *("LC_MESSAGES/SYS_LC_MESSAGES", "LC_NAME", "LC_NUMERIC", "LC_PAPER", "LC_TELEPHONE", "LC_TIME"),
)

# In no package: Debian's own bookkeeping, files of one machine, documents, and links that enable services: the image's
# recipe says which are enabled.
DROPPED = re.compile(
    r"""/dev/.*|/proc/.*|/sys/.*|/run/.*|/tmp/.*|/boot/.*|/var/tmp/.*
    |/var/lib/(dpkg|apt|ucf|pam|systemd/deb-systemd-.*|shells\.state)(/.*)?|/var/cache/(apt|debconf|ldconfig)(/.*)?
    |/etc/(apt|dpkg)(/.*)?|/etc/(rc.|init|runit)\.?d?(/.*)?|/etc/.*-|/etc/\.pwd\.lock
    |/etc/(hostname|hosts|resolv\.conf|machine-id|mtab|ld\.so\.cache)|/etc/ssh/ssh_host_.*
    |/etc/systemd/(system|user)/.*|/var/log/(?!private).*|/etc/default/locale|/etc/locale\.conf|/root/\.ssh|/usr/share/info/dir
    |/usr/share/doc/[^/]+/(?!copyright$).*
    # This turns on a plugin of rpm since 4.20 that runs scriptlets in namespaces of their own, which a container of
    # Docker may not make: each would fail. EL has it in a package of its own, and does not install that.
    |/usr/lib/rpm/macros\.d/macros\.transaction_unshare
    """,
    re.VERBOSE,
)
# Files that a package's scripts made, so that dpkg does not know whose they are.
MADE_BY_SCRIPTS = {
    "/etc/ssh/sshd_config": "openssh-server",
    "/etc/default/iperf3": "iperf3",
    "/var/lib/etcd": "etcd-server",
    "/etc/ca-certificates.conf": "ca-certificates",
    # In the package that is installed first: rpm needs these two to give a file to a user.
    "/etc/group": ACCOUNTS,
    "/etc/passwd": ACCOUNTS,
    # Compiled by localedef (repository.py).
    **{f"/usr/lib/locale/en_US.utf8/{name}".rstrip("/"): LANGPACK for name in _LOCALE_FILES},
}


@dataclass(kw_only=True)
class PackageContents:
    """The content of one RPM: paths of files and links, and of folders."""

    files: set[str] = field(default_factory=set)
    folders: set[str] = field(default_factory=set)


def assign(root: Path, packages: Iterable[DebianPackage], extra: Mapping[str, str]) -> dict[str, PackageContents]:
    """The content of every package, by its name; `filesystem` gets the paths that no package owns.

    `extra` are owners of more paths. A link that a script made (the alternatives) belongs to the package of the file
    that it leads to, compiled Python to the package of its source.
    """
    owners: dict[str, list[str]] = defaultdict(list)
    for package in packages:
        for path in package.files:
            owners[path].append(package.name)
    known = MADE_BY_SCRIPTS | dict(extra)
    found: dict[str, PackageContents] = defaultdict(PackageContents)
    for path, mode in walk(root):
        if DROPPED.fullmatch(path):
            continue
        if stat.S_ISDIR(mode):
            for owner in owners.get(path) or [known.get(path, FILESYSTEM)]:
                found[owner].folders.add(path)
        else:
            names = owners.get(path)
            # A diverted file is on the lists of two packages; the file on disk is that of the last.
            owner = known.get(path) or (sorted(names)[-1] if names else _inherited(root, path, mode, owners))
            found[owner].files.add(path)
    return dict(found)


def walk(root: Path) -> Iterator[tuple[str, int]]:
    """Every path below a root filesystem, as seen from inside, with its mode; sorted, links not followed."""
    for folder, names, files in os.walk(root):
        inside = "/" + str(Path(folder).relative_to(root)) if folder != str(root) else ""
        names.sort()
        for name in sorted([*names, *files]):
            yield f"{inside}/{name}", os.lstat(os.path.join(folder, name)).st_mode  # noqa: PTH118  # 30,000 files


def _inherited(root: Path, path: str, mode: int, owners: Mapping[str, list[str]]) -> str:
    if path.count("/") == 1:
        return FILESYSTEM  # /bin, /lib and the like are links to folders of many packages
    if stat.S_ISLNK(mode):
        target = _end_of_link(root, path)
        if target in owners:
            return owners[target][0]
    if path.endswith(".pyc"):
        cache, _, name = path.rpartition("/")
        source = f"{cache.removesuffix('/__pycache__')}/{name.partition('.')[0]}.py"
        if source in owners:
            return owners[source][0]
    if path.startswith("/etc/ssl/certs/"):
        return "ca-certificates"
    return FILESYSTEM


def _end_of_link(root: Path, path: str) -> str:
    """The end of a chain of at most ten links, as a path inside the root."""
    for _ in range(10):
        here = root / path.lstrip("/")
        if not here.is_symlink():
            break
        path = os.path.normpath(PurePosixPath(path).parent / here.readlink())
        for prefix in ("/bin/", "/sbin/", "/lib/"):
            if path.startswith(prefix):
                path = f"/usr{path}"
    return path
