"""Software bills of materials (SBOMs), CycloneDX 1.6 as JSON, of an image and of the RPM. Pure: values in, text out.

The same values give the same bytes: the serial number is derived from the content, and the time is that of the build.
"""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, cast

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType, Pedigree
from cyclonedx.model.contact import OrganizationalEntity
from cyclonedx.model.license import License, LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.spdx import is_expression
from packageurl import PackageURL

from images.bases.base import Base
from images.ship.image_inventory import ImageFile, ImageInventory, RpmPackage

# The namespace of our serial numbers (UUIDs of version 5, RFC 9562).
_SPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://github.com/overlayd/overlayd/bill")
_ARCHES = {"x86_64": "amd64", "noarch": "all"}
_VENDOR = OrganizationalEntity(name="overlayd")
_LICENCE = "Apache-2.0"
# The library builds its tables at the first call; a second thread that calls meanwhile would be told that nothing is
# an expression.
_LICENSING = threading.Lock()
_REFERENCE = re.compile(r"\bLicenseRef-[A-Za-z0-9.-]+")


def of_image(
    name: str,
    *,
    version: str,
    digest: str,
    base: Base,
    epoch: int,
    contents: ImageInventory,
    others: Iterable[Component] = (),
) -> str:
    """The SBOM of an image. `digest` is its image ID; `others` are components that came from no package."""
    subject = Component(
        type=ComponentType.CONTAINER,
        name=name,
        version=version,
        bom_ref="image",
        supplier=_VENDOR,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest.removeprefix("sha256:"))],
        purl=PackageURL("oci", None, name.rpartition("/")[2], digest, {"tag": base.name}),
        properties=[Property(name="overlayd:base", value=base.name)],
    )
    parts = [_package(package, base) for package in contents.packages]
    parts += [_package(package, base, partly=True) for package in contents.partial]
    parts += [_file(file) for file in contents.files]
    return _text(subject, [*parts, *others], epoch)


def of_rpm(package: RpmPackage, inventory: Mapping[str, Any], *, base: Base, epoch: int) -> str:
    """The SBOM of overlayd's RPM. `inventory` is what rpm/inventory found in the frozen program."""
    subject = _package(package, base, kind=ComponentType.APPLICATION)
    subject.bom_ref.value = "rpm"
    subject.supplier = _VENDOR
    licences = {_plain(part["name"]): part["spdx"] for part in inventory["parts"]}
    parts = [_distribution(found, licences[_plain(found["name"])]) for found in inventory["distributions"]]
    parts.append(
        Component(
            type=ComponentType.PLATFORM,
            name="python",
            version=inventory["python"],
            bom_ref="python",
            licenses=[_licence(licences["python"])],
            purl=PackageURL("generic", None, "python", inventory["python"]),
            properties=[Property(name="overlayd:modules", value=str(inventory["standard_modules"]))],
        )
    )
    parts += _libraries(inventory["libraries"], base)
    parts += [_linked(part) for part in inventory["parts"] if part["inside"]]
    parts += [_unknown(name) for name in inventory["unknown"]]
    return _text(subject, parts, epoch)


def release(
    name: str, *, version: str, url: str, sha256: str, licence: str, files: Iterable[ImageFile] = ()
) -> Component:
    """A component that is its project's own release: the file at `url`, with this SHA-256."""
    return Component(
        type=ComponentType.APPLICATION,
        name=name,
        version=version,
        bom_ref=f"release:{name}",
        licenses=[_licence(licence)],
        purl=PackageURL("generic", None, name, version, {"download_url": url, "checksum": f"sha256:{sha256}"}),
        external_references=[
            ExternalReference(
                type=ExternalReferenceType.DISTRIBUTION,
                url=XsUri(url),
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)],
            )
        ],
        components=[_file(file) for file in files],
    )


def _package(
    package: RpmPackage, base: Base, *, partly: bool = False, kind: ComponentType = ComponentType.LIBRARY
) -> Component:
    qualifiers = {"arch": package.arch, "distro": base.name} | ({"epoch": package.epoch} if package.epoch else {})
    version = f"{package.version}-{package.release}"
    properties = [Property(name="rpm:sha256header", value=package.digest)] if package.digest else []
    if partly:
        properties.append(Property(name="overlayd:partial", value="some of the package's files"))
    return Component(
        type=kind,
        name=package.name,
        version=package.evr,
        bom_ref=f"rpm:{package.name}-{package.evr}.{package.arch}",
        supplier=OrganizationalEntity(name=package.vendor) if package.vendor else None,
        licenses=[_licence(package.license)] if package.license else [],
        purl=PackageURL("rpm", base.purl_namespace, package.name, version, qualifiers),
        properties=properties,
        pedigree=_ancestor(package, base),
    )


