"""The spec of all the RPMs: one source package, a subpackage for each Debian package. Only file owners are read."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from images.bases.debian.assign import ACCOUNTS, FILESYSTEM, LANGPACK, PackageContents
from images.bases.debian.dpkg import DebianPackage
from images.bases.debian.names import el_names, el_needs
from images.bases.debian.suite import DebianSuite

# Capabilities are extended attributes, which rpmbuild takes from the spec and not from the file.
CAPABILITIES = {"/usr/bin/ping": "cap_net_raw=ep"}
# In every container something is mounted there, with these modes, so `rpm -V` sees these.
MODES = {"/proc": "0555", "/sys": "0555"}
# Copyright files, links to folders of other packages that have them, and the whole texts that they refer to.
_LICENCE_FILE = re.compile(r"/usr/share/(doc/[^/]+(/copyright)?|licenses/[^/]+/.+|common-licenses/.+)")

# The build root is the finished root filesystem: rpmbuild must not empty it, and must not strip, compress, compile or
# examine anything.
_PREAMBLE = """\
%global __os_install_post %{nil}
%global __spec_install_pre %{___build_pre}
%global _build_id_links none
%global debug_package %{nil}
%global _binary_payload w1.zstdio
%global _buildhost overlayd
%global source_date_epoch_from_changelog 0
%global use_source_date_epoch_as_buildtime 1
%global clamp_mtime_to_source_date_epoch 1
%global __check_files %{nil}
# rpm takes all files below these folders for documentation, which `tsflags=nodocs` leaves out. /usr/share/doc is not
# among them, as it holds copyright files only.
%global __docdir_path /usr/share/man:/usr/share/info
AutoReqProv: no
Release: 1
License: LicenseRef-Debian
BuildArch: x86_64
%prep
%build
%install
%clean
"""

# EL's glibc has the same trigger: packages with libraries need not update the linker's cache.
_LIBC_TRIGGER = """\
%transfiletriggerin -n libc6 -- /usr/lib/x86_64-linux-gnu
/usr/sbin/ldconfig
%transfiletriggerpostun -n libc6 -- /usr/lib/x86_64-linux-gnu
/usr/sbin/ldconfig
"""


def write(
    suite: DebianSuite,
    packages: Iterable[DebianPackage],
    contents: Mapping[str, PackageContents],
    licences: Mapping[str, str],
    root: Path,
) -> str:
    """The whole spec. Owners in `contents` that are no Debian package (filesystem, yum) become RPMs as well.

    `licences` has the SPDX expression of each. Each RPM names the base as the source package that it is made of.
    """
    known = {package.name: package for package in packages}
    owners = _Owners(root)
    parts = [
        f"Name: {suite.base}\nVersion: {suite.release}\nSummary: Packages of {suite.title} as RPMs",
        _PREAMBLE,
        f"%description\n{suite.title}'s packages as RPMs, each with its own files and dependencies.\n",
    ]
    for name in sorted(known.keys() | contents.keys()):
        package = known.get(name)
        parts.append(
            _package(suite, package, known, licences[name]) if package else _extra(suite, name, licences[name])
        )
        parts.append(_files(name, contents.get(name, PackageContents()), package, owners))
    if "libc6" in known:
        parts.append(_LIBC_TRIGGER)
    return "\n".join(parts)


def _package(suite: DebianSuite, package: DebianPackage, known: Collection[str], licence: str) -> str:
    provides = [f"{name} = {package.full_version}" for name in el_names(package.name, known)]
    requires = dict.fromkeys((*package.requires, *el_needs(package.name, known)))
    provides = [line.split(" ")[0] if line.startswith("/") else line for line in provides]
    lines = [
        f"%package -n {package.name}",
        f"Summary: {_escape(package.summary) or package.name}",
        f"Epoch: {package.epoch}",
        f"Version: {package.version}",
        f"Release: {package.release}",
        f"License: {_escape(licence)}",
        "AutoReqProv: no",
        f"Requires(pre): {FILESYSTEM}",
        *(f"Requires: {name}" for name in requires),
        *(f"Provides: {name}" for name in (*package.provides, *provides)),
        f"%description -n {package.name}",
        f"{suite.title}'s {package.name}.",
    ]
    return "\n".join(lines) + "\n"


def _extra(suite: DebianSuite, name: str, licence: str) -> str:
    needs = {
        FILESYSTEM: f"Requires(pre): {ACCOUNTS}\n",
        "yum": "Requires: dnf\n",
        "systemd-rpm-macros": "Requires: rpm\n",
        LANGPACK: "Requires: libc6\n",
    }
    requires = needs.get(name, "")
    return (
        f"%package -n {name}\nSummary: What no package of Debian owns, in {name}\nLicense: {_escape(licence)}\n"
        f"AutoReqProv: no\n{requires}"
        f"%description -n {name}\nMade for the base {suite.base}.\n"
    )


def _files(name: str, contents: PackageContents, package: DebianPackage | None, owners: _Owners) -> str:
    lines = [f"%files -n {name}", "%defattr(-,root,root,-)"]
    lines += [f"%dir {owners.attr(path)}{_quoted(path)}" for path in sorted(contents.folders)]
    for path in sorted(contents.files):
        # The conffiles of a package; and files in /etc of what is no Debian package, such as the accounts.
        config = path in package.config if package else path.startswith("/etc/")
        words = ("%config(noreplace) " if config and not owners.is_link(path) else "") + owners.attr(path)
        if _LICENCE_FILE.fullmatch(path):
            words = f"%license {words}"
        if path in CAPABILITIES:
            words += f"%caps({CAPABILITIES[path]}) "
        lines.append(words + _quoted(path))
    return "\n".join(lines) + "\n"


class _Owners:
    """Names of users and groups in the root filesystem; this machine may have other names for the same numbers."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._users = _ids(root / "etc/passwd")
        self._groups = _ids(root / "etc/group")

    def attr(self, path: str) -> str:
        """`%attr(…) ` for a file that is not root's, or that gets another mode than on disk; else an empty text."""
        if path in MODES:
            return f"%attr({MODES[path]},root,root) "
        found = os.lstat(self._root / path.lstrip("/"))
        if found.st_uid == 0 and found.st_gid == 0:
            return ""
        return f"%attr(-,{self._users[found.st_uid]},{self._groups[found.st_gid]}) "

    def is_link(self, path: str) -> bool:
        return (self._root / path.lstrip("/")).is_symlink()


def _ids(file: Path) -> dict[int, str]:
    rows = (line.split(":") for line in file.read_text().splitlines() if line.count(":") >= 3)
    return {int(row[2]): row[0] for row in rows}


def _quoted(path: str) -> str:
    return f'"{_escape(path)}"'


def _escape(text: str) -> str:
    return text.replace("%", "%%")
