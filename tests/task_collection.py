"""The short names: up, down, test, lock, clean. Each does its own set-up and, if it began something, ends it."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from images.engine import docker_images, dockerd, preflight, runner
from images.engine.place import PLACE
from images.engine.progress import report
from pipeline.image_tasks import build_all
from tests import side_by_side
from tests.testbed.cluster import task_collection as cluster

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("daemon", "freeze", "dev")


@task(
    help={
        "backend": "vxlan, host-gw or udp",
        "base": "base image (default: the first whose repositories answer)",
        "underlay": cluster.UNDERLAY_HELP,
    }
)
def up(c: Context, backend: str = "vxlan", base: str | None = None, underlay: str | None = None) -> None:
    """Build what is missing, start a cluster of three hosts, and show that their containers talk."""
    # Before a build of minutes.
    cluster.asked(backend=backend, underlay=underlay)
    preflight.check()
    dockerd.ensure()
    build_all(c, base=base)
    cluster.up(c, backend=backend, base=base, underlay=underlay)
    cluster.show(c)


@task
def down(c: Context) -> None:
    """Remove the cluster, and the dockerd that `up` started."""
    said = dockerd.unreachable()
    if said is None:
        cluster.down(c)
    else:
        dockerd.require_permission(said)
        report(f"no dockerd answers ({said}): there is no cluster to remove")
    if why := dockerd.stop():
        report(why)


@task(
    name="test",
    help={"only": "paths or pytest options (default: all tests)", "all": "also those that are marked slow"},
)
def run_tests(c: Context, only: str = "", all: bool = False) -> None:  # noqa: A002  # an option's name
    """Run the tests: lint and types, unit, kernel, cluster. What it started, it stops."""
    preflight.check()
    which = [] if all else ["-m", "not slow"]
    with dockerd.running():
        build_all(c)
        if only:
            argv = [sys.executable, "-m", "pytest", *which]
            done = c.run(f"{shlex.join(argv)} {only}", warn=True, pty=sys.stdout.isatty())
            well = done is not None and done.ok
        else:
            well = side_by_side.run(which)
    if not well:
        raise Exit("tests failed; what a failed cluster left is in build/clusters", code=1)


@task
def lock(c: Context) -> None:
    """Make the hashed locks in requirements/ anew from pyproject.toml."""
    for name in EXTRAS:
        wanted = "" if name == "daemon" else f"--extra {name}"
        c.run(
            "pip-compile --quiet --upgrade --generate-hashes --allow-unsafe --strip-extras --no-header "
            "--no-emit-index-url --no-emit-find-links --no-emit-trusted-host "
            f"{wanted} --output-file {ROOT}/requirements/{name}.txt {ROOT}/pyproject.toml",
            env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
        )


@task(help={"gone": "also images that Docker keeps for checkouts that are not there (any more)"})
def clean(c: Context, gone: bool = False) -> None:
    """Remove what was built, but not what was fetched. Images keep their names: docker image rm."""
    preflight.check()
    with runner.build_folder_locked(PLACE):
        if dockerd.answers():
            for tag in docker_images.forget(PLACE.owner, gone=gone):
                report(f"removed {tag}")
        for path in PLACE.build.glob("*"):
            # The lock is what we hold.
            if path.name not in ("cache", "lock"):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


namespace = Collection(up, down, run_tests, lock, clean)
