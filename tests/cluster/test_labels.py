"""Under SELinux every file of the package gets the right label by its path, without a policy module of ours.

The tests use the reference policy in Debian's package. EL's targeted policy is derived from it; for our paths both
have the same rules. The program matters most: systemd starts a file of bin_t in a domain for services (in EL's policy
unconfined_service_t, whose entry point is bin_t, also with NoNewPrivileges=). A program of lib_t would stay in
systemd's own domain, which may not do what overlayd does.
"""

from __future__ import annotations

import re
import stat
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rpm.targets import FROZEN
from tests.testbed.cluster import roots
from tests.testbed.cluster.create import ROOT
from tests.testbed.cluster.packaged import built

# By path; the first match counts. None: on a file system that is new at each boot, labelled by whoever makes the file.
EXPECTED: tuple[tuple[str, str | None], ...] = (
    (r"/usr/bin/overlayd", "bin_t"),
    (r"/usr/lib/overlayd/bin(/.*)?", "bin_t"),
    (r"/usr/lib/overlayd/_internal/ld-linux-x86-64\.so\.2", "ld_so_t"),
    (r"/usr/lib/overlayd(/.*)?", "lib_t"),
    (r"/usr/lib/systemd/system/docker\.service\.d/.*", "container_engine_unit_t"),
    (r"/usr/lib/systemd/system(-preset)?/.*", "systemd_unit_t"),
    # These are links, and the target's label counts. A file in this folder might be confined as a generator.
    (r"/usr/lib/systemd/system-generators/.*", "lib_t"),
    (r"/usr/lib/(systemd|tmpfiles\.d|NetworkManager|firewalld)(/.*)?", "lib_t"),
    (r"/etc/sysconfig/overlayd", "etc_t"),
    (r"/var/lib/overlayd(/.*)?", "var_lib_t"),
    (r"/run/overlayd", None),
    (r"/usr/share/man(/.*)?", "man_t"),
    (r"/usr/share(/.*)?", "usr_t"),
)
_KINDS = {stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink", stat.S_IFREG: "file"}


@pytest.fixture(scope="module")
def policy() -> str:
    """A root filesystem with the policy's file contexts, and the command that reads them."""
    try:
        return str(roots.cached(roots.NEWER))
    except roots.NoSuchRelease as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def labels(policy: str) -> dict[str, str | None]:
    """The type that the policy gives to each file of the package."""
    listed = subprocess.run(
        ["rpm", "--query", "--package", "--queryformat", "[%{FILENAMES}\\t%{FILEMODES}\\n]", str(built())],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    by_kind: dict[str, list[str]] = {}
    for line in listed.splitlines():
        path, _, mode = line.partition("\t")
        by_kind.setdefault(_KINDS[stat.S_IFMT(int(mode) & 0xFFFF)], []).append(path)
    found: dict[str, str | None] = {}
    for kind, paths in by_kind.items():
        # It needs no sandbox, since it only reads its own files.
        argv = ["chroot", policy, "matchpathcon", "-f", roots.CONTEXTS, "-m", kind, *paths]
        said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        for line in said.splitlines():
            path, _, context = line.partition("\t")
            found[path] = context.split(":")[2] if ":" in context else None
    assert len(found) == len(listed.splitlines())
    return found


def test_every_file_has_the_right_label_by_its_place(labels: dict[str, str | None]) -> None:
    wanted = {}
    for path in labels:
        wanted[path] = next((kind for place, kind in EXPECTED if re.fullmatch(place, path)), "no place for it here")
    wrong = {path: (kind, wanted[path]) for path, kind in labels.items() if kind != wanted[path]}
    assert not wrong


def test_without_its_folder_bin_the_program_would_have_a_librarys_label(policy: str) -> None:
    # This is the reason for the folder `bin`. If this test fails one day, the folder is no longer needed.
    argv = ["chroot", policy, "matchpathcon", "-f", roots.CONTEXTS, "-n", "/usr/lib/overlayd/overlayd"]
    assert ":lib_t:" in subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def test_no_library_asks_for_what_policies_refuse() -> None:
    """No text relocations and executable stacks, which SELinux (execmod, execstack) and the unit forbid."""
    count = 0
    for path in (ROOT / "build" / FROZEN).rglob("*"):
        # The BPF programs are an object for the kernel, which nothing here executes.
        if path.is_file() and path.read_bytes()[:4] == b"\x7fELF" and path.suffix != ".o":
            count += 1
            assert not list(_demands(path)), path
    assert count > 10


_PT_DYNAMIC, _PT_GNU_STACK, _PF_X = 2, 0x6474E551, 1
_DT_TEXTREL, _DT_FLAGS, _DF_TEXTREL = 22, 30, 4


def _demands(path: Path) -> Iterator[str]:
    """Which permissions a program or library would need; elf(5), 64 bits, little-endian."""
    content = path.read_bytes()
    (table,) = struct.unpack_from("<Q", content, 32)
    size, number = struct.unpack_from("<HH", content, 54)
    segments = [struct.unpack_from("<IIQQQQ", content, table + index * size) for index in range(number)]
    if not any(kind == _PT_GNU_STACK and not flags & _PF_X for kind, flags, *_ in segments):
        yield "an executable stack"
    for kind, _flags, offset, _address, _physical, length in segments:
        if kind == _PT_DYNAMIC:
            for tag, value in struct.iter_unpack("<QQ", content[offset : offset + length]):
                if tag == _DT_TEXTREL or (tag == _DT_FLAGS and value & _DF_TEXTREL):
                    yield "text relocations"
