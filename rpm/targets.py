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

from images.bases import own
from images.bases.base import Base
from images.builder import recipe as builder
from images.engine import inputs
from images.engine.annotations import version
from images.engine.containers import ImageConfig
from images.engine.graph import CACHE, EPOCH, Target
from images.engine.step import Step
from rpm import container, source
from rpm.inventory import target as inventory

REPOSITORY = Path("rpm/repo")
FACTS = Path("rpm/facts.json")
# What the metadata of REPOSITORY is checked against.
KEYS = Path("rpm/keys/rpm.asc")
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
_FREEZE = "cd /run && build-python -m rpm.freeze.freeze"


def targets(base: Base) -> tuple[Target, ...]:
    """All of them, on one base."""
    root = source.ROOT
    return (
        _wheelhouse(root, base),
        _freezer(root, base),
        _freeze(root, base),
        _docs(root, base),
        *inventory.targets(base, frozen=FROZEN, wheelhouse=wheelhouse(base), python=f"{_VENV}/bin/python"),
        _build(root, base),
    )


def _wheelhouse(root: Path, base: Base) -> Target:
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
                *("--dest", place, "--requirement", root / source.LOCK),
            ]
        )

    return Target(
        name="rpm.wheelhouse",
        build=build,
        inputs=inputs.of_files(root, [root / source.LOCK]) | inputs.of_values(python=base.python, platforms=_PLATFORMS),
        outputs=(output,),
        network=True,
    )


def wheelhouse(base: Base) -> Path:
    """Where the fetched packages lie, below the build folder."""
    return CACHE / f"wheelhouse-{base.python}"


def _freezer(root: Path, base: Base) -> Target:
    script = f"{_FREEZE} venv /run/wheelhouse /run/{source.LOCK} {_VENV}"

    def build(step: Step) -> None:
        step.run_and_commit(
            base.tag("builder"),
            script,
            ImageConfig(description="Freezes the daemon of overlayd", command=["/bin/sh"]),
            mounts={
                step.build / wheelhouse(base): "/run/wheelhouse",
                root / "rpm": "/run/rpm",
                root / source.LOCK.parent: "/run/requirements",
            },
        )

    return Target(
        name="rpm.freezer",
        build=build,
        inputs=inputs.of_values(script=script) | inputs.of_files(root, [root / source.FREEZE / "freeze.py"]),
        needs=("rpm.wheelhouse", builder.NAME),
        image=base.tag("freezer"),
    )


def _freeze(root: Path, base: Base) -> Target:
    return container.target(
        name="rpm.freeze",
        base=base,
        script=f"{_FREEZE} program /run/daemon {_VENV} {INSTALLED} /overlayd",
        mounts={root / source.DAEMON: "/run/daemon", root / "rpm": "/run/rpm"},
        fetch="/overlayd",
        output=FROZEN,
        files=[*sorted((root / source.PACKAGE).rglob("*.py")), root / source.FREEZE],
        needs=("rpm.freezer",),
    )


def _docs(root: Path, base: Base) -> Target:
    # Sets of strings have their order from the seed.
    variables = f"PYTHONHASHSEED=1 PYTHONPATH=/run/{source.DAEMON} SOURCE_DATE_EPOCH={source.epoch(root)}"
    return container.target(
        name="rpm.docs",
        base=base,
        script=f"cd /run && {variables} {_VENV}/bin/python -m rpm.docs.make /docs",
        mounts={root / source.DAEMON: "/run/daemon", root / "rpm": "/run/rpm"},
        fetch="/docs",
        output=DOCS,
        files=[*sorted((root / source.PACKAGE).rglob("*.py")), root / source.DOCS],
        needs=("rpm.freezer",),
    )


def _build(root: Path, base: Base) -> Target:
    number, epoch = version(root), source.epoch(root)
    script = build_script(number, epoch)

    def build(step: Step) -> None:
        container.make(
            step,
            base.tag("freezer"),
            script,
            mounts={
                step.build / FROZEN: "/run/frozen",
                step.build / DOCS: "/run/docs",
                step.build / LICENCES: "/run/licenses",
                root / "rpm": "/run/rpm",
                root / "LICENSE": "/run/LICENSE",
            },
            fetch="/repo",
            to=(made := step.output(REPOSITORY)),
        )
        [package] = made.glob("*.rpm")
        digest = hashlib.sha256(package.read_bytes()).hexdigest()
        step.tell({package.name: digest[:32], EPOCH: str(epoch)})
        own.sign(step, made, step.output(KEYS))

    return Target(
        name="rpm.build",
        build=build,
        inputs=inputs.of_values(script=script)
        | inputs.of_files(root, [root / path for path in (source.SPEC, *source.SOURCES)]),
        needs=("rpm.freeze", "rpm.docs", inventory.LICENCES_NAME),
        outputs=(REPOSITORY, KEYS, FACTS),
        facts=FACTS,
    )


def build_script(version: str, epoch: int, *, release: int = 1, compression: str = _COMPRESSION) -> str:
    """The shell script that makes /repo out of what is mounted below /run. The same input gives the same bytes."""
    names = " ".join(f"/run/{path}" for path in source.SOURCES)
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
        "build_number": str(release),
    }
    words = " ".join(f"--define '{name} {value}'" for name, value in defines.items())
    return f"""\
export SOURCE_DATE_EPOCH={epoch}
mkdir -p /tmp/sources /repo
cp {names} /tmp/sources/
rpmbuild -bb --quiet {words} --define "overlayd_license $(cat /run/licenses/expression)" /run/{source.SPEC}
touch --date=@{epoch} /repo/*.rpm
createrepo_c --quiet --no-database --revision={epoch} --set-timestamp-to-revision --simple-md-filenames /repo
"""