def _ancestor(package: RpmPackage, base: Base) -> Pedigree | None:
    """The package of Debian that an RPM of debian12-rpm, say, was made of, by which security advisories name it.

    These RPMs name their base as their source (images/bases/debian/spec.py). They state an epoch, even zero. The few
    RPMs that hold files of no package of Debian state none.
    """
    if not package.source.startswith(f"{base.name}-") or not package.epoch:
        return None
    version = f"{package.version}-{package.release}"
    version = f"{package.epoch}:{version}" if package.epoch != "0" else version
    url = PackageURL("deb", "debian", package.name, version, {"arch": _ARCHES.get(package.arch, package.arch)})
    return Pedigree(
        ancestors=[Component(name=package.name, version=version, purl=url, bom_ref=f"deb:{package.name}-{version}")]
    )


def _distribution(found: Mapping[str, Any], licence: str) -> Component:
    name = found["name"]
    plain = _plain(name)
    return Component(
        name=name,
        version=found["version"],
        bom_ref=f"pypi:{plain}",
        licenses=[_licence(licence)],
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=found["sha256"])] if found["sha256"] else [],
        purl=PackageURL("pypi", None, plain, found["version"]),
        properties=[
            Property(name="overlayd:frozen", value=f"{found['parts']} modules and files"),
            *([Property(name="overlayd:source", value=found["source"])] if found["source"] else []),
        ],
    )


def _plain(name: str) -> str:
    """The form in which names of Python packages are compared (PEP 503), and which purls have."""
    return name.lower().replace("_", "-").replace(".", "-")


def _linked(part: Mapping[str, Any]) -> Component:
    """A library that is linked into an extension of a distribution, and so is no file of its own."""
    return Component(
        name=part["name"],
        bom_ref=f"linked:{part['name']}",
        licenses=[_licence(part["spdx"])],
        properties=[Property(name="overlayd:linked-into", value=part["inside"])],
    )


def _libraries(found: Iterable[Mapping[str, Any]], base: Base) -> list[Component]:
    """The packages that shared libraries were copied from, each with these files."""
    files: dict[RpmPackage, list[Component]] = {}
    for library in found:
        fields = library["package"]
        package = RpmPackage(
            name=fields["name"],
            epoch=fields.get("epoch", ""),
            version=fields["version"],
            release=fields["release"],
            arch=fields["arch"],
            license=fields.get("license", ""),
            vendor=fields.get("vendor", ""),
            source=fields.get("sourcerpm", ""),
            digest=fields.get("sha256header", ""),
        )
        changed = () if library["unchanged"] else [Property(name="overlayd:changed", value="not as the package has it")]
        files.setdefault(package, []).append(
            Component(
                type=ComponentType.FILE,
                name=library["file"],
                bom_ref=f"file:{library['file']}",
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=library["sha256"])],
                properties=changed,
            )
        )
    made = []
    for package, components in sorted(files.items(), key=lambda item: item[0]):
        component = _package(package, base, partly=True)
        component.components = components
        made.append(component)
    return made


def _file(file: ImageFile) -> Component:
    return Component(
        type=ComponentType.FILE,
        name=file.path,
        bom_ref=f"file:{file.path}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=file.sha256)],
        properties=[Property(name="overlayd:origin", value="no package owns it")],
    )


def _unknown(name: str) -> Component:
    return Component(
        type=ComponentType.FILE,
        name=name,
        bom_ref=f"unknown:{name}",
        properties=[Property(name="overlayd:origin", value="unknown")],
    )


def _licence(text: str) -> License:
    """A licence as an SPDX identifier or expression where it is one, else as a name.

    A LicenseRef names a licence whose text only the package has (images/bases/debian/licences.py). The library does
    not know these and would take an expression that holds one for a name.
    """
    words = re.sub(r"(?<=[\s)])(and|or|with)(?=[\s(])", lambda word: word[0].upper(), text)
    known = _REFERENCE.sub("MIT", words)
    with _LICENSING:
        if known != words and is_expression(known):
            return LicenseExpression(words)
        return LicenseFactory().make_from_string(text)


def _text(subject: Component, parts: Iterable[Component], epoch: int) -> str:
    subject.licenses = subject.licenses or cast(Any, [_licence(_LICENCE)])
    bom = Bom(
        metadata=BomMetaData(component=subject, timestamp=datetime.fromtimestamp(epoch, UTC)),
        components=parts,
        serial_number=_SPACE,
    )
    bom.register_dependency(subject, bom.components)
    # The serial number is derived from the document with the namespace in its place.
    bom.serial_number = uuid.uuid5(_SPACE, JsonV1Dot6(bom).output_as_string(indent=1))
    return JsonV1Dot6(bom).output_as_string(indent=1) + "\n"
