"""The files of an image, as its layers put one over the other; and which of them no package owns."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from images.engine.oci import Layout
from images.ship import image_inventory
from images.ship.tree import Tree
from tests.testbed.needs import needs
from tests.unit.ship.images import image, layer

_SPEC = """\
Name: tool
Epoch: 2
Version: 1
Release: 3
Summary: a package of the test
License: MIT
BuildArch: noarch
%description
A package of the test.
%install
mkdir -p %{buildroot}/usr/bin %{buildroot}/usr/lib
echo tool >%{buildroot}/usr/bin/tool
echo lib >%{buildroot}/usr/lib/lib
%files
/usr/bin/tool
/usr/lib/lib
"""


def tree(folder: Path, *layers: dict[str, bytes | str | None]) -> Tree:
    layout = Layout(folder / "oci")
    return Tree([layout.blob(layer(layout, folder, files).digest) for files in layers])


def paths(found: Tree) -> list[str]:
    return [path for path, _ in found.files()]


def test_upper_layers_replace_files_and_take_them_away(tmp_path: Path) -> None:
    found = tree(
        tmp_path,
        {"etc": None, "etc/a": b"1", "etc/b": b"1", "opt": None, "opt/x": b"1", "srv": None, "srv/y": b"1"},
        {"etc/a": b"2", "etc/.wh.b": b"", "opt/.wh..wh..opq": b"", "opt/z": b"2", "srv": b"a file now"},
    )
    assert paths(found) == ["etc/a", "opt/z", "srv"]
    [(_, entry)] = [one for one in found.files() if one[0] == "etc/a"]
    assert found.sha256(entry) == hashlib.sha256(b"2").hexdigest()


def test_links_among_folders_are_followed_also_those_that_lead_in_a_ring(tmp_path: Path) -> None:
    found = tree(tmp_path, {"bin": "usr/bin", "lib": "/usr/lib", "usr/x": "../bin", "a": "b", "b": "a"})
    assert found.real("/bin/sh") == "usr/bin/sh"
    assert found.real("/lib/libc.so") == "usr/lib/libc.so"
    assert found.real("usr/x/sh") == "usr/bin/sh"
    assert found.real("/a/x").endswith("/x")


@pytest.fixture(scope="module")
def rpm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rpm")
    (folder / "tool.spec").write_text(_SPEC)
    command = ["rpmbuild", "-bb", "--quiet", "--define", f"_topdir {folder}", str(folder / "tool.spec")]
    subprocess.run(command, check=True, capture_output=True)
    [found] = folder.rglob("*.rpm")
    return found


def installed(rpm: Path, folder: Path) -> dict[str, bytes | str | None]:
    """The files of a root in which the package was installed, with its database."""
    root = folder / "root"
    # The database where an image has it, whatever this machine's rpm does by default.
    define = ["--define", "_dbpath /var/lib/rpm"]
    subprocess.run(["rpm", "--root", root, *define, "-i", "--nosignature", rpm], check=True, capture_output=True)
    found = {str(p.relative_to(root)): p.read_bytes() if p.is_file() else None for p in sorted(root.rglob("*"))}
    shutil.rmtree(root)
    return {**found}


@needs("rpm", "rpmbuild")
@pytest.mark.kernel
def test_packages_are_the_databases_and_files_of_none_are_named(tmp_path: Path, rpm: Path) -> None:
    layout = Layout(tmp_path / "oci")
    layers = [
        layer(layout, tmp_path, {**installed(rpm, tmp_path), "bin": "usr/bin"}),
        layer(layout, tmp_path, {"usr/bin/ours": b"ours"}),
    ]
    found = image_inventory.read(layout, image(layout, "overlayd/x:test", layers), None)
    [package] = found.packages
    assert (package.name, package.evr, package.arch, package.license) == ("tool", "2:1-3", "noarch", "MIT")
    assert len(package.digest) == 64
    others = [file for file in found.files if not file.path.startswith("/var/lib/rpm/")]
    [file] = others
    assert (file.path, file.sha256, file.size) == ("/usr/bin/ours", hashlib.sha256(b"ours").hexdigest(), 4)


@needs("rpm", "rpmbuild")
def test_without_a_database_files_are_known_by_path_and_content(tmp_path: Path, rpm: Path) -> None:
    layout = Layout(tmp_path / "oci")
    files: dict[str, bytes | str | None] = {"lib": "usr/lib", "usr/bin/tool": b"tool\n", "usr/lib/lib": b"changed\n"}
    found = image_inventory.read(layout, image(layout, "overlayd/x:test", [layer(layout, tmp_path, files)]), rpm.parent)
    assert found.packages == ()
    assert [package.name for package in found.partial] == ["tool"]
    assert [file.path for file in found.files] == ["/usr/lib/lib"]
