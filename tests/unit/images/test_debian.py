"""Debian's packages read from a small root filesystem, and the spec that is made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from images.bases.catalogue.debian12_rpm import SUITE
from images.bases.debian import assign, dpkg, names, repository, sources, spec
from images.engine.errors import BuildError

STATUS = """\
Package: tool
Status: install ok installed
Architecture: amd64
Version: 2:1.2-rc1-3+deb12u1
Pre-Depends: libc6 (>= 2.34)
Depends: absent | awk, debconf (>= 0.5), libthing:any
Provides: helper (= 1), tool
Description: 100 % useful
 more

Package: mawk
Status: install ok installed
Architecture: amd64
Version: 1.3
Provides: awk
Description: awk

Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9
Description: C library

Package: libthing
Status: install ok installed
Architecture: all
Version: 1~beta-1
Description: thing

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 1
Description: gone
"""
LISTS = {
    "tool.list": "/.\n/bin\n/bin/tool\n/etc\n/etc/tool.conf\n/usr/lib/python3/tool.py\n",
    "tool.conffiles": "/etc/tool.conf\n",
    "mawk.list": "/usr/bin\n/usr/bin/mawk\n",
    "libc6:amd64.list": "/lib/libc.so.6\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    info = tmp_path / "var/lib/dpkg/info"
    info.mkdir(parents=True)
    (info.parent / "status").write_text(STATUS)
    for name, content in LISTS.items():
        (info / name).write_text(content)
    for path in ("usr/bin/tool", "usr/bin/mawk", "usr/lib/libc.so.6", "etc/tool.conf", "etc/passwd", "etc/group"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("root:x:0:\n")
    (tmp_path / "usr/lib/python3/__pycache__").mkdir(parents=True)
    (tmp_path / "usr/lib/python3/tool.py").write_text("")
    (tmp_path / "usr/lib/python3/__pycache__/tool.cpython-311.pyc").write_text("")
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / "etc/alternatives").mkdir()
    (tmp_path / "etc/alternatives/awk").symlink_to("/usr/bin/mawk")
    (tmp_path / "usr/bin/awk").symlink_to("/etc/alternatives/awk")
    (tmp_path / "etc/machine-id").write_text("1")
    (tmp_path / "etc/systemd/system/multi-user.target.wants").mkdir(parents=True)
    (tmp_path / "etc/systemd/system/multi-user.target.wants/tool.service").symlink_to("/x")
    return tmp_path


@pytest.mark.parametrize(
    ("debian", "rpm"),
    [
        ("1:2.36-9+deb12u1", (1, "2.36", "9+deb12u1")),
        ("1.3", (0, "1.3", "1")),
        ("4.2.2-1.1~x-2", (0, "4.2.2.1.1~x", "2")),
    ],
)
def test_versions(debian: str, rpm: tuple[int, str, str]) -> None:
    assert dpkg.split_version(debian) == rpm


def test_packages_need_what_is_installed_and_not_what_only_scripts_use(root: Path) -> None:
    packages = {package.name: package for package in dpkg.installed(root)}
    assert set(packages) == {"tool", "mawk", "libc6", "libthing"}
    assert packages["tool"].requires == ("libc6", "mawk", "libthing")
    assert packages["tool"].provides == ("helper",)
    assert "/usr/bin/tool" in packages["tool"].files
    assert packages["libc6"].files == {"/usr/lib/libc.so.6"}


def test_every_file_has_one_owner(root: Path) -> None:
    contents = assign.assign(root, dpkg.installed(root), {"/etc/tool.conf": "other"})
    owner = {path: name for name, found in contents.items() for path in found.files}
    assert owner["/usr/bin/tool"] == "tool"
    assert owner["/usr/lib/python3/__pycache__/tool.cpython-311.pyc"] == "tool"
    assert owner["/usr/bin/awk"] == owner["/etc/alternatives/awk"] == "mawk"
    assert owner["/bin"] == "filesystem"
    assert owner["/etc/passwd"] == "setup"
    assert owner["/etc/tool.conf"] == "other"
    assert sum(len(found.files) for found in contents.values()) == len(owner)


def test_what_belongs_to_one_machine_or_to_dpkg_is_dropped(root: Path) -> None:
    contents = assign.assign(root, dpkg.installed(root), {})
    paths = {path for found in contents.values() for path in found.files}
    assert not {path for path in paths if path.startswith(("/var/lib/dpkg", "/etc/systemd", "/etc/machine-id"))}


def written(packages: list[dpkg.DebianPackage], root: Path) -> str:
    """The spec, with one licence for all."""
    contents = assign.assign(root, packages, {})
    names = contents.keys() | {package.name for package in packages}
    return spec.write(SUITE, packages, contents, dict.fromkeys(names, "ISC AND LicenseRef-100%"), root)


@pytest.mark.needs("root")
def test_every_rpm_names_its_base_as_the_source_that_it_is_made_of(root: Path) -> None:
    text = written(dpkg.installed(root), root)
    assert text.startswith("Name: debian12-rpm\nVersion: 12\nSummary: Packages of Debian 12 as RPMs\n")
    assert "Debian 12's tool." in text


@pytest.mark.needs("root")
def test_the_spec_says_what_each_package_is(root: Path) -> None:
    packages = dpkg.installed(root)
    text = written(packages, root)
    section = text[text.index("%package -n tool\n") : text.index("%files -n tool\n")]
    assert "Summary: 100 %% useful" in section
    assert "Epoch: 2\nVersion: 1.2.rc1\nRelease: 3+deb12u1\n" in section
    assert "Requires: mawk\n" in section
    assert "License: ISC AND LicenseRef-100%%\n" in section
    assert '%config(noreplace) "/etc/tool.conf"' in text
    assert "%files -n filesystem" in text


@pytest.mark.needs("root")
def test_what_is_mounted_over_in_every_container_has_the_mode_of_what_is_mounted(root: Path) -> None:
    (root / "proc").mkdir()
    packages = dpkg.installed(root)
    text = written(packages, root)
    assert '%dir %attr(0555,root,root) "/proc"' in text


@pytest.mark.needs("root")
def test_of_documents_copyright_files_stay_and_are_no_documents_to_rpm(root: Path) -> None:
    for path in ("doc/tool/copyright", "doc/tool/README", "common-licenses/GPL-2"):
        (root / "usr/share" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "usr/share" / path).write_text("")
    (root / "usr/share/doc/mawk").symlink_to("tool")
    text = written(dpkg.installed(root), root)
    for path in ("doc/tool/copyright", "doc/mawk", "common-licenses/GPL-2"):
        assert f'%license "/usr/share/{path}"' in text
    assert "README" not in text
    assert "%global __docdir_path /usr/share/man:/usr/share/info\n" in text


def test_licences_are_of_the_file_that_a_package_has_leads_to_or_gets_from_us(root: Path) -> None:
    share = root / "usr/share"
    for path, name in (("doc/mawk", "ISC"), ("doc/libc6", "custom"), ("licenses/mawk", "Apache-2.0")):
        (share / path).mkdir(parents=True)
        (share / path / "copyright").write_text(f"Format: 1\n\nFiles: *\nLicense: {name}\n")
    (share / "doc/libthing").symlink_to("libc6")
    assert repository.licences_of(root, ["mawk", "libc6", "libthing"]) == {
        "mawk": "Apache-2.0 AND ISC",
        "libc6": "LicenseRef-Debian-libc6-custom",
        "libthing": "LicenseRef-Debian-libc6-custom",
    }
    with pytest.raises(BuildError, match="packages without a copyright file: other, tool"):
        repository.licences_of(root, ["tool", "mawk", "other"])


MAIN, SECURITY = "https://mirror.example.com/debian", "https://mirror.example.com/debian-security"
BOOKWORM = [
    (MAIN, "bookworm"),
    (MAIN, "bookworm-backports"),
    (MAIN, "bookworm-updates"),
    (SECURITY, "bookworm-security"),
]


def test_a_suite_that_this_machine_has_is_taken_from_its_sources() -> None:
    found = sources.of_suite("bookworm", [*BOOKWORM, (MAIN, "trixie")])
    assert found == tuple(f"deb {uri} {name} main" for uri, name in BOOKWORM)


def test_another_suite_is_asked_of_the_same_mirrors_with_its_updates() -> None:
    assert sources.of_suite("forky", BOOKWORM) == (
        f"deb {MAIN} forky main",
        f"deb {MAIN} forky-updates main",
        f"deb {SECURITY} forky-security main",
    )
    assert sources.of_suite("trixie", [(MAIN, "sid")]) == (f"deb {MAIN} trixie main",)


def test_a_name_of_el_is_provided_by_whichever_package_has_the_thing() -> None:
    older, newer = {"docker.io", "libc6"}, {"docker.io", "docker-cli", "libc6"}
    assert names.el_names("docker.io", older) == ("docker-ce", "docker", "docker-ce-cli")
    assert names.el_names("docker.io", newer) == ("docker-ce", "docker")
    assert names.el_names("docker-cli", newer) == ("docker-ce-cli",)
    assert names.el_needs("docker.io", older) == ()
    assert names.el_needs("docker.io", newer) == ("docker-cli",)


@pytest.mark.parametrize("version", ["3.11", "3.13", "3.14"])
def test_els_names_of_python_have_the_suites_version(version: str) -> None:
    assert names.el_names(f"libpython{version}", ()) == (f"python{version}-libs",)
    assert names.el_names(f"python{version}-venv", ()) == (f"python{version}-pip",)
    assert names.el_names(f"libpython{version}-stdlib", ()) == ()
