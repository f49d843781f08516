"""The BPF programs: where they lie, in a checkout and in the frozen program, and under which licence."""

from __future__ import annotations

import re

from images.engine.place import PLACE, ROOT
from overlayd.fastpath import programs
from rpm import bpf, source
from rpm.inventory import parts

TEXT = (ROOT / source.BPF / "fastpath.bpf.c").read_text()
# The kernel's license_is_gpl_compatible (include/linux/license.h).
GPL_COMPATIBLE = {
    *("GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL"),
}


def test_the_daemon_of_a_checkout_finds_them_where_the_build_leaves_them() -> None:
    assert PLACE.build / bpf.OBJECT == programs.OBJECT


def test_the_frozen_program_has_them_beside_the_module_that_loads_them() -> None:
    place = re.search(
        r'datas=\[\(os\.environ\["FREEZE_OBJECT"\], "(.+)"\)\]', (ROOT / source.FREEZE / "program.spec").read_text()
    )
    module = ROOT / source.DAEMON / place[1] / "programs.py" if place else None
    assert module is not None
    assert module.is_file()
    assert '_HERE.with_name("fastpath.bpf.o")' in module.read_text()


def test_the_kernel_takes_them_for_programs_under_the_gpl() -> None:
    said = re.search(r'SEC\("license"\) = "(.+)";', TEXT)
    assert said is not None
    assert said[1] in GPL_COMPATIBLE


def test_source_and_table_of_licences_name_the_same() -> None:
    named = TEXT.splitlines()[0].removeprefix("// SPDX-License-Identifier: ")
    [row] = [part for part in parts.load((ROOT / "rpm/licenses/parts.toml").read_text()).parts if part.files]
    assert row.spdx == named
    assert row.files == (f"overlayd/fastpath/{bpf.OBJECT.name}",)


def test_no_path_of_the_machine_gets_into_the_object() -> None:
    words = bpf.script().split()
    assert '-ffile-prefix-map="$PWD=."' in words
    assert words[words.index("-c") + 1] == "fastpath.bpf.c"


def test_the_instructions_do_not_depend_on_which_are_newest_to_a_clang() -> None:
    assert "-mcpu=v2" in bpf.script().split()
