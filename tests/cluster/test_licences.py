"""Each image and the RPM contain the licence texts of all that is in them, and name the licences."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from cyclonedx import spdx

from images.bases import catalogue
from images.engine.place import Place
from images.ship import image_inventory
from rpm.inventory import parts
from rpm.inventory.target import INVENTORY
from tests.testbed.cluster.create import ROOT
from tests.testbed.cluster.docker_engine import client
from tests.testbed.cluster.packaged import built

PLACE = Place(root=ROOT)
TEXTS = "/usr/share/licenses/overlayd"
# Each package with the total size of its licence files, those in folders included.
_BY_PACKAGE = """\
for package in $(rpm -qa --queryformat '%{NAME}\\n' | grep -v '^gpg-pubkey$'); do
    bytes=$(rpm -q --licensefiles "$package" | while read -r path; do
        if [ -d "$path" ]; then find "$path/" -maxdepth 1 -type f; else echo "$path"; fi
    done | while read -r file; do
        [ ! -f "$file" ] || wc -c <"$file"
    done | { sum=0; while read -r one; do sum=$((sum + one)); done; echo "$sum"; })
    echo "$package $bytes"
done
"""
# Files that copyright files name and that do not exist.
_DANGLING = """\
cat /usr/share/doc/*/copyright | grep -aoE '/usr/share/common-licenses/[A-Za-z0-9.-]*[A-Za-z0-9]' | sort -u |
    while read -r path; do [ -s "$path" ] || echo "$path"; done
"""
# Names that are errors in a copyright file: no Debian has these files.
_NOWHERE = {"/usr/share/common-licenses/GFDL-3"}


def run(image: str, script: str) -> list[str]:
    """The output of a shell in a container without a network, line by line."""
    container = client().containers.create(image, ["-euc", script], entrypoint="/bin/sh", network_mode="none")
    try:
        container.start()
        assert container.wait(timeout=120)["StatusCode"] == 0, container.logs().decode(errors="replace")
        return container.logs().decode().splitlines()
    finally:
        container.remove(force=True, v=True)


@pytest.fixture
def debian(base: str) -> str:
    if catalogue.get(base).signed:
        pytest.skip(f"the packages of {base} are the distribution's own, and so are its licence files")
    return base


@pytest.mark.parametrize("image", ["base", "docker", "host", "etcd", "builder"])
def test_each_package_of_an_image_has_its_licence_text_in_the_image(debian: str, image: str) -> None:
    rows = [line.split() for line in run(f"overlayd/{image}:{debian}", _BY_PACKAGE)]
    assert len(rows) > 100
    assert {package: size for package, size in rows if int(size) < 100} == {}


@pytest.mark.parametrize("image", ["host", "probe"])
def test_the_full_licence_texts_that_copyright_files_name_are_in_the_image(debian: str, image: str) -> None:
    assert set(run(f"overlayd/{image}:{debian}", _DANGLING)) <= _NOWHERE


@pytest.mark.parametrize("image", ["base", "etcd", "host"])
def test_our_own_files_in_an_image_have_our_licence_beside_them(base: str, image: str) -> None:
    said = run(f"overlayd/{image}:{base}", "cat /usr/share/licenses/system-container/LICENSE")
    assert said == (ROOT / "LICENSE").read_text().splitlines()


def test_the_probe_has_the_texts_of_the_packages_that_its_files_are_from(debian: str) -> None:
    image = PLACE.layout.image(f"overlayd/probe:{debian}")
    assert image is not None
    found = image_inventory.read(PLACE.layout, image, PLACE.build / catalogue.get(debian).repository)
    names = {package.name for package in found.partial}
    assert {"bash", "libc6", "iperf3"} <= names
    script = f"for name in {' '.join(sorted(names))}; do test -s /usr/share/doc/$name/copyright || echo $name; done"
    assert run(image.name, script) == []


def test_the_license_tags_of_all_packages_are_spdx(debian: str) -> None:
    rows = run(f"overlayd/host:{debian}", "rpm -qa --queryformat '%{NAME}\\t%{LICENSE}\\n'")
    told = dict(row.split("\t") for row in rows)
    assert {name: text for name, text in told.items() if not is_spdx(text)} == {}
    # Packages whose copyright file names one; not free text without a licence, nor names without an SPDX equivalent.
    named = [name for name, text in told.items() if re.sub(r"LicenseRef-\S+|AND|OR|WITH|[()\s]", "", text)]
    assert len(named) >= 0.85 * len(told)
    assert told["zlib1g"] == "Zlib"


def is_spdx(text: str) -> bool:
    return spdx.is_expression(re.sub(r"\bLicenseRef-[A-Za-z0-9.-]+", "MIT", text))


def queried(what: str) -> str:
    """Values of the RPM's header."""
    words = ["rpm", "-qp", "--nosignature", "--queryformat", what, str(built())]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The licence texts of the RPM, as installed on a host."""
    folder = tmp_path_factory.mktemp("rpm")
    script = f"rpm2cpio '{built()}' | cpio --quiet --extract --make-directories './usr/share/licenses/*'"
    subprocess.run(["sh", "-euc", script], cwd=folder, check=True, timeout=120)
    return folder / TEXTS.lstrip("/")


def test_the_rpm_has_a_text_of_each_part_that_it_bundles(unpacked: Path) -> None:
    inventory = json.loads((ROOT / "build" / INVENTORY).read_text())
    names = {part["name"] for part in inventory["parts"]}
    assert {"glibc", "libgcc", "libstdc++", "openssl", "python", "grpcio", "boringssl", "pyinstaller"} <= names
    assert {"libbpf", "libelf", "fastpath"} <= names
    lacking = {name for name in names if sum(file.stat().st_size for file in (unpacked / name).glob("*")) < 100}
    assert not lacking
    assert "Version 2.0" in (unpacked / "boringssl/Apache-2.0.txt").read_text()
    assert "Bootloader Exception" in (unpacked / "pyinstaller/COPYING.txt").read_text()
    assert (unpacked / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_the_full_licence_texts_that_parts_name_are_in_the_rpm(unpacked: Path) -> None:
    text = "".join(file.read_text(errors="replace") for file in unpacked.rglob("copyright"))
    named = set(re.findall(r"/usr/share/common-licenses/([A-Za-z0-9.-]*[A-Za-z0-9])", text))
    assert {name for name in named if not (unpacked / "common-licenses" / name).is_file()} == set()


def test_the_rpms_license_field_names_all_of_it(unpacked: Path) -> None:
    inventory = json.loads((ROOT / "build" / INVENTORY).read_text())
    field = queried("%{LICENSE}")
    assert is_spdx(field)
    clauses = set(parts.clauses(field))
    missing = {part["name"] for part in inventory["parts"] if not set(parts.clauses(part["spdx"])) <= clauses}
    assert not missing
    assert "Apache-2.0" in clauses
    rows = (unpacked / "README.md").read_text()
    assert all(f"| {part['name']} | {part['spdx']} |" in rows for part in inventory["parts"])


def test_rpm_takes_all_texts_for_licences() -> None:
    rows = queried("[%{FILEMODES:perms} %{FILENAMES} %{FILEFLAGS:fflags}\\n]").splitlines()
    texts = [row for row in rows if f" {TEXTS}/" in row and not row.startswith("d")]
    assert len(texts) > 40
    assert [row for row in texts if "l" not in row.rpartition(" ")[2]] == []
