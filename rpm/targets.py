"""The targets that make the RPM: what is fetched, the image that freezes, the program, its pages, the repository.

    rpm.wheelhouse  PyInstaller and what the daemon imports, from the package index, hashes checked
    rpm.freezer     an image: the builder, and all that installed
    rpm.freeze      the program as it goes to /usr/lib/overlayd, where the spec puts it into a folder bin
    rpm.docs        manual pages and shell completion, made from the program's own parser
    rpm.inventory   what the program turned out to be made of, for the RPM's bill of materials (rpm/inventory/)
    rpm.licences    the licence texts of all that, and the RPM's License field
    rpm.build       the RPM in a repository that yum can read

Only the first needs a network. A change in the daemon's code repeats the last five.
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
from rpm import container, source
from rpm.inventory import target as inventory

_HERE = Path(__file__)
FACTS = Path("rpm/facts.json")
FROZEN = Path("rpm/frozen")
DOCS = Path("rpm/docs")
LICENCES = inventory.LICENCES
INSTALLED = "/usr/lib/overlayd"
# The oldest C library that a wheel may ask for is that of the oldest base; pip wants every older name listed too.
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
# Every rpm reads xz, none before EL 8.2 reads zstd; and xz makes the smaller package. Two threads, however many
# processors there are: the bytes depend on it.
_COMPRESSION = "w6T2.xzdio"
_VENV = "/opt/freezer"
# build-python is the builder's name for the base's newest interpreter.
_FREEZE = f"cd {container.CHECKOUT} && build-python -m rpm.freeze.freeze"


def _targets(base: Base) -> tuple[Target, ...]:
    return (
        _wheelhouse(base),
        _freezer(base),
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
                # etcd3 is published as source only; its wheel is built where it is installed.
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
    """Where the fetched packages lie, below the build folder."""
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
        script=f"{_FREEZE} program {container.CHECKOUT}/{source.DAEMON} {_VENV} {INSTALLED} /overlayd",
        mounts={},
        fetch="/overlayd",
        output=FROZEN,
        files=[source.PACKAGE, source.FREEZE, *_packages(source.FREEZE)],
        needs=("rpm.freezer",),
    )


def _docs(base: Base) -> Target:
    # Sets of strings have their order from the seed.
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
    """What makes Python packages of the folders above a folder below rpm/."""
    return tuple(place / "__init__.py" for place in (folder, *folder.parents) if place.name)


def build_script(version: str, epoch: int, *, release: str, compression: str = _COMPRESSION) -> str:
    """The shell script that makes /repo out of what is mounted below /run. The same input gives the same bytes."""
    names = " ".join(str(path) for path in source.SOURCES)
    defines = {
        "_topdir": "/tmp/rpmbuild",
        "_sourcedir": "/tmp/sources",
        "_rpmdir": "/repo",
        "_build_name_fmt": "%%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm",
        "_binary_payload": compression,
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


# build-all asks for the RPM although the image `host` is made of it: in a fresh checkout on a machine that has that
# image, nothing else would ask for the file.
PRODUCT = Product(name="rpm", roles=("builder",), targets=_targets, build_all=(RPM_REPOSITORY.target,))
