"""Bills of materials: the schema of CycloneDX is the judge, and the same values are the same bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from images.bases import catalogue
from images.ship import sbom
from images.ship.image_inventory import ImageFile, ImageInventory, RpmPackage, parse

DIGEST = "sha256:" + "a" * 64
BASH = RpmPackage(
    name="bash",
    epoch="0",
    version="5.2.15",
    release="2+b13",
    arch="x86_64",
    license="GPL-3.0-or-later AND LicenseRef-Debian-bash-permissive",
    source="debian12-rpm-12-1.src.rpm",
    digest="b" * 64,
)
CURL = RpmPackage(
    name="curl", version="8", release="1.el9", arch="x86_64", license="MIT", vendor="CentOS", source="curl-8.src.rpm"
)
OLD = RpmPackage(name="old", version="1", release="1", arch="noarch", license="GPLv2+ and BSD")
LSB = RpmPackage(name="lsb", epoch="1", version="3", release="1", arch="noarch", license="GPL-2.0-only AND MIT")
FILE = ImageFile(path="/etc/machine-id", sha256="c" * 64, size=0)
INVENTORY: dict[str, Any] = {
    "python": "3.11.2",
    "standard_modules": 200,
    "distributions": [
        {
            "name": "typing_extensions",
            "version": "4.16.0",
            "parts": 1,
            "source": "typing_extensions-4.16.0-py3-none-any.whl",
            "sha256": "d" * 64,
        },
        {"name": "six", "version": "1.17", "parts": 1, "source": None, "sha256": None},
    ],
    "libraries": [
        {
            "file": name,
            "sha256": "e" * 64,
            "unchanged": name == "libc.so.6",
            "package": {"name": "libc6", "version": "2.36", "release": "9", "arch": "x86_64", "epoch": "0"},
        }
        for name in ("libc.so.6", "libm.so.6")
    ],
    "parts": [
        {"name": "typing-extensions", "spdx": "PSF-2.0", "inside": None},
        {"name": "six", "spdx": "MIT", "inside": None},
        {"name": "python", "spdx": "Python-2.0.1 AND HPND", "inside": None},
        {"name": "re2", "spdx": "BSD-3-Clause AND LicenseRef-Lucent", "inside": "grpcio"},
    ],
    "unknown": ["module surprise"],
}


def of_image(contents: ImageInventory, epoch: int = 1_700_000_000) -> str:
    return sbom.of_image(
        "overlayd/base", version="1", digest=DIGEST, base=catalogue.get("debian12-rpm"), epoch=epoch, contents=contents
    )


def of_rpm(inventory: dict[str, Any]) -> str:
    return sbom.of_rpm(CURL, inventory, base=catalogue.get("centos-stream9"), epoch=0)


def components(text: str) -> dict[str, dict[str, Any]]:
    return {part["bom-ref"]: part for part in json.loads(text)["components"]}


ALL = ImageInventory(packages=(BASH, CURL, OLD), partial=(LSB,), files=(FILE,))


@pytest.mark.parametrize("text", [of_image(ALL), of_rpm(INVENTORY)], ids=["image", "rpm"])
def test_they_are_valid_by_the_schema(text: str) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def test_the_same_content_is_the_same_bytes_and_other_content_another_number() -> None:
    assert of_image(ALL) == of_image(ImageInventory(packages=(OLD, CURL, BASH), partial=(LSB,), files=(FILE,)))
    other = of_image(ImageInventory(packages=(BASH,), partial=(LSB,), files=(FILE,)))
    numbers = {json.loads(text)["serialNumber"] for text in (of_image(ALL), other, of_rpm(INVENTORY))}
    assert len(numbers) == 3
    assert json.loads(of_image(ALL))["metadata"]["timestamp"] == "2023-11-14T22:13:20+00:00"


def test_an_images_bill_names_every_package_and_every_file_of_none() -> None:
    found = components(of_image(ALL))
    assert set(found) == {
        "rpm:bash-0:5.2.15-2+b13.x86_64",
        "rpm:curl-8-1.el9.x86_64",
        "rpm:lsb-1:3-1.noarch",
        "rpm:old-1-1.noarch",
        "file:/etc/machine-id",
    }
    bash = found["rpm:bash-0:5.2.15-2+b13.x86_64"]
    assert bash["purl"] == "pkg:rpm/debian12-rpm/bash@5.2.15-2%2Bb13?arch=x86_64&distro=debian12-rpm&epoch=0"
    [ancestor] = bash["pedigree"]["ancestors"]
    assert ancestor["purl"] == "pkg:deb/debian/bash@5.2.15-2%2Bb13?arch=amd64"
    assert {"name": "rpm:sha256header", "value": "b" * 64} in bash["properties"]
    assert "pedigree" not in found["rpm:curl-8-1.el9.x86_64"]
    assert found["rpm:curl-8-1.el9.x86_64"]["supplier"]["name"] == "CentOS"
    assert found["file:/etc/machine-id"]["hashes"] == [{"alg": "SHA-256", "content": "c" * 64}]


def test_licences_are_spdx_where_they_are_and_names_elsewhere() -> None:
    found = components(of_image(ALL))
    assert found["rpm:curl-8-1.el9.x86_64"]["licenses"] == [{"license": {"id": "MIT"}}]
    assert found["rpm:lsb-1:3-1.noarch"]["licenses"] == [{"expression": "GPL-2.0-only AND MIT"}]
    assert found["rpm:bash-0:5.2.15-2+b13.x86_64"]["licenses"] == [
        {"expression": "GPL-3.0-or-later AND LicenseRef-Debian-bash-permissive"}
    ]
    # A name of Fedora's from before SPDX.
    assert found["rpm:old-1-1.noarch"]["licenses"] == [{"license": {"name": "GPLv2+ and BSD"}}]


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("LicenseRef-Debian-x-copyright", {"expression": "LicenseRef-Debian-x-copyright"}),
        ("MIT and LicenseRef-own", {"expression": "MIT AND LicenseRef-own"}),
        ("GPL-2.0-only WITH Libtool-exception", {"expression": "GPL-2.0-only WITH Libtool-exception"}),
        ("LicenseRef-own and more", {"license": {"name": "LicenseRef-own and more"}}),
    ],
)
def test_a_licence_that_only_its_package_tells_is_part_of_an_expression(told: str, said: dict[str, Any]) -> None:
    package = RpmPackage(name="x", version="1", release="1", arch="noarch", license=told)
    text = of_image(ImageInventory(packages=(package,), partial=(), files=()))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert components(text)["rpm:x-1-1.noarch"]["licenses"] == [said]


def test_the_rpms_bill_names_what_was_frozen_libraries_with_their_package_and_the_unknown() -> None:
    found = components(of_rpm(INVENTORY))
    assert found["pypi:typing-extensions"]["hashes"][0]["content"] == "d" * 64
    assert found["pypi:typing-extensions"]["licenses"] == [{"license": {"id": "PSF-2.0"}}]
    assert found["python"]["version"] == "3.11.2"
    assert found["python"]["licenses"] == [{"expression": "Python-2.0.1 AND HPND"}]
    assert found["linked:re2"]["licenses"] == [{"expression": "BSD-3-Clause AND LicenseRef-Lucent"}]
    assert found["linked:re2"]["properties"] == [{"name": "overlayd:linked-into", "value": "grpcio"}]
    libraries = found["rpm:libc6-0:2.36-9.x86_64"]["components"]
    assert [one["name"] for one in libraries] == ["libc.so.6", "libm.so.6"]
    assert "properties" not in libraries[0]
    assert libraries[1]["properties"] == [{"name": "overlayd:changed", "value": "not as the package has it"}]
    assert found["unknown:module surprise"]["properties"][0]["value"] == "unknown"


def test_a_projects_own_release_is_known_by_the_sum_of_its_file() -> None:
    part = sbom.release("etcd", version="3.5", url="https://x.test/e.tgz", sha256="f" * 64, licence="Apache-2.0")
    text = sbom.of_image(
        "overlayd/etcd",
        version="1",
        digest=DIGEST,
        base=catalogue.get("centos-stream9"),
        epoch=0,
        contents=ImageInventory(packages=(), partial=(), files=()),
        others=[part],
    )
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    [reference] = components(text)["release:etcd"]["externalReferences"]
    assert reference["hashes"] == [{"alg": "SHA-256", "content": "f" * 64}]


def test_keys_that_rpm_lists_are_no_packages() -> None:
    rows = "gpg-pubkey\t(none)\ta\tb\t(none)\tpubkey\t(none)\t(none)\t(none)\t(none)\n"
    rows += "curl\t(none)\t8\t1.el9\tx86_64\tMIT\tCentOS\t(none)\tcurl-8.src.rpm\t(none)\n"
    assert parse(rows) == (CURL,)
