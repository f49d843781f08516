"""The Invoke collection `rpm`: build the package or its BPF programs, fetch its libraries, lint, show manual pages."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from images.bases.local_repository import RPM_REPOSITORY
from images.engine.place import PLACE, ROOT
from pipeline.build import build

_BASE = "build in this base's builder image (invoke images.list); without it the first whose repositories answer"
_FORCE = "build it also when no input changed"
_MIRROR = "where the base's packages come from: URL, or NAME=URL; may be repeated (images/bases/README.md)"


@task(name="build", help={"base": _BASE, "force": _FORCE, "mirror": _MIRROR}, iterable=["mirror"])
def build_package(
    c: Context,  # noqa: ARG001
    base: str | None = None,
    force: bool = False,
    mirror: Iterable[str] | None = None,
) -> None:
    """Build the RPM, in a repository that yum can read: build/rpm/repo."""
    build([RPM_REPOSITORY.target], base=base, force=[RPM_REPOSITORY.target] if force else (), mirror=mirror or ())
    for path in packages():
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 2**20:.1f} MiB")  # noqa: T201


@task(help={"base": _BASE, "force": _FORCE})
def wheelhouse(c: Context, base: str | None = None, force: bool = False) -> None:  # noqa: ARG001
    """Fetch what is frozen from the package index, hashes checked. The one step that needs a network."""
    build(["rpm.wheelhouse"], base=base, force=["rpm.wheelhouse"] if force else ())


@task(name="bpf", help={"base": _BASE, "force": _FORCE})
def compile_bpf(c: Context, base: str | None = None, force: bool = False) -> None:  # noqa: ARG001
    """Compile the BPF programs of the fast path; the daemon of this checkout loads them."""
    build(["rpm.bpf"], base=base, force=["rpm.bpf"] if force else ())


@task
def lint(c: Context) -> None:
    """Run rpmlint over the spec and the built RPM."""
    if shutil.which("rpmlint") is None:
        raise Exit("rpmlint is not installed; `make system` installs what is missing", code=1)
    found = packages()
    if not found:
        raise Exit("there is no RPM yet; invoke rpm.build", code=1)
    config = ROOT / "rpm/rpmlint.toml"
    paths = " ".join(f"'{path}'" for path in (ROOT / "rpm/overlayd.spec", *found))
    # With --strict any finding fails that is not listed with its reason in the configuration.
    done = c.run(f"rpmlint --strict --config '{config}' {paths}", warn=True)
    if done is None or not done.ok:
        raise Exit("rpmlint found something: mend it, or give the reason in rpm/rpmlint.toml", code=1)


@task(help={"page": "overlayd.8 or overlayd.conf.5"})
def man(c: Context, page: str = "overlayd.8") -> None:  # noqa: ARG001
    """Show a manual page as the sources have it now."""
    from rpm import source  # noqa: PLC0415  # `invoke --list` needs none of it
    from rpm.docs import make  # noqa: PLC0415

    found = {Path(place).name: text for place, text in make.pages(source.epoch(ROOT)).items()}
    if page not in found:
        raise Exit(f"no page {page}; there are: {', '.join(found)}", code=1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / page
        path.write_text(found[page])
        # man uses this terminal and its pager, if there are any.
        subprocess.run(["man", "--local-file", path], check=False)


def packages() -> list[Path]:
    """The RPMs that were built."""
    return sorted((PLACE.build / RPM_REPOSITORY.folder).glob("*.rpm"))


namespace = Collection("rpm", build_package, wheelhouse, compile_bpf, lint, man)
