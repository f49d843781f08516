"""Which context the programs of the daemon get, under SELinux and without."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlayd.kernel import selinux

OWN = b"system_u:system_r:initrc_t:s0\0"


def proc(folder: Path, *, filesystems: str, no_new_privileges: int) -> Path:
    """A /proc of a thread that has a context."""
    (folder / "self").mkdir()
    (folder / "filesystems").write_text(filesystems)
    (folder / "self/status").write_text(f"Name:\toverlayd\nNoNewPrivs:\t{no_new_privileges}\nSeccomp:\t2\n")
    (folder / "thread-self/attr").mkdir(parents=True)
    (folder / "thread-self/attr/current").write_bytes(OWN)
    (folder / "thread-self/attr/exec").write_bytes(b"")
    return folder


def test_where_no_domain_can_be_entered_programs_keep_ours(tmp_path: Path) -> None:
    place = proc(tmp_path, filesystems="nodev\tselinuxfs\n\text4\n", no_new_privileges=1)
    selinux.keep_context(place)
    assert (place / "thread-self/attr/exec").read_bytes() == OWN


@pytest.mark.parametrize(
    ("filesystems", "no_new_privileges"),
    [
        pytest.param("nodev\tselinuxfs\n", 0, id="transitions are allowed"),
        pytest.param("nodev\tsecurityfs\n\text4\n", 1, id="no SELinux"),
    ],
)
def test_elsewhere_nothing_is_asked_for(tmp_path: Path, filesystems: str, no_new_privileges: int) -> None:
    place = proc(tmp_path, filesystems=filesystems, no_new_privileges=no_new_privileges)
    selinux.keep_context(place)
    assert (place / "thread-self/attr/exec").read_bytes() == b""


def test_a_policy_that_does_not_allow_it_ends_nothing(tmp_path: Path) -> None:
    place = proc(tmp_path, filesystems="nodev\tselinuxfs\n", no_new_privileges=1)
    (place / "thread-self/attr/exec").unlink()
    (place / "thread-self/attr/exec").mkdir()
    selinux.keep_context(place)
