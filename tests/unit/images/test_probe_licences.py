"""Which licence texts go into the probe image with the files of some packages, and how they get there."""

from __future__ import annotations

from pathlib import Path

from images.probe import licences

ROWS = """\
bash\tdebian.src.rpm\t0\t/usr/bin/bash
bash\tdebian.src.rpm\t128\t/usr/share/doc/bash/copyright
tool\tdebian.src.rpm\t0\t/usr/bin/tool
tool\tdebian.src.rpm\t128\t/usr/share/doc/tool
acl\tacl-1.src.rpm\t128\t/usr/share/licenses/acl/COPYING
libacl\tacl-1.src.rpm\t0\t/usr/lib64/libacl.so.1
setup\tsetup-1.src.rpm\t0\t/etc/hosts
"""


def test_only_packages_that_have_a_file_there_bring_their_texts() -> None:
    assert licences.chosen(ROWS, ["/usr/bin/bash"]) == ({"/usr/share/doc/bash/copyright"}, [])


def test_a_package_without_a_text_has_that_of_its_sources_or_is_named() -> None:
    assert licences.chosen(ROWS, ["/usr/lib64/libacl.so.1", "/etc/hosts"]) == (
        {"/usr/share/licenses/acl/COPYING"},
        ["setup"],
    )


def test_a_link_to_the_folder_of_another_package_brings_that_folders_text(tmp_path: Path) -> None:
    full, small = tmp_path / "full", tmp_path / "small"
    (full / "usr/share/doc/tool-common").mkdir(parents=True)
    (full / "usr/share/doc/tool-common/copyright").write_text("text")
    (full / "usr/share/doc/tool").symlink_to("tool-common")
    (full / "usr/share/doc/gone").symlink_to("nowhere")
    for path in ("/usr/share/doc/tool", "/usr/share/doc/tool", "/usr/share/doc/gone"):
        licences._copy(full, small, path)
    assert (small / "usr/share/doc/tool").is_symlink()
    assert (small / "usr/share/doc/tool/copyright").read_text() == "text"
