"""The targets that make the RPM, in the order in which they are built.

    rpm.wheelhouse  PyInstaller and the libraries that the daemon imports, from the package index, hashes checked
    rpm.freezer     an image: the builder with all of these installed
    rpm.bpf         the BPF programs of the fast path, compiled (rpm/bpf.py)
    rpm.freeze      the frozen program, for /usr/lib/overlayd; the spec puts the executable into its folder bin
    rpm.docs        manual pages and shell completion, made from the program's own parser
    rpm.inventory   what the frozen program is made of, for the RPM's SBOM (rpm/inventory/)
    rpm.licences    the licence texts of all that, and the RPM's License field
    rpm.build       the RPM, in a repository that yum can read

Only the first needs a network. A change of the daemon's code builds the last five again.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from images.bases import local_repository
from images.bases.base import Base
from images.bases.local_repository import RPM_REPOSITORY
from images.bases.product import Product, image_target
from images.engine.annotations import version
from images.engine.containers import ImageConfig
from images.engine.graph import CACHE, EPOCH, Target
from images.engine.place import ROOT
from images.engine.step import Step
from images.engine.target import target
from rpm import bpf, container, source
from rpm.inventory import target as inventory

_HERE = Path(__file__)
FACTS = Path("rpm/facts.json")
FROZEN = Path("rpm/frozen")
DOCS = Path("rpm/docs")
LICENCES = inventory.LICENCES
INSTALLED = "/usr/lib/overlayd"
# A wheel may need the C library of the oldest base, or an older one: pip needs each name listed.
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
# Every rpm reads xz; before EL 8.2 none reads zstd, which also makes a larger package. The bytes depend on the number
# of threads, so it is 2 on every machine.
_COMPRESSION = "w6T2.xzdio"
_VENV = "/opt/freezer"
_OBJECT = f"/run/{bpf.OBJECT.name}"
# In the builder image build-python is the base's newest Python.
_FREEZE = f"cd {container.CHECKOUT} && build-python -m rpm.freeze.freeze"


def _targets(base: Base) -> tuple[Target, ...]:
    return (
        _wheelhouse(base),
        _freezer(base),
        bpf.target(base),
        _freeze(base),
        _docs(base),
        *inventory.targets(base, frozen=FROZEN, wheelhouse=wheelhouse(base), python=f"{_VENV}/bin/python"),
        _build(base),
    )


def _wheelhouse(base: Base) -> Target:
    output = wheelhouse(base)

    def build(step: Step) -> None:
        place = step.output(output)
        step.run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes", "--no-deps"),
                # etcd3 is published as source only; it is built when it is installed.
                *("--only-binary", ":all:", "--no-binary", "etcd3"),
                *("--python-version", base.python.removeprefix("python")),
                *(word for platform in _PLATFORMS for word in ("--platform", platform)),
                *("--dest", place, "--requirement", step.checkout / source.LOCK),
            ]
        )

    return target(
        name="rpm.wheelhouse",
        build=build,
        code=[_HERE],
        values={"python": base.python, "platforms": _PLATFORMS},
        files=(source.LOCK,),
        outputs=(output,),
        network=True,
    )


def wheelhouse(base: Base) -> Path:
    """The folder of the fetched packages, below the build folder."""
    return CACHE / f"wheelhouse-{base.python}"


def _freezer(base: Base) -> Target:
    script = f"{_FREEZE} venv /run/wheelhouse {source.LOCK} {_VENV}"

    def build(step: Step) -> None:
        step.run_and_commit(
            base.tag("builder"),
            script,
            ImageConfig(description="Freezes the daemon of overlayd", command=["/bin/sh"]),
            mounts={step.build / wheelhouse(base): "/run/wheelhouse", step.checkout: container.CHECKOUT},
        )

    return target(
        name="rpm.freezer",
        build=build,
        code=[_HERE],
        values={"script": script},
        files=(
            *(source.FREEZE / name for name in ("freeze.py", "private_libc.py")),
            *_packages(source.FREEZE),
            source.LOCK,
        ),
        needs=("rpm.wheelhouse", image_target("builder")),
        image=base.tag("freezer"),
    )


def _freeze(base: Base) -> Target:
    return container.target(
        name="rpm.freeze",
        base=base,
        code=_HERE,
        script=f"{_FREEZE} program {container.CHECKOUT}/{source.DAEMON} {_OBJECT} {_VENV} {INSTALLED} /overlayd",
        mounts={bpf.OBJECT: _OBJECT},
        fetch="/overlayd",
        output=FROZEN,
        files=[source.PACKAGE, source.FREEZE, *_packages(source.FREEZE)],
        needs=("rpm.freezer", bpf.NAME),
    )


def _docs(base: Base) -> Target:
    # The order of sets of strings depends on the hash seed.
    variables = f"PYTHONHASHSEED=1 PYTHONPATH={source.DAEMON} SOURCE_DATE_EPOCH={source.epoch(ROOT)}"
    return container.target(
        name="rpm.docs",
        base=base,
        code=_HERE,
        script=f"cd {container.CHECKOUT} && {variables} {_VENV}/bin/python -m rpm.docs.make /docs",
        mounts={},
        fetch="/docs",
        output=DOCS,
        files=[source.PACKAGE, source.DOCS, *_packages(source.DOCS)],
        needs=("rpm.freezer",),
    )


def _build(base: Base) -> Target:
    root, epoch = ROOT, source.epoch(ROOT)
    script = build_script(version(root), epoch, release=source.release(root))

    def build(step: Step) -> None:
        container.make(
            step,
            base.tag("freezer"),
            script,
            mounts={
                step.build / FROZEN: "/run/frozen",
                step.build / DOCS: "/run/docs",
                step.build / LICENCES: "/run/licenses",
            },
            fetch="/repo",
            to=(made := step.output(RPM_REPOSITORY.folder)),
        )
        [package] = made.glob("*.rpm")
        digest = hashlib.sha256(package.read_bytes()).hexdigest()
        step.write_facts({package.name: digest[:32], EPOCH: str(epoch)})
        local_repository.sign(step, made, step.output(RPM_REPOSITORY.keys))

    return target(
        name=RPM_REPOSITORY.target,
        build=build,
        code=[_HERE],
        values={"script": script},
        files=(source.SPEC, *source.SOURCES),
        needs=("rpm.freeze", "rpm.docs", inventory.LICENCES_NAME),
        outputs=(RPM_REPOSITORY.folder, RPM_REPOSITORY.keys, FACTS),
        facts=FACTS,
    )


def _packages(folder: Path) -> tuple[Path, ...]:
    """The `__init__.py` of a folder below rpm/ and of those above it, which make them Python packages."""
    return tuple(place / "__init__.py" for place in (folder, *folder.parents) if place.name)


def build_script(version: str, epoch: int, *, release: str, compression: str = _COMPRESSION) -> str:
    """The shell script that makes /repo of the folders mounted below /run. The same input gives the same bytes."""
    names = " ".join(str(path) for path in source.SOURCES)
    defines = {
        "_topdir": "/tmp/rpmbuild",
        "_sourcedir": "/tmp/sources",
        "_rpmdir": "/repo",
        "_build_name_fmt": "%%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm",
        "_binary_payload": compression,
        # That of rpm 6 is 6, which no older rpm reads.
        "_rpmformat": "4",
        "frozen": "/run/frozen",
        "docs": "/run/docs",
        "licenses": "/run/licenses/texts",
        "overlayd_version": version,
        "overlayd_release": release,
    }
    words = " ".join(f"--define '{name} {value}'" for name, value in defines.items())
    return f"""\
export SOURCE_DATE_EPOCH={epoch}
mkdir -p /tmp/sources /repo
cd {container.CHECKOUT}
cp {names} /tmp/sources/
rpmbuild -bb --quiet {words} --define "overlayd_license $(cat /run/licenses/expression)" {source.SPEC}
touch --date=@{epoch} /repo/*.rpm
createrepo_c --quiet --no-database --revision={epoch} --set-timestamp-to-revision --simple-md-filenames /repo
"""


# build-all asks for the RPM itself, although the image `host` needs it: where that image is up to date, the RPM would
# not be made in a new checkout. And for the BPF programs, which the daemon of a checkout loads.
PRODUCT = Product(name="rpm", roles=("builder",), targets=_targets, build_all=(bpf.NAME, RPM_REPOSITORY.target))
